"""Votes to margins, margins to a verdict: pure functions of judgments, in which order of arrival never counts."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from rlaif.judges.config import Aggregate
from rlaif.types import JudgeTally, Judgment, Outcome, Preferred, Ranking, Score, Tie

EQUAL = 1e-9
"""Margins nearer to zero than this are ties (rounding of probabilities)."""


class Voice(NamedTuple):
    """What one judge says of one comparison: its margin in [-1, 1], and its weight, negative for one that is inverted."""

    margin: float
    weight: float


def vote_margin(judgment: Judgment, first: str, second: str) -> float | None:
    """In [-1, 1], positive for `first`: p(first) - p(second) with log-probs, else the strength of the side; None if unread."""
    if judgment.outcome is None:
        return None
    if judgment.probabilities is not None:
        return judgment.probabilities.get(first, 0.0) - judgment.probabilities.get(second, 0.0)
    if isinstance(judgment.outcome, Preferred):
        strength = judgment.outcome.strength
        return strength if judgment.outcome.response_id == first else -strength
    return 0.0


def pairwise_tally(
    judge: str, model: str, weight: float, votes: Sequence[Judgment], first: str, second: str
) -> JudgeTally:
    """One judge on one comparison. Its margin is the mean of its mean in each order, so position never decides."""
    by_order: dict[str, list[float]] = {first: [], second: []}
    first_picks = decided = 0
    for judgment in votes:
        margin = vote_margin(judgment, first, second)
        if margin is not None:
            by_order[judgment.shown[0]].append(margin)
        if isinstance(judgment.outcome, Preferred):
            decided += 1
            first_picks += judgment.outcome.response_id == judgment.shown[0]
    means = [fmean(margins) for margins in by_order.values() if margins]
    consistent = sign(means[0]) == sign(means[1]) if len(means) == 2 else None
    counted = sum(len(margins) for margins in by_order.values())
    return JudgeTally(
        judge=judge,
        model=model,
        weight=weight,
        margin=fmean(means) if means else None,
        asked=len(votes),
        counted=counted,
        unparsed=len(votes) - counted,
        order_consistent=consistent,
        first_picks=first_picks,
        decided=decided,
        judgments=tuple(judgment.id for judgment in votes),
    )


def label_tally(
    judge: str, model: str, weight: float, votes: Sequence[Judgment], first: str, second: str
) -> JudgeTally:
    """People on one comparison: the plain mean of their labels, since nobody knows in which order they saw the two."""
    margins = [margin for vote in votes if (margin := vote_margin(vote, first, second)) is not None]
    return JudgeTally(
        judge=judge,
        model=model,
        weight=weight,
        margin=fmean(margins) if margins else None,
        asked=len(votes),
        counted=len(margins),
        unparsed=len(votes) - len(margins),
        judgments=tuple(vote.id for vote in votes),
    )


def mean_score(votes: Sequence[Judgment]) -> float | None:
    """The mean score in [0, 1] of a pointwise judge's votes on one response; None without any outcome."""
    scores = [judgment.outcome.score for judgment in votes if isinstance(judgment.outcome, Score)]
    return fmean(scores) if scores else None


def pointwise_tally(
    judge: str,
    model: str,
    weight: float,
    votes: Sequence[Sequence[Judgment]],
    scores: Sequence[float | None],
    margin: float | None,
    questions: dict[str, tuple[float | None, ...]] | None = None,
) -> JudgeTally:
    """One judge that scores, on one response or on the two of a comparison: its votes and its score of each."""
    every = [judgment for one in votes for judgment in one]
    counted = sum(judgment.outcome is not None for judgment in every)
    return JudgeTally(
        judge=judge,
        model=model,
        weight=weight,
        margin=margin,
        score=scores[0] if len(scores) == 1 else None,
        scores=(scores[0], scores[1]) if len(scores) == 2 else None,
        questions=questions,
        asked=len(every),
        counted=counted,
        unparsed=len(every) - counted,
        judgments=tuple(judgment.id for judgment in every),
    )


def score_margin(scores: Sequence[float | None]) -> float | None:
    """The difference of two scores; None for one response, or where one is not known."""
    if len(scores) != 2 or scores[0] is None or scores[1] is None:
        return None
    return scores[0] - scores[1]


def as_comparison(judgment: Judgment, first: str, second: str) -> Judgment:
    """What a ranking says of two of its responses: the same judgment, as if only these had been shown."""
    shown = tuple(each for each in judgment.shown if each in (first, second))
    outcome: Outcome | None = None
    if isinstance(judgment.outcome, Ranking):
        places = {each: place for place, tier in enumerate(judgment.outcome.tiers) for each in tier}
        better = first if places[first] < places[second] else second
        outcome = Tie() if places[first] == places[second] else Preferred(response_id=better)
    return judgment.model_copy(update={"shown": shown, "outcome": outcome})


def ensemble_margin(tallies: Sequence[JudgeTally], aggregate: Aggregate) -> float | None:
    """The judges' margins as one, over the judges that have a margin and a weight."""
    return combine([Voice(tally.margin, tally.weight) for tally in tallies if tally.margin is not None], aggregate)


def combine(voices: Sequence[Voice], aggregate: Aggregate) -> float | None:
    """One margin in [-1, 1] of several; None without any voice of weight.

    majority: the mean sign, every judge the same say. weighted: the weighted mean sign. mean: the weighted mean margin.
    median: the weighted median margin (the mean of the two middle ones where the weight splits evenly).
    dawid-skene: weights are log-odds of being right, and the margin is 2p - 1 with p the probability of the first side
    (Dawid & Skene 1979, one coin per judge). bradley-terry: the mean, from which a prompt's responses are fitted later.
    """
    voiced = [Voice(margin if weight > 0 else -margin, abs(weight)) for margin, weight in voices if weight != 0]
    if not voiced:
        return None
    total = sum(weight for _, weight in voiced)
    match aggregate:
        case "majority":
            return fmean(sign(margin) for margin, _ in voiced)
        case "weighted":
            return sum(sign(margin) * weight for margin, weight in voiced) / total
        case "median":
            return _weighted_median(voiced)
        case "dawid-skene":
            return math.tanh(sum(sign(margin) * weight for margin, weight in voiced) / 2)
        case "mean" | "bradley-terry":
            return sum(margin * weight for margin, weight in voiced) / total


def _weighted_median(voices: Sequence[Voice]) -> float:
    ordered = sorted(voices)
    half = sum(weight for _, weight in ordered) / 2
    passed = 0.0
    for place, (margin, weight) in enumerate(ordered):
        passed += weight
        if abs(passed - half) < EQUAL * half:
            return (margin + ordered[place + 1].margin) / 2
        if passed > half:
            return margin
    raise AssertionError("the weights pass their half")


def ensemble_score(tallies: Sequence[JudgeTally]) -> float | None:
    """The weighted mean score of one response, over the judges that gave one."""
    voiced = [(tally.score, tally.weight) for tally in tallies if tally.score is not None and tally.weight > 0]
    return sum(score * weight for score, weight in voiced) / sum(weight for _, weight in voiced) if voiced else None


def outcome_of_margin(margin: float | None, first: str, second: str) -> Outcome | None:
    """The preferred response, a tie at zero, None without a margin."""
    if margin is None:
        return None
    side = sign(margin)
    return Tie() if side == 0 else Preferred(response_id=first if side > 0 else second)


def sign(value: float) -> int:
    """-1, 0 or 1, where 0 is a tie up to rounding."""
    return 0 if abs(value) < EQUAL else (1 if value > 0 else -1)
