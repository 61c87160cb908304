"""What can be said of a judge from its votes alone: how often it picks the first answer, contradicts itself, says nothing."""

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from rlaif.judges.aggregate import as_comparison
from rlaif.types import JudgeTally, Judgment, Preferred, Ranking, Score, Verdict


@dataclass
class JudgeStats:
    """Counts over all verdicts of one judge; rates are None without a base."""

    judge: str
    model: str
    weight: float
    votes: int = 1
    """Votes per item that were wanted."""
    repeats: int = 0
    """Votes that were not asked because the judge would have repeated itself."""
    unasked: int = 0
    """Other votes that were not asked: the comparison was settled, or they failed."""
    failed: int = 0
    """Votes that could not be asked."""
    asked: int = 0
    counted: int = 0
    unparsed: int = 0
    flagged: int = 0
    """Votes on a response that holds what looks like a verdict of this judge."""
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
        """Share of the votes for one side that went to the response shown first; 0.5 is unbiased.

        A ranking is a vote on every two of its responses.
        """
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
    def settled(self) -> int:
        """Votes that the stopping rule saved."""
        return max(0, self.unasked - self.failed)

    @property
    def mean_score(self) -> float | None:
        return self.score_sum / self.scored if self.scored else None

    def count_vote(self, judgment: Judgment) -> None:
        """One vote of this judge."""
        self.asked += 1
        self.counted += judgment.outcome is not None
        self.unparsed += judgment.outcome is None
        self.flagged += bool(judgment.flags)
        if isinstance(judgment.outcome, Preferred) and judgment.shown:
            self.decided += 1
            self.first_picks += judgment.outcome.response_id == judgment.shown[0]
        if isinstance(judgment.outcome, Ranking):
            for pair in combinations(judgment.shown, 2):
                side = as_comparison(judgment, *pair).outcome
                self.decided += isinstance(side, Preferred)
                self.first_picks += isinstance(side, Preferred) and side.response_id == pair[0]
        if isinstance(judgment.outcome, Score):
            self.scored += 1
            self.score_sum += judgment.outcome.score

    def count_tally(self, tally: JudgeTally, verdict: Verdict) -> None:
        """What this judge said of one verdict."""
        if tally.order_consistent is not None:
            self.both_orders += 1
            self.consistent += tally.order_consistent
        if verdict.margin and tally.margin is not None:
            self.compared += 1
            self.agreed += tally.margin * verdict.margin > 0
        if tally.planned is not None:
            self.repeats += self.votes - tally.planned
            self.unasked += tally.planned - tally.asked

    def as_dict(self) -> dict[str, Any]:
        rates = ("settled", "first_pick_rate", "order_consistency", "agreement", "mean_score")
        return {**asdict(self), **{rate: getattr(self, rate) for rate in rates}}
