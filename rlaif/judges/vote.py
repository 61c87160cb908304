"""Which votes a judge has on an item, and what they say so far: functions of votes by index, never of arrival."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rlaif.judges.aggregate import vote_margin
from rlaif.judges.judge import Item, LLMJudge, distinct_votes, shown_order, votes_wanted
from rlaif.judges.stopping import Order, Seat
from rlaif.types import Judgment

Votes = Mapping[int, Judgment]
"""The votes of one judge on one item, by index."""


@dataclass(frozen=True)
class Ballot:
    """One vote to ask."""

    judge: LLMJudge
    item: Item
    vote: int


def planned_votes(judge: LLMJudge, item: Item, votes: Votes) -> int:
    """How many votes a judge gives on an item, unless a stopping rule ends it before.

    Beyond its distinct questions a judge repeats itself at temperature 0, and where its log-probs were read: the label's
    distribution is known then.
    """
    wanted, distinct = votes_wanted(judge, item), distinct_votes(judge, item)
    if wanted <= distinct:
        return wanted
    first = [votes.get(vote) for vote in range(distinct)]
    repeats = judge.config.temperature == 0 or all(
        judgment is not None and judgment.probabilities is not None for judgment in first
    )
    return distinct if repeats else wanted


def planned_rounds(judge: LLMJudge) -> int:
    """How often a judge that asks several questions asks each, as far as that is known before the first answer."""
    return min(judge.votes, len(judge.templates)) if judge.config.temperature == 0 else judge.votes


def pairwise_seat(judge: LLMJudge, item: Item, votes: Votes, gone: Collection[int]) -> Seat:
    """A pairwise judge's say on a comparison. gone: votes that could not be asked in this run."""
    first, second = (response.id for response in item.responses)
    totals, counted, left = [0.0, 0.0], [0, 0], [0, 0]
    for vote in range(planned_votes(judge, item, votes)):
        order = order_of(item, vote)
        judgment = votes.get(vote)
        if judgment is None:
            left[order] += vote not in gone
        elif (margin := vote_margin(judgment, first, second)) is not None:
            totals[order] += margin
            counted[order] += 1
    return Seat(judge.weight, tuple(map(Order, totals, counted, left)))


def fixed_seat(weight: float, margin: float | None) -> Seat:
    """The say of a judge that was asked before, as one that scored or ranked the responses: nothing of it is open."""
    return Seat(weight, (Order() if margin is None else Order(margin, 1),))


def order_of(item: Item, vote: int) -> int:
    """0 if this vote shows the comparison's first response first, else 1."""
    return int(shown_order(item, vote)[0] is not item.responses[0])
