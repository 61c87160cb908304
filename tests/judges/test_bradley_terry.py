"""Strengths against their definition, simulated truth, and the symmetries of the model."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.errors import DataError
from rlaif.judges.bradley_terry import STRENGTH_SD, TIE_SD, Comparison, fit_strengths

N = 5
PAIR = st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)).filter(lambda pair: pair[0] != pair[1])
COMPARISONS = st.lists(st.tuples(PAIR, st.floats(-1, 1)).map(lambda c: (*c[0], c[1])), max_size=40)


def log_posterior(strengths: np.ndarray, log_tie: float, comparisons: list[Comparison]) -> float:
    """Written out from Davidson's definition, one comparison at a time."""
    total = -(strengths**2).sum() / (2 * STRENGTH_SD**2) - log_tie**2 / (2 * TIE_SD**2)
    for i, j, margin in comparisons:
        first, second = math.exp(strengths[i]), math.exp(strengths[j])
        tie = math.exp(log_tie) * math.sqrt(first * second)
        whole = first + second + tie
        win = first if margin > 0 else second
        total += abs(margin) * math.log(win / whole) + (1 - abs(margin)) * math.log(tie / whole)
    return float(total)


@settings(max_examples=50)
@given(COMPARISONS, st.integers(0, 2**32 - 1))
def test_no_nearby_parameters_are_more_probable(comparisons: list[Comparison], seed: int) -> None:
    fit = fit_strengths(N, comparisons)
    top = log_posterior(fit.strengths, math.log(fit.tie), comparisons)
    generator = np.random.default_rng(seed)
    for size in (1e-3, 0.1, 2.0):
        moved, tie = fit.strengths + generator.normal(size=N) * size, math.log(fit.tie) + generator.normal() * size
        assert log_posterior(moved, tie, comparisons) <= top + 1e-9


@given(COMPARISONS, st.permutations(range(N)))
def test_names_of_responses_and_order_of_comparisons_change_nothing(
    comparisons: list[Comparison], names: list[int]
) -> None:
    fit = fit_strengths(N, comparisons)
    renamed = fit_strengths(N, [(names[j], names[i], -margin) for i, j, margin in reversed(comparisons)])
    assert renamed.strengths[names] == pytest.approx(fit.strengths, abs=1e-7)
    assert renamed.margins[np.ix_(names, names)] == pytest.approx(fit.margins, abs=1e-7)


@given(COMPARISONS)
def test_margins_are_antisymmetric_and_follow_the_strengths(comparisons: list[Comparison]) -> None:
    fit = fit_strengths(N, comparisons)
    assert fit.margins == pytest.approx(-fit.margins.T)
    assert np.abs(fit.margins).max() < 1
    assert fit.strengths.sum() == pytest.approx(0, abs=1e-6)
    differences = fit.strengths[:, None] - fit.strengths[None, :]
    assert (fit.margins[differences > 1e-9] > 0).all()


def test_strengths_and_ties_are_recovered_from_simulated_comparisons() -> None:
    """40,000 games drawn from Davidson's model with nu = .5: each strength within 0.1."""
    truth, nu, generator = np.array([1.0, 0.5, 0.0, -0.4, -1.1]), 0.5, np.random.default_rng(0)
    comparisons: list[Comparison] = []
    for _ in range(40_000):
        i, j = generator.choice(N, 2, replace=False)
        weights = np.array([math.exp(truth[i]), nu * math.exp((truth[i] + truth[j]) / 2), math.exp(truth[j])])
        comparisons.append((int(i), int(j), float(generator.choice([1, 0, -1], p=weights / weights.sum()))))
    fit = fit_strengths(N, comparisons)
    assert fit.strengths == pytest.approx(truth - truth.mean(), abs=0.1)
    assert fit.tie == pytest.approx(nu, abs=0.05)


def test_one_pair_by_hand() -> None:
    """No ties seen and many games: margin tends to wins minus losses over games, here (750 - 250) / 1000."""
    fit = fit_strengths(2, [(0, 1, 1.0), (0, 1, -1.0)], [750, 250])
    assert fit.margins[0, 1] == pytest.approx(0.5, abs=0.01)


def test_few_newton_steps_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of quadratic convergence; a wrong curvature would still arrive, but slowly."""
    generator = np.random.default_rng(1)
    comparisons = [(i, j, float(generator.uniform(-1, 1))) for i in range(N) for j in range(i)] * 5
    expected = fit_strengths(N, comparisons)
    monkeypatch.setattr("rlaif.judges.bradley_terry.MOST_STEPS", 6)
    assert fit_strengths(N, comparisons).strengths == pytest.approx(expected.strengths, abs=1e-9)


@pytest.mark.parametrize("repeats", [1, 1000, 1_000_000])
def test_a_response_that_always_wins_keeps_a_finite_strength(repeats: int) -> None:
    fit = fit_strengths(3, [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0)], [repeats] * 3)
    assert np.isfinite(fit.strengths).all()
    assert fit.strengths[0] > fit.strengths[1] > fit.strengths[2]


def test_ties_only_and_nothing_at_all_leave_everyone_equal() -> None:
    for comparisons in ([], [(0, 1, 0.0), (1, 2, 0.0)]):
        fit = fit_strengths(3, comparisons)
        assert fit.strengths == pytest.approx([0, 0, 0], abs=1e-9)
        assert fit.margins == pytest.approx(np.zeros((3, 3)), abs=1e-9)
    assert fit_strengths(2, [(0, 1, 0.0)] * 50).tie > 5


def test_a_cycle_is_a_tie() -> None:
    fit = fit_strengths(3, [(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)])
    assert fit.strengths == pytest.approx([0, 0, 0], abs=1e-9)


def test_weights_count_like_repetitions() -> None:
    once = fit_strengths(2, [(0, 1, 0.6)], [3.0])
    assert once.strengths == pytest.approx(fit_strengths(2, [(0, 1, 0.6)] * 3).strengths)


@pytest.mark.parametrize("wrong", [(0, 0, 1.0), (0, 3, 1.0), (-1, 0, 1.0), (0, 1, 1.5), (0, 1, math.nan)])
def test_comparisons_out_of_range_are_refused(wrong: Comparison) -> None:
    with pytest.raises(DataError, match="is not one of 3 responses"):
        fit_strengths(3, [wrong])
