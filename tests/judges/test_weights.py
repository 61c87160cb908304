"""Weights from gold labels, and the one-coin model, against hand arithmetic and the aggregates that use them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.errors import DataError
from rlaif.judges.aggregate import Voice, combine
from rlaif.judges.dawid_skene import fit_one_coin, posterior
from rlaif.judges.weights import hits, is_anti_correlated, log_odds_weights, weighted_margins

NAN = math.nan
MARGIN = st.one_of(st.just(NAN), st.floats(-1, 1))
TABLE = st.integers(1, 5).flatmap(lambda j: st.lists(st.lists(MARGIN, min_size=j, max_size=j), min_size=1, max_size=8))


def simulated(rates: list[float], n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Independent judges that are right with these rates."""
    generator = np.random.default_rng(seed)
    gold = generator.choice([1.0, -1.0], n)
    right = generator.uniform(size=(n, len(rates))) < np.array(rates)
    return np.where(right, gold[:, None], -gold[:, None]), gold


def test_hits_by_hand() -> None:
    assert hits(np.array([0.3, -0.3, 0.0, NAN]), np.array([1, 1, 1, 1])).tolist() == [1, 0, 0.5, 0.5]


def test_weights_by_hand() -> None:
    """3 right of 3: ln(4/1); 1 of 3: ln(2/3), clamped to 0; 1 right, 1 tie, 1 silent: ln(2.5/1.5)."""
    margins, gold = np.array([[1, 1, 0.2], [-1, 1, 0], [1, -0.1, NAN]]), np.array([1.0, -1.0, 1.0])
    assert log_odds_weights(margins, gold) == pytest.approx([math.log(4), 0, math.log(2.5 / 1.5)])
    kept = log_odds_weights(margins, gold, negative=True)
    assert kept == pytest.approx([math.log(4), math.log(2 / 3), math.log(2.5 / 1.5)])


@given(TABLE, st.integers(0, 99))
def test_swapping_the_sides_changes_no_weight(table: list[list[float]], seed: int) -> None:
    margins = np.array(table)
    gold = np.random.default_rng(seed).choice([1.0, -1.0], len(margins))
    assert log_odds_weights(-margins, -gold) == pytest.approx(log_odds_weights(margins, gold))
    assert log_odds_weights(margins, -gold, negative=True) == pytest.approx(
        -log_odds_weights(margins, gold, negative=True)
    )


@given(TABLE, st.integers(0, 99))
def test_the_vectorised_vote_is_the_ensembles_weighted_vote(table: list[list[float]], seed: int) -> None:
    weights = np.random.default_rng(seed).choice([0.0, 0.4, 1.0, 2.5, -0.7], len(table[0]))
    for row, margin in zip(table, weighted_margins(np.array(table), weights), strict=True):
        voices = [Voice(m, float(w)) for m, w in zip(row, weights, strict=True) if not math.isnan(m)]
        expected = combine(voices, "weighted")
        assert math.isnan(margin) if expected is None else margin == pytest.approx(expected)


def test_anti_correlation_needs_evidence() -> None:
    """Wilson's interval of 20 of 50 reaches 54 %, that of 17 of 50 ends at 47.9 %."""
    assert not is_anti_correlated(20, 50)
    assert is_anti_correlated(17, 50)
    assert not is_anti_correlated(0, 0)


def test_posterior_by_hand() -> None:
    """Two votes of rates .8 and .6 for the first side: 4 * 1.5 = 6 to 1; against each other 4 / 1.5; a tie says nothing."""
    rates = np.array([0.8, 0.6])
    votes = np.array([[1.0, 0.2], [1.0, -1.0], [0.0, NAN]])
    assert posterior(votes, rates) == pytest.approx([6 / 7, 4 / 5.5, 0.5])
    assert posterior(-votes, rates) == pytest.approx(1 - posterior(votes, rates))


def test_hit_rates_are_recovered_with_few_labels() -> None:
    rates = [0.9, 0.75, 0.6, 0.55, 0.3]
    margins, gold = simulated(rates, 6000)
    anchors = np.where(np.arange(6000) < 30, gold, NAN)
    model = fit_one_coin(margins, anchors)
    assert model.hit_rates == pytest.approx(rates, abs=0.03)
    assert hits(2 * model.first_is_better - 1, gold).mean() > 0.9
    assert model.first_is_better[:30].tolist() == ((1 + gold[:30]) / 2).tolist()


def test_with_every_label_known_it_is_the_smoothed_share_of_hits() -> None:
    margins, gold = np.array([[1.0, -1.0], [1.0, 0.0], [-1.0, NAN]]), np.array([1.0, 1.0, 1.0])
    assert fit_one_coin(margins, gold).hit_rates == pytest.approx([3 / 5, 1 / 3])


def test_swapping_the_sides_swaps_the_posteriors() -> None:
    margins, gold = simulated([0.8, 0.7, 0.6], 200)
    anchors = np.where(np.arange(200) < 20, gold, NAN)
    one, other = fit_one_coin(margins, anchors), fit_one_coin(-margins, -anchors)
    assert other.hit_rates == pytest.approx(one.hit_rates)
    assert other.first_is_better == pytest.approx(1 - one.first_is_better)


def test_anchors_turn_a_majority_that_errs_together() -> None:
    """Three judges are right in 20 %, one in 90 %: without gold the three would be believed."""
    margins, gold = simulated([0.2, 0.2, 0.2, 0.9], 400)
    model = fit_one_coin(margins, np.where(np.arange(400) < 50, gold, NAN))
    assert (model.hit_rates[:3] < 0.35).all()
    assert hits(2 * model.first_is_better - 1, gold).mean() > 0.85


@pytest.mark.parametrize("anchored", [False, True])
def test_without_a_vote_on_gold_it_refuses_and_says_why(anchored: bool) -> None:
    margins = np.array([[1.0, 1.0], [NAN, 0.0]])
    with pytest.raises(DataError, match="can invert every verdict"):
        fit_one_coin(margins, np.array([NAN, 1.0 if anchored else NAN]))
