"""What can be said of a judge from its votes alone: how often it picks the first answer, contradicts itself, says nothing."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rlaif.types import Judgment, Preferred, Score, Verdict


@dataclass
class JudgeStats:
    """Counts over all verdicts of one judge; rates are None without a base."""

    judge: str
    model: str
    weight: float
    asked: int = 0
    counted: int = 0
    unparsed: int = 0
    first_picks: int = 0
    decided: int = 0
    both_orders: int = 0
    consistent: int = 0
    compared: int = 0
    agreed: int = 0
    score_sum: float = 0.0
    scored: int = 0

    @property
    def first_pick_rate(self) -> float | None:
        """Share of the votes for one side that went to the response shown first; 0.5 is unbiased."""
        return self.first_picks / self.decided if self.decided else None

    @property
    def order_consistency(self) -> float | None:
        """Share of comparisons seen in both orders in which both orders gave the same outcome."""
        return self.consistent / self.both_orders if self.both_orders else None

    @property
    def agreement(self) -> float | None:
        """Share of the decided verdicts whose side this judge's margin took (a zero margin takes none)."""
        return self.agreed / self.compared if self.compared else None

    @property
    def mean_score(self) -> float | None:
        return self.score_sum / self.scored if self.scored else None

    def as_dict(self) -> dict[str, Any]:
        rates = ("first_pick_rate", "order_consistency", "agreement", "mean_score")
        return {**asdict(self), **{rate: getattr(self, rate) for rate in rates}}


def judge_stats(verdicts: Iterable[Verdict], judgments: Iterable[Judgment]) -> list[JudgeStats]:
    """The statistics of each judge, in the order of the ensemble: votes from the judgments, the rest from the verdicts."""
    stats: dict[str, JudgeStats] = {}
    for verdict in verdicts:
        for tally in verdict.judges:
            entry = stats.setdefault(tally.judge, JudgeStats(tally.judge, tally.model, tally.weight))
            if tally.order_consistent is not None:
                entry.both_orders += 1
                entry.consistent += tally.order_consistent
            if verdict.margin and tally.margin is not None:
                entry.compared += 1
                entry.agreed += tally.margin * verdict.margin > 0
    for judgment in judgments:
        if judgment.judge in stats:
            _count(stats[judgment.judge], judgment)
    return list(stats.values())


def _count(entry: JudgeStats, judgment: Judgment) -> None:
    entry.asked += 1
    entry.counted += judgment.outcome is not None
    entry.unparsed += judgment.outcome is None
    if isinstance(judgment.outcome, Preferred):
        entry.decided += 1
        entry.first_picks += judgment.outcome.response_id == judgment.shown[0]
    if isinstance(judgment.outcome, Score):
        entry.scored += 1
        entry.score_sum += judgment.outcome.score
