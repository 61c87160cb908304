"""Groups: a prompt with its responses and their rewards, and what the journal keeps of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlaif.training.online.samples import Sampled
from rlaif.types import JournalRecord, Prompt, Record, Response, Sampling, content_hash


@dataclass(frozen=True)
class Answer:
    """One response with its rewards.

    values: by source, None where it could not say; reasons: why not. reward: the weighted sum, None if any part is missing:
    then the response is not learnt from. by_opponent: whether somebody else than the policy gave it.
    """

    id: str
    text: str
    sampled: Sampled
    values: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    reward: float | None = None
    by_opponent: bool = False


@dataclass(frozen=True)
class Group:
    """A prompt, by its position in the stream and its index among the rows, with its responses."""

    position: int
    index: int
    answers: tuple[Answer, ...]
    policy_step: int = 0
    """After how many optimiser steps the policy was that gave them."""

    @property
    def rewards(self) -> list[float]:
        """Of the responses that have one."""
        return [answer.reward for answer in self.answers if answer.reward is not None]

    @property
    def teaches(self) -> bool:
        """Whether its rewards differ, so that some responses are better than others."""
        return len(set(self.rewards)) > 1


class SampledRecord(Record):
    """A response as it was sampled."""

    text: str
    ids: tuple[int, ...]
    logps: tuple[float, ...]
    stopped: bool
    by_opponent: bool = False


class GroupRecord(JournalRecord):
    """The responses to one prompt of a rollout, as they were sampled. id: the prompt's position. policy_step: after how many
    optimiser steps the policy was."""

    prompt_id: str
    policy_step: int
    responses: tuple[SampledRecord, ...]


class RewardRecord(JournalRecord):
    """The rewards of the same responses. values: by source; reasons: why a source gave none."""

    values: tuple[dict[str, float | None], ...]
    reasons: tuple[dict[str, str], ...]


def response_of(
    prompt: Prompt,
    position: int,
    number: int,
    record: SampledRecord,
    model: str,
    sampling: Sampling,
    engine: str,
    step: int,
) -> Response:
    """A sampled response as judges see it. Its id is of this very response: another text, or policy, has another."""
    return Response(
        id=content_hash(prompt.id, position, number, record.ids, step),
        prompt=prompt,
        sample_index=number,
        messages=({"role": "assistant", "content": record.text},),
        model=model,
        engine=engine,
        sampling=sampling,
        finish_reason="stop" if record.stopped else "length",
        completion_tokens=len(record.ids),
    )


def group_of(
    position: int, index: int, samples: GroupRecord, rewards: RewardRecord, weights: Mapping[str, float]
) -> Group:
    """A group from its records. weights: of each source, in the total."""
    answers = [
        Answer(
            id=f"{samples.prompt_id}:{position}:{number}",
            text=record.text,
            sampled=Sampled(record.ids, record.logps, record.stopped),
            values=values,
            reasons=reasons,
            reward=_total(values, weights),
            by_opponent=record.by_opponent,
        )
        for number, (record, values, reasons) in enumerate(
            zip(samples.responses, rewards.values, rewards.reasons, strict=True)
        )
    ]
    return Group(position, index, tuple(answers), samples.policy_step)


def _total(values: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    parts = [(values.get(name), weight) for name, weight in weights.items()]
    known = [value * weight for value, weight in parts if value is not None]
    return sum(known) if parts and len(known) == len(parts) else None


def reward_columns(answers: Sequence[Answer], names: Sequence[str]) -> list[list[float]]:
    """The rewards (B, R) of responses that have all of them."""
    return [[float(answer.values[name] or 0.0) for name in names] for answer in answers]
