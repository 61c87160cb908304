"""What a judge's answer means: a completion as a Judgment."""

from functools import lru_cache
from typing import TypeVar

from rlaif.engines.base import Completion, Sample
from rlaif.judges.config import AnyLLMConfig, ChecklistConfig, PairwiseConfig, PointwiseConfig
from rlaif.judges.judge import Item, LLMJudge, asking, shown_order
from rlaif.judges.reading import Choice, normalise, outcome_of, parts_of, read, verdict_syntax
from rlaif.judges.request import scale_of
from rlaif.types import Judgment, NoOutcome, Outcome, Preferred, Response, Score, Tie, content_hash

Number = TypeVar("Number", int, float)
TIE = "tie"
REPAIR_MARK = "\n\n[answer to the further question]\n"
"""Stands in `raw` between a judge's first answer and the one to the further question."""


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
    how = asking(judge, item, vote)
    (sample,) = completion.samples
    outcome, reason, probabilities, parts = _read(judge, how.shown, sample)
    return Judgment(
        id=completion.key,
        comparison_id=item.id,
        judge=judge.name,
        model=judge.engine.model,
        endpoint=endpoint,
        template_hash=_template_hash(how.template.source, judge.config.system),
        vote=vote,
        shown=tuple(response.id for response in how.shown),
        question=how.question.name if how.question else None,
        raw=sample.text,
        outcome=outcome,
        reason=reason,
        probabilities=probabilities,
        parts=parts,
        flags=_flags(judge, how.shown),
        latency_seconds=completion.latency_seconds,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=sample.completion_tokens,
    )


@lru_cache(maxsize=64)
def _template_hash(source: str, system: str | None) -> str:
    return content_hash(source, system)


def _flags(judge: LLMJudge, shown: tuple[Response, ...]) -> tuple[str, ...]:
    """The shown responses that hold what looks like a verdict of this judge: it may take it for its own."""
    own = [judge.config.reader]
    return tuple(f"verdict-syntax:{response.id}" for response in shown if verdict_syntax(response.text, own))


Read = tuple[Outcome | None, NoOutcome | None, dict[str, float] | None, dict[str, float | None] | None]
"""Outcome, why there is none, probabilities, parts: as in a Judgment."""


def _read(judge: LLMJudge, shown: tuple[Response, ...], sample: Sample) -> Read:
    config = judge.config
    if sample.choice_probabilities is not None:
        return (*_read_probabilities(config, shown, sample.choice_probabilities), None)
    truncated = sample.finish_reason == "length"
    meaning, reason = read(sample.text, config.reader, config.offer(len(shown)), config.mode, truncated=truncated)
    if meaning is None:
        return None, reason, None, None
    if isinstance(config, ChecklistConfig):
        assert isinstance(meaning, Choice), "yes and no are labels"
        return Score(score=float(meaning.position == 0)), None, None, None
    ids = [response.id for response in shown]
    outcome = outcome_of(meaning, ids, scale_of(config), config.reader.tie_within)
    parts = parts_of(meaning, ids) if judge.is_pairwise else None
    return outcome, None if outcome is not None else "unparsed", None, parts


def _read_probabilities(
    config: AnyLLMConfig, shown: tuple[Response, ...], by_label: dict[str, float]
) -> tuple[Outcome, None, dict[str, float]]:
    """Pairwise: the most probable side, equal ones a tie. Pointwise: the expected value of the scale; a checklist's item:
    the probability of yes."""
    if isinstance(config, ChecklistConfig):
        return Score(score=min(1.0, by_label[config.labels[0]])), None, by_label
    if isinstance(config, PointwiseConfig):
        expected = sum(int(label) * probability for label, probability in by_label.items())
        return Score(score=normalise(expected, config.scale)), None, by_label
    assert isinstance(config, PairwiseConfig), "a ranking is not a single label"
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
