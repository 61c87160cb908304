"""Stopping rules: what is stopped early must not have ended otherwise."""

import itertools
import random

import pytest

from rlaif.judges.aggregate import Voice, combine, sign
from rlaif.judges.config import Aggregate
from rlaif.judges.stopping import Order, Seat, Stopping, leading_probability, reachable_margin

AGGREGATES: tuple[Aggregate, ...] = ("mean", "majority", "median", "weighted", "dawid-skene")


def seat(weight: float, *votes: tuple[int, float | None], planned: int = 4) -> Seat:
    """A judge whose planned votes alternate between the orders, after the given (order, margin) votes."""
    left = [planned - planned // 2, planned // 2]
    orders = [Order(), Order()]
    for order, margin in votes:
        left[order] -= 1
        if margin is not None:
            orders[order] = Order(orders[order].total + margin, orders[order].counted + 1)
    return Seat(weight, tuple(Order(o.total, o.counted, n) for o, n in zip(orders, left, strict=True)))


def margin_of(judges: list[tuple[float, list[tuple[int, float | None]]]], aggregate: Aggregate) -> float | None:
    voices = []
    for weight, votes in judges:
        means = []
        for order in (0, 1):
            margins = [margin for place, margin in votes if place == order and margin is not None]
            if margins:
                means.append(sum(margins) / len(margins))
        if means:
            voices.append(Voice(sum(means) / len(means), weight))
    return combine(voices, aggregate)


def test_two_votes_of_three_that_agree_make_the_third_needless() -> None:
    """Both orders +1, one vote of the first order left: its mean ends in [0, 1], so the margin in [1/2, 1]."""
    agreed = seat(1, (0, 1.0), (1, 1.0), planned=3)
    assert reachable_margin([agreed], "mean") == (0.5, 1.0)
    assert Stopping("cannot-lose", gates=(1 / 3,)).is_settled([agreed], "mean")
    assert not Stopping("cannot-lose", gates=(0.6,)).is_settled([agreed], "mean")
    assert not Stopping("all").is_settled([agreed], "mean")
    torn = seat(1, (0, 1.0), (1, -1.0), planned=3)
    assert not Stopping("cannot-lose").is_settled([torn], "mean")


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_cannot_lose_never_changes_an_outcome_or_a_gate(aggregate: Aggregate) -> None:
    """Against every possible rest of the votes, unparsed ones included, for random beginnings and weights of both signs."""
    draw = random.Random(f"stop {aggregate}")
    answers = (1.0, -1.0, 0.0, None)
    settled = 0
    for _ in range(600):
        weights = [draw.choice((1.0, 2.0, 0.5, -1.0)) for _ in range(2)]
        places = [(judge, vote % 2) for judge in range(2) for vote in range(3)]
        known = draw.randrange(1, len(places))
        begun = [(place, draw.choice(answers)) for place in places[:known]]

        def votes(every: list[tuple[tuple[int, int], float | None]], judge: int) -> list[tuple[int, float | None]]:
            return [(order, margin) for (one, order), margin in every if one == judge]

        seats = [seat(weights[judge], *votes(begun, judge), planned=3) for judge in range(2)]
        rule = Stopping("cannot-lose", gates=(1 / 3, 0.6))
        if not rule.is_settled(seats, aggregate):
            continue
        settled += 1
        now = margin_of([(weights[judge], votes(begun, judge)) for judge in range(2)], aggregate)
        assert now is not None
        for rest in itertools.product(answers, repeat=len(places) - known):
            whole = begun + list(zip(places[known:], rest, strict=True))
            end = margin_of([(weights[judge], votes(whole, judge)) for judge in range(2)], aggregate)
            assert end is not None
            assert sign(end) == sign(now)
            assert all((abs(end) > gate + 1e-9) == (abs(now) > gate + 1e-9) for gate in rule.gates)
    assert settled > 8


def test_posterior_of_unanimous_votes_is_that_of_a_coin() -> None:
    """Beta(1, 1) and n votes for one side: P(theta > 1/2) = 1 - 2^-(n + 1); so 0.95 needs four, 0.9 three."""
    for n in range(1, 6):
        votes = [(place % 2, 1.0) for place in range(n)]
        assert leading_probability([seat(1, *votes, planned=8)]) == pytest.approx(1 - 0.5 ** (n + 1), abs=1e-12)
    four = seat(1, (0, 1.0), (1, 1.0), (0, 1.0), (1, 1.0), planned=16)
    three = seat(1, (0, 1.0), (1, 1.0), (0, 1.0), planned=16)
    assert Stopping("posterior", 0.95).is_settled([four], "mean")
    assert not Stopping("posterior", 0.95).is_settled([three], "mean")


def test_a_judge_without_weight_settles_nothing() -> None:
    assert not Stopping("cannot-lose").is_settled([seat(0, (0, 1.0), (1, 1.0), planned=2), seat(1)], "mean")


def test_votes_asked_together_are_those_before_the_first_possible_stop() -> None:
    queue = [(0, 0), (0, 1), (0, 0)]
    nothing = [seat(1, planned=3)]
    assert Stopping("cannot-lose").votes_at_once(nothing, queue, "mean") == 2
    assert Stopping("all").votes_at_once(nothing, queue, "mean") == 3
    agreed = [seat(1, (0, 1.0), (1, 1.0), planned=3)]
    assert Stopping("cannot-lose").votes_at_once(agreed, queue[2:], "mean") == 0


def test_aggregates_by_hand() -> None:
    """Margins 0.9 (weight 1), -0.1 (weight 3), 0.5 (weight 1)."""
    voices = [Voice(0.9, 1), Voice(-0.1, 3), Voice(0.5, 1)]
    assert combine(voices, "majority") == pytest.approx(1 / 3)
    assert combine(voices, "weighted") == pytest.approx(-1 / 5)
    assert combine(voices, "mean") == pytest.approx((0.9 - 0.3 + 0.5) / 5)
    assert combine(voices, "median") == pytest.approx(-0.1)
    assert combine([Voice(0.9, 1), Voice(-0.1, 1)], "median") == pytest.approx(0.4)
    assert combine([Voice(0.2, 1.5)], "dawid-skene") == pytest.approx(2 / (1 + 2.718281828459045**-1.5) - 1)
    assert combine([Voice(0.5, -2)], "mean") == pytest.approx(-0.5)
    assert combine([Voice(0.5, 0)], "mean") is None
