"""When enough votes are in: pure functions of what was counted and what may still come.

A comparison's state is one Seat per judge. `cannot-lose` stops when no answer to the votes still open could change the
outcome or on which side of a margin gate the verdict lies; `posterior` when a side leads with a stated probability
(Beta(1, 1) prior, as in Adaptive-Consistency, Aggarwal et al. 2023, arXiv 2305.11860).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from rlaif.judges.aggregate import EQUAL, Voice, combine, sign
from rlaif.judges.config import Aggregate, StopRule
from rlaif.judges.posterior import probability_above_half

VOTE_MARGIN = 1 / 3
"""Default gate: preference pairs need a margin above it; below, human-labelled pairs were little better than a coin flip."""


@dataclass(frozen=True)
class Order:
    """The votes of one judge in one order of showing: the sum of the counted margins, their number, and how many may come."""

    total: float = 0.0
    counted: int = 0
    open: int = 0

    def mean_within(self) -> tuple[float, float] | None:
        """The lowest and highest mean margin that is still possible; None if there will never be one."""
        votes = self.counted + self.open
        if not votes:
            return None
        return (self.total - self.open) / votes, (self.total + self.open) / votes

    def after(self, margin: float) -> "Order":
        """With one of the open votes answered."""
        return Order(self.total + margin, self.counted + 1, self.open - 1)


@dataclass(frozen=True)
class Seat:
    """One judge's say on one comparison: its weight, and its votes by order. A pointwise judge has one order."""

    weight: float
    orders: tuple[Order, ...]

    def margin_within(self) -> tuple[float, float] | None:
        """The lowest and highest margin of this judge that is still possible; None if it will never have one."""
        ranges = [within for order in self.orders if (within := order.mean_within()) is not None]
        if not ranges:
            return None
        return fmean(low for low, _ in ranges), fmean(high for _, high in ranges)

    def after(self, order: int, margin: float) -> "Seat":
        """With one of the open votes in this order answered."""
        orders = tuple(kept.after(margin) if place == order else kept for place, kept in enumerate(self.orders))
        return replace(self, orders=orders)


@dataclass(frozen=True)
class Stopping:
    """A stopping rule with its settings."""

    rule: StopRule = "cannot-lose"
    probability: float = 0.95
    """For `posterior`: how probable the leading side must be."""
    gates: tuple[float, ...] = (VOTE_MARGIN,)
    """For `cannot-lose`: margins above which a verdict is of use, as --min-margin of rlaif pairs."""

    def __str__(self) -> str:
        if self.rule == "posterior":
            return f"posterior {self.probability:g}"
        if self.rule == "cannot-lose":
            return "cannot-lose" + "".join(f", gate {gate:.4g}" for gate in self.gates)
        return "all"

    def is_settled(self, seats: Sequence[Seat], aggregate: Aggregate) -> bool:
        """Whether no further vote is needed. A judge without weight never counts here."""
        voiced = [seat for seat in seats if seat.weight != 0]
        if self.rule == "all" or not any(order.counted for seat in voiced for order in seat.orders):
            return False
        if self.rule == "posterior":
            return leading_probability(voiced) >= self.probability
        low, high = reachable_margin(voiced, aggregate)
        return sign(low) == sign(high) and all(_above(low, gate) == _above(high, gate) for gate in self.gates)

    def votes_at_once(self, seats: Sequence[Seat], queue: Sequence[tuple[int, int]], aggregate: Aggregate) -> int:
        """How many votes of the queue, each a (seat, order), are asked together now; 0 is to stop.

        As many as it takes until a stop is in sight: the earliest after votes that all favour one side, or are balanced.
        """
        if self.rule == "all":
            return len(queue)
        states = [(margin, list(seats)) for margin in (1.0, -1.0, 0.0)]
        for count, (seat, order) in enumerate(queue):
            if any(self.is_settled(state, aggregate) for _, state in states):
                return count
            for margin, state in states:
                state[seat] = state[seat].after(order, margin)
        return len(queue)


def reachable_margin(seats: Sequence[Seat], aggregate: Aggregate) -> tuple[float, float]:
    """The lowest and highest ensemble margin that the open votes can still bring about, any of them unparsed or not.

    Every aggregate is monotone in each judge's margin, so the ends are where all judges are at theirs.
    """
    ranges = [(seat, within) for seat in seats if (within := seat.margin_within()) is not None]
    lows = [Voice(low if seat.weight > 0 else high, seat.weight) for seat, (low, high) in ranges]
    highs = [Voice(high if seat.weight > 0 else low, seat.weight) for seat, (low, high) in ranges]
    low, high = combine(lows, aggregate), combine(highs, aggregate)
    return (-1.0 if low is None else low), (1.0 if high is None else high)


def leading_probability(seats: Sequence[Seat]) -> float:
    """The probability that the side in the lead would win endless votes like these, in [0.5, 1].

    Each vote counts (1 + margin) / 2 for one side and (1 - margin) / 2 for the other, times its judge's weight over the
    mean weight of the judges; for a negative weight the sides change places.
    """
    scale = fmean(abs(seat.weight) for seat in seats)
    for_first = for_second = 0.0
    for seat in seats:
        counted = sum(order.counted for order in seat.orders)
        total = sum(order.total for order in seat.orders) * sign(seat.weight)
        for_first += abs(seat.weight) / scale * (counted + total) / 2
        for_second += abs(seat.weight) / scale * (counted - total) / 2
    probability = probability_above_half(for_first, for_second)
    return max(probability, 1 - probability)


def _above(margin: float, gate: float) -> bool:
    return abs(margin) > gate + EQUAL
