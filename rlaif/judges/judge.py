"""One judgment: what a judge is shown, and what its answer means."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from rlaif.engines import EngineConfig
from rlaif.engines.base import Completion, Request, Sample
from rlaif.judges.config import PairwiseConfig, PointwiseConfig, ProgramConfig
from rlaif.judges.defences import defended, own_control_tokens
from rlaif.judges.programs import Finding, examine
from rlaif.judges.reading import (
    normalise,
    outcome_of,
    parts_of,
    read,
    repair_messages,
    should_repair,
    verdict_syntax,
)
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

Number = TypeVar("Number", int, float)
TIE = "tie"
REPAIR_MARK = "\n\n[answer to the further question]\n"
"""Stands in `raw` between a judge's first answer and the one to the further question."""
CHANGES_ANSWERS = {"model", "engine", "constraint", "extra_body", "dtype", "max_model_len", "engine_args"}
"""The keys of an engine's configuration that can change what a judge answers."""


@dataclass(frozen=True)
class Item:
    """What is judged: one response, or a comparison of two responses to one prompt."""

    responses: tuple[Response, ...]

    @cached_property
    def id(self) -> str:
        return content_hash([(response.id, response.text) for response in self.responses])


@dataclass(frozen=True)
class LLMJudge:
    """A loaded LLM judge: its configuration, its templates and the model that answers."""

    name: str
    config: PairwiseConfig | PointwiseConfig
    templates: tuple[Template, ...]
    """The prompt and its variants."""
    engine: EngineConfig
    weight: float
    votes: int
    cost: float = 1.0
    source: str = ""
    """The judge's file, or its shipped name."""

    @property
    def is_pairwise(self) -> bool:
        return isinstance(self.config, PairwiseConfig)

    def template(self, vote: int) -> Template:
        """What a vote is asked with: every order with the first variant, then every order with the next."""
        return self.templates[vote // (2 if self.is_pairwise else 1) % len(self.templates)]


@dataclass(frozen=True)
class ProgramJudge:
    """A loaded program judge."""

    name: str
    config: ProgramConfig
    weight: float
    source: str = ""
    """The judge's file, or its shipped name."""

    @cached_property
    def packages(self) -> list[str]:
        """The installed packages, with versions, that could change what the checks find."""
        return sorted({package for check in self.config.checks for package in check.provenance()})

    @cached_property
    def template_hash(self) -> str:
        return content_hash(self.config.model_dump(mode="json"), self.packages)


def shown_order(item: Item, vote: int) -> tuple[Response, ...]:
    """The responses in the order of this vote: orders alternate, and the id of the comparison decides which is first."""
    starts_swapped = int(item.id, 16) % 2 == 1
    swapped = len(item.responses) == 2 and starts_swapped != (vote % 2 == 1)
    return item.responses[::-1] if swapped else item.responses


def judge_request(judge: LLMJudge, item: Item, vote: int, endpoint: str | None) -> Request:
    """The request of one vote; its key is the judgment's id, which knows everything that could change the answer."""
    shown = shown_order(item, vote)
    messages = _judge_messages(judge, shown, judge.template(vote))
    key = content_hash(
        item.id,
        judge.name,
        [message.as_dict() for message in messages],
        judge.engine.model_dump(mode="json", include=CHANGES_ANSWERS),
        endpoint,
        (judge.config.reading, judge.config.format, judge.config.mode, judge.config.repair),
        (judge.config.choices, judge.config.scale),
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
    return Request(key=key, messages=messages, sampling=sampling, choices=judge.config.constrained_choices)


def repair_request(judge: LLMJudge, request: Request, judgment: Judgment) -> Request | None:
    """The one further question after a vote whose answer could not be read; None if there is nothing to ask."""
    if not judge.config.repair or not should_repair(judgment.reason, judgment.raw):
        return None
    messages = repair_messages(request.messages, judgment.raw, judge.config.reader, judge.config.offer)
    key = content_hash(request.key, "repair", [message.as_dict() for message in messages], length=24)
    return request.model_copy(update={"key": key, "messages": messages})


def repaired_judgment(judge: LLMJudge, item: Item, judgment: Judgment, completion: Completion) -> Judgment:
    """The judgment with what the answer to the further question says; its raw text holds both answers."""
    shown = shown_order(item, judgment.vote)
    (sample,) = completion.samples
    outcome, reason, probabilities, parts = _read(judge, shown, sample)
    return judgment.model_copy(
        update={
            "id": completion.key,
            "raw": f"{judgment.raw}{REPAIR_MARK}{sample.text}",
            "outcome": outcome,
            "reason": reason,
            "probabilities": probabilities,
            "parts": parts,
            "latency_seconds": _sum(judgment.latency_seconds, completion.latency_seconds),
            "prompt_tokens": _sum(judgment.prompt_tokens, completion.prompt_tokens),
            "completion_tokens": _sum(judgment.completion_tokens, sample.completion_tokens),
        }
    )


def read_judgment(judge: LLMJudge, item: Item, vote: int, endpoint: str | None, completion: Completion) -> Judgment:
    """The answer to a vote's request as a judgment."""
    shown = shown_order(item, vote)
    (sample,) = completion.samples
    outcome, reason, probabilities, parts = _read(judge, shown, sample)
    return Judgment(
        id=completion.key,
        comparison_id=item.id,
        judge=judge.name,
        model=judge.engine.model,
        endpoint=endpoint,
        template_hash=content_hash(judge.template(vote).source, judge.config.system),
        vote=vote,
        shown=tuple(response.id for response in shown),
        raw=sample.text,
        outcome=outcome,
        reason=reason,
        probabilities=probabilities,
        parts=parts,
        flags=_flags(judge, shown),
        latency_seconds=completion.latency_seconds,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=sample.completion_tokens,
    )


def _flags(judge: LLMJudge, shown: tuple[Response, ...]) -> tuple[str, ...]:
    """The shown responses that hold what looks like a verdict of this judge: it may take it for its own."""
    own = [judge.config.reader]
    return tuple(f"verdict-syntax:{response.id}" for response in shown if verdict_syntax(response.text, own))


def program_judgment(judge: ProgramJudge, item: Item) -> Judgment:
    """The checks run on one response; a check that can not be decided leaves the judgment without an outcome."""
    (response,) = item.responses
    findings = examine(judge.config.checks, response)
    values = {name: finding.value for name, finding in findings.items()}
    known = (response.finish_reason, response.prompt.metadata)
    return Judgment(
        id=content_hash(item.id, judge.name, judge.template_hash, known, length=24),
        comparison_id=item.id,
        judge=judge.name,
        model="program",
        template_hash=judge.template_hash,
        vote=0,
        shown=(response.id,),
        raw=_program_raw(judge, findings),
        outcome=(outcome := _program_outcome(judge.config, list(values.values()))),
        reason=None if outcome is not None else "undecided",
        parts={name: None if value is None else float(value) for name, value in values.items()},
    )


def _program_outcome(config: ProgramConfig, values: list[bool | float | None]) -> Score | None:
    """The share that passes, or whether all do; None if any is not known."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    share = sum(known) / len(known)
    return Score(score=share if config.score == "mean" else float(share == 1))


def _program_raw(judge: ProgramJudge, findings: dict[str, Finding]) -> str:
    """The findings as JSON, each with why, and the installed packages that had a part in them."""
    found = {name: {"passes": finding.value, "why": finding.detail} for name, finding in findings.items()}
    packages = {"packages": judge.packages} if judge.packages else {}
    text = json.dumps({**found, **packages}, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # half a character could not be written to a file


def _judge_messages(judge: LLMJudge, shown: tuple[Response, ...], template: Template) -> Messages:
    values: dict[str, Any] = {
        **_shown_data(judge, shown),
        "labels": judge.config.choices,
        "fences": judge.config.fences,
    }
    if judge.config.scale is not None:
        values["scale"] = judge.config.scale
    system = [Message(role="system", content=judge.config.system)] if judge.config.system else []
    return (*system, Message(role="user", content=template.render(values, row=f"prompt {shown[0].prompt.id}")))


def _shown_data(judge: LLMJudge, shown: tuple[Response, ...]) -> dict[str, Any]:
    """What others wrote, prompts and responses, as a template gets it: with the judge's defences."""
    prompt = shown[0].prompt
    names = ("response_a", "response_b") if isinstance(judge.config, PairwiseConfig) else ("response",)
    data: dict[str, Any] = defended(
        {
            "prompt": conversation_text(prompt.messages),
            "messages": [message.as_dict() for message in prompt.messages],
            "metadata": prompt.metadata,
            **{name: response.text for name, response in zip(names, shown, strict=True)},
        },
        fences=judge.config.fences,
        escape=judge.config.escape_control_tokens,
        own=own_control_tokens(judge.engine.model),
    )
    for message, turn in zip(prompt.messages, data["messages"], strict=True):
        turn["role"] = message.role  # one of the known roles, so no data
    return data


Read = tuple[Outcome | None, NoOutcome | None, dict[str, float] | None, dict[str, float | None] | None]
"""Outcome, why there is none, probabilities, parts: as in a Judgment."""


def _read(judge: LLMJudge, shown: tuple[Response, ...], sample: Sample) -> Read:
    config = judge.config
    if sample.choice_probabilities is not None:
        return (*_read_probabilities(config, shown, sample.choice_probabilities), None)
    truncated = sample.finish_reason == "length"
    meaning, reason = read(sample.text, config.reader, config.offer, config.mode, truncated=truncated)
    if meaning is None:
        return None, reason, None, None
    ids = [response.id for response in shown]
    outcome = outcome_of(meaning, ids, config.scale, config.reader.tie_within)
    parts = parts_of(meaning, ids) if judge.is_pairwise else None
    return outcome, None if outcome is not None else "unparsed", None, parts


def _read_probabilities(
    config: PairwiseConfig | PointwiseConfig, shown: tuple[Response, ...], by_label: dict[str, float]
) -> tuple[Outcome, None, dict[str, float]]:
    """Pairwise: the most probable side, equal ones a tie. Pointwise: the expected value of the scale."""
    if isinstance(config, PointwiseConfig):
        expected = sum(int(label) * probability for label, probability in by_label.items())
        return Score(score=normalise(expected, config.scale)), None, by_label
    meaning = _meaning(config, shown)
    probabilities = {meaning[label]: probability for label, probability in by_label.items()}
    highest = max(probabilities.values())
    winners = [who for who, probability in probabilities.items() if probability == highest]
    return _preference(winners[0] if len(winners) == 1 else TIE), None, probabilities


def _meaning(config: PairwiseConfig, shown: tuple[Response, ...]) -> dict[str, str]:
    """What each choice stands for: a response id, or 'tie'."""
    meaning = {label: response.id for label, response in zip(config.labels, shown, strict=True)}
    return meaning if config.tie is None else {**meaning, config.tie: TIE}


def _preference(who: str) -> Outcome:
    return Tie() if who == TIE else Preferred(response_id=who)


def _sum(first: Number | None, second: Number | None) -> Number | None:
    return None if first is None or second is None else first + second
