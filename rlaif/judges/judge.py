"""One judgment: what a judge is shown, and what its answer means."""

import json
from dataclasses import dataclass
from typing import Any

from rlaif.engines import EngineConfig
from rlaif.engines.base import Completion, Request, Sample
from rlaif.judges.config import PairwiseConfig, PointwiseConfig, ProgramConfig
from rlaif.judges.parse import read_label
from rlaif.judges.programs import run_check
from rlaif.prompts import Template, conversation_text
from rlaif.types import (
    Judgment,
    Message,
    Messages,
    NoOutcome,
    Outcome,
    Preferred,
    Response,
    Sampling,
    Score,
    Tie,
    content_hash,
)

TIE = "tie"
CHANGES_ANSWERS = {"model", "engine", "constraint", "extra_body", "dtype", "max_model_len", "engine_args"}
"""The keys of an engine's configuration that can change what a judge answers."""


@dataclass(frozen=True)
class Item:
    """What is judged: one response, or a comparison of two responses to one prompt."""

    responses: tuple[Response, ...]

    @property
    def id(self) -> str:
        return content_hash([(response.id, response.text) for response in self.responses])


@dataclass(frozen=True)
class LLMJudge:
    """A loaded LLM judge: its configuration, its template and the model that answers."""

    name: str
    config: PairwiseConfig | PointwiseConfig
    template: Template
    engine: EngineConfig
    weight: float
    votes: int

    @property
    def is_pairwise(self) -> bool:
        return isinstance(self.config, PairwiseConfig)


@dataclass(frozen=True)
class ProgramJudge:
    """A loaded program judge."""

    name: str
    config: ProgramConfig
    weight: float


def shown_order(item: Item, vote: int) -> tuple[Response, ...]:
    """The responses in the order of this vote: orders alternate, and the id of the comparison decides which is first."""
    starts_swapped = int(item.id, 16) % 2 == 1
    swapped = len(item.responses) == 2 and starts_swapped != (vote % 2 == 1)
    return item.responses[::-1] if swapped else item.responses


def judge_request(judge: LLMJudge, item: Item, vote: int, endpoint: str | None) -> Request:
    """The request of one vote; its key is the judgment's id, which knows everything that could change the answer."""
    shown = shown_order(item, vote)
    messages = _judge_messages(judge, shown)
    key = content_hash(
        item.id,
        judge.name,
        [message.as_dict() for message in messages],
        judge.engine.model_dump(mode="json", include=CHANGES_ANSWERS),
        endpoint,
        judge.config.reading,
        judge.config.choices,
        (judge.config.temperature, judge.config.top_p, judge.config.max_tokens, judge.config.seed),
        vote,
        [response.id for response in shown],
        length=24,
    )
    sampling = Sampling(
        temperature=judge.config.temperature,
        top_p=judge.config.top_p,
        max_tokens=judge.config.max_tokens,
        seed=judge.config.seed,
    )
    choices = judge.config.choices if judge.config.reading == "auto" else None
    return Request(key=key, messages=messages, sampling=sampling, choices=choices)


def read_judgment(judge: LLMJudge, item: Item, vote: int, endpoint: str | None, completion: Completion) -> Judgment:
    """The answer to a vote's request as a judgment."""
    shown = shown_order(item, vote)
    (sample,) = completion.samples
    outcome, reason, probabilities = _read(judge, shown, sample)
    return Judgment(
        id=completion.key,
        comparison_id=item.id,
        judge=judge.name,
        model=judge.engine.model,
        endpoint=endpoint,
        template_hash=content_hash(judge.template.source, judge.config.system),
        vote=vote,
        shown=tuple(response.id for response in shown),
        raw=sample.text,
        outcome=outcome,
        reason=reason,
        probabilities=probabilities,
        latency_seconds=completion.latency_seconds,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=sample.completion_tokens,
    )


def program_judgment(judge: ProgramJudge, item: Item) -> Judgment:
    """The checks run on one response; a check that can not be decided leaves the judgment without an outcome."""
    (response,) = item.responses
    passed = {f"{i}:{check.check}": run_check(check, response) for i, check in enumerate(judge.config.checks)}
    known = [value for value in passed.values() if value is not None]
    outcome: Outcome | None = None
    if len(known) == len(passed):
        share = sum(known) / len(known)
        outcome = Score(score=share if judge.config.score == "mean" else float(share == 1))
    config_hash = content_hash(judge.config.model_dump(mode="json"))
    return Judgment(
        id=content_hash(item.id, judge.name, config_hash, response.finish_reason, length=24),
        comparison_id=item.id,
        judge=judge.name,
        model="program",
        template_hash=config_hash,
        vote=0,
        shown=(response.id,),
        raw=json.dumps(passed),
        outcome=outcome,
        reason=None if outcome is not None else "unparsed",
    )


def _judge_messages(judge: LLMJudge, shown: tuple[Response, ...]) -> Messages:
    prompt = shown[0].prompt
    values: dict[str, Any] = {
        "prompt": conversation_text(prompt.messages),
        "messages": [message.as_dict() for message in prompt.messages],
        "metadata": prompt.metadata,
        "labels": judge.config.choices,
    }
    if isinstance(judge.config, PairwiseConfig):
        values |= {"response_a": shown[0].text, "response_b": shown[1].text}
    else:
        values |= {"response": shown[0].text, "scale": judge.config.scale}
    system = [Message(role="system", content=judge.config.system)] if judge.config.system else []
    return (*system, Message(role="user", content=judge.template.render(values)))


def _read(
    judge: LLMJudge, shown: tuple[Response, ...], sample: Sample
) -> tuple[Outcome | None, NoOutcome | None, dict[str, float] | None]:
    if sample.choice_probabilities is not None:
        return _read_probabilities(judge.config, shown, sample.choice_probabilities)
    label, reason = read_label(sample.text, judge.config.choices, truncated=sample.finish_reason == "length")
    if label is None:
        return None, reason, None
    if isinstance(judge.config, PointwiseConfig):
        return Score(score=_normalise(float(label), judge.config.scale)), None, None
    return _preference(_meaning(judge.config, shown)[label]), None, None


def _read_probabilities(
    config: PairwiseConfig | PointwiseConfig, shown: tuple[Response, ...], by_label: dict[str, float]
) -> tuple[Outcome, None, dict[str, float]]:
    """Pairwise: the most probable side, equal ones a tie. Pointwise: the expected value of the scale."""
    if isinstance(config, PointwiseConfig):
        expected = sum(int(label) * probability for label, probability in by_label.items())
        return Score(score=_normalise(expected, config.scale)), None, by_label
    meaning = _meaning(config, shown)
    probabilities = {meaning[label]: probability for label, probability in by_label.items()}
    highest = max(probabilities.values())
    winners = [who for who, probability in probabilities.items() if probability == highest]
    return _preference(winners[0] if len(winners) == 1 else TIE), None, probabilities


def _meaning(config: PairwiseConfig, shown: tuple[Response, ...]) -> dict[str, str]:
    """What each label stands for: a response id, or 'tie'."""
    meaning = {label: response.id for label, response in zip(config.labels, shown, strict=True)}
    return meaning if config.tie is None else {**meaning, config.tie: TIE}


def _preference(who: str) -> Outcome:
    return Tie() if who == TIE else Preferred(response_id=who)


def _normalise(score: float, scale: tuple[int, int]) -> float:
    return min(1.0, max(0.0, (score - scale[0]) / (scale[1] - scale[0])))
