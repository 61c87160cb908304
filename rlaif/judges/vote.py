"""Which votes are asked. It depends only on the earlier votes by index, so a killed run goes on identically."""

from collections.abc import Sequence

from rlaif.judges.judge import LLMJudge
from rlaif.types import Judgment

STOPPING_RULE = "all votes; a judge that repeats itself stops after one vote per order"


def orders(judge: LLMJudge) -> int:
    """In how many orders a judge sees an item."""
    return 2 if judge.is_pairwise else 1


def first_votes(judge: LLMJudge) -> range:
    """The votes that are asked whatever the answers are: one per order."""
    return range(min(judge.votes, orders(judge)))


def further_votes(judge: LLMJudge, earlier: Sequence[Judgment | None]) -> range:
    """The votes that follow the first ones: none if the judge would only repeat itself.

    It does at temperature 0, and when its log-probs were read: the label's distribution is then known already.
    """
    repeats = judge.config.temperature == 0 or all(
        judgment is not None and judgment.probabilities is not None for judgment in earlier
    )
    return range(0) if repeats else range(orders(judge), judge.votes)
