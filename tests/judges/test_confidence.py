"""The map from margin to probability: what it recovers, what keeps it finite, and that it never falls."""

import math
from itertools import pairwise

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config import validate
from rlaif.errors import ConfigError, DataError
from rlaif.judges.confidence import (
    ISOTONIC_FROM,
    PARAMETER_SD,
    ConfidenceMap,
    IsotonicCurve,
    LogisticCurve,
    fit_confidence,
    fit_isotonic,
    fit_logistic,
)

VERDICTS = st.lists(st.tuples(st.floats(-1, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=60)


def fitted(margins: list[float], right: list[float]) -> ConfidenceMap:
    return fit_confidence(margins, right, gold="pandalm", stopping_rule="cannot-lose", votes=2)


def simulated(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins uniform on [0, 1], right with log-odds .2 + 3 margin."""
    generator = np.random.default_rng(0)
    sizes = generator.uniform(size=n)
    return sizes, (generator.uniform(size=n) < 1 / (1 + np.exp(-(0.2 + 3 * sizes)))).astype(float)


def test_logistic_recovers_the_curve_that_made_the_labels() -> None:
    curve = fit_logistic(*simulated(50_000))
    assert (curve.intercept, curve.slope) == pytest.approx((0.2, 3.0), abs=0.1)


def test_isotonic_recovers_it_without_knowing_its_shape() -> None:
    curve = fit_isotonic(*simulated(50_000))
    for size in (0.1, 0.5, 0.9):
        assert curve.probability(size) == pytest.approx(1 / (1 + math.exp(-(0.2 + 3 * size))), abs=0.03)


@given(VERDICTS)
def test_logistic_is_at_the_top_of_its_objective(verdicts: list[tuple[float, float]]) -> None:
    """The gradient of log-likelihood plus log-prior is zero in the intercept; in the slope zero, or down at slope 0.

    Platt's targets: (R + 1) / (R + 2) for right, 1 / (W + 2) for wrong.
    """
    sizes, right = np.abs([m for m, _ in verdicts]), np.array([r for _, r in verdicts])
    curve = fit_logistic(sizes, right)
    r, w = right.sum(), (1 - right).sum()
    targets = right * (r + 1) / (r + 2) + (1 - right) * 1 / (w + 2)
    residuals = targets - 1 / (1 + np.exp(-(curve.intercept + curve.slope * sizes)))
    assert residuals.sum() - curve.intercept / PARAMETER_SD**2 == pytest.approx(0, abs=1e-6)
    in_slope = (residuals * sizes).sum() - curve.slope / PARAMETER_SD**2
    assert in_slope == pytest.approx(0, abs=1e-6) if curve.slope > 0 else in_slope <= 1e-6


def test_separable_labels_stay_below_certainty() -> None:
    """All of 50 right at one margin is 51/52; wrong below .5 and right above is no step from 0 to 1."""
    assert fitted([1.0] * 50, [1.0] * 50).confidence(1.0) == pytest.approx(51 / 52, abs=2e-3)
    separable = fitted([0.2] * 50 + [0.8] * 50, [0.0] * 50 + [1.0] * 50)
    assert separable.confidence(0.2) == pytest.approx(1 / 52, abs=0.01)
    assert separable.confidence(0.8) == pytest.approx(51 / 52, abs=0.01)


def test_a_falling_trend_becomes_level() -> None:
    """10 right at margin .2, 10 wrong at .9: no slope, and one half."""
    curve = fit_logistic(np.array([0.2] * 10 + [0.9] * 10), np.array([1.0] * 10 + [0.0] * 10))
    assert (curve.slope, curve.intercept) == pytest.approx((0, 0))


def test_pooling_by_hand() -> None:
    """Shares 1/2 at .2, then 3/4 at .4 and 1/4 at .6, which fall and pool to 4/8 at .5; that equals 1/2, so all pool to
    5/10 at mean .44; then 10/10 at 1. With Laplace: 6/12 and 11/12."""
    sizes = np.repeat([0.2, 0.4, 0.6, 1.0], [2, 4, 4, 10])
    right = np.array([1, 0] + [1, 1, 1, 0] + [1, 0, 0, 0] + [1] * 10, dtype=float)
    curve = fit_isotonic(sizes, right)
    assert np.array(curve.knots) == pytest.approx(np.array([(0.44, 0.5), (1.0, 11 / 12)]))
    assert curve.probability(0.72) == pytest.approx((0.5 + 11 / 12) / 2)
    assert (curve.probability(0.0), curve.probability(1.0)) == pytest.approx((0.5, 11 / 12))


def test_smoothing_never_puts_blocks_out_of_order() -> None:
    """95 of 100 (96/102) and then 1 of 1 (2/3 after Laplace) must be one block: 96 of 101."""
    curve = fit_isotonic(np.array([0.5] * 100 + [1.0]), np.array([1.0] * 95 + [0.0] * 5 + [1.0]))
    assert curve.knots == ((pytest.approx(51 / 101), pytest.approx(97 / 103)),)


@given(VERDICTS, st.sampled_from([fit_logistic, fit_isotonic]))
def test_confidence_never_falls_and_is_never_certain(verdicts, fit) -> None:  # type: ignore[no-untyped-def]
    curve = fit(np.abs([m for m, _ in verdicts]), np.array([r for _, r in verdicts]))
    values = [curve.probability(size) for size in np.linspace(0, 1, 51)]
    assert all(a <= b + 1e-12 for a, b in pairwise(values))
    assert values[0] > 0
    assert values[-1] < 1


@given(VERDICTS, st.randoms())
def test_the_order_of_labels_changes_nothing(verdicts, generator) -> None:  # type: ignore[no-untyped-def]
    before = fit_isotonic(np.abs([m for m, _ in verdicts]), np.array([r for _, r in verdicts]))
    generator.shuffle(verdicts)
    after = fit_isotonic(np.abs([m for m, _ in verdicts]), np.array([r for _, r in verdicts]))
    assert np.array(after.knots) == pytest.approx(np.array(before.knots))


def test_the_method_follows_the_number_of_labels() -> None:
    margins, right = [0.5, -1.0], [0.0, 1.0]
    assert fitted(margins * (ISOTONIC_FROM // 2 - 1), right * (ISOTONIC_FROM // 2 - 1)).curve.method == "logistic"
    large = fitted(margins * (ISOTONIC_FROM // 2), right * (ISOTONIC_FROM // 2))
    assert (large.curve.method, large.labels) == ("isotonic", ISOTONIC_FROM)
    with pytest.raises(DataError, match="pandalm"):
        fitted([], [])


@pytest.mark.parametrize("n", [60, 600])
def test_it_survives_yaml_and_says_what_it_was_fitted_on(n: int) -> None:
    sizes, right = simulated(n)
    made = fitted(sizes.tolist(), right.tolist())
    read = validate(yaml.safe_load(yaml.safe_dump(made.model_dump(mode="json"))), ConfidenceMap, "judge.yaml")
    assert read == made
    assert (read.gold, read.labels, read.stopping_rule, read.votes) == ("pandalm", n, "cannot-lose", 2)
    assert read.confidence(-0.7) == made.confidence(0.7)


@pytest.mark.parametrize(
    "knots", [[(0.5, 0.9), (0.4, 0.95)], [(0.1, 0.9), (0.4, 0.8)], [(0.1, 0.5), (1.2, 0.8)], [(0, 0)]]
)
def test_knots_written_by_hand_must_ascend_and_stay_inside(knots: list[tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match=r"knots|between 0 and 1"):
        validate({"knots": knots}, IsotonicCurve, "judge.yaml")


def test_a_negative_slope_written_by_hand_is_refused() -> None:
    with pytest.raises(ConfigError, match="slope"):
        validate({"intercept": 0, "slope": -1}, LogisticCurve, "judge.yaml")
