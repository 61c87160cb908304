"""P(theta > 1/2) against exact sums, numerical integration and symmetry."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.judges.posterior import probability_above_half, regularised_incomplete_beta


def exact(wins: int, losses: int) -> float:
    """For whole counts, I_(1/2)(a, b) is a binomial tail (DLMF 8.17.5): P(Binomial(wins + losses + 1, 1/2) <= wins)."""
    n = wins + losses + 1
    return float(Fraction(sum(math.comb(n, k) for k in range(wins + 1)), 2**n))


def integrated(wins: float, losses: float) -> float:
    """The density's integral by Gauss–Legendre, after t = 1 - s^6 / 2 and t = s^6 / 2 have smoothed the two ends."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    s, weights = (nodes + 1) / 2, weights / 2
    small, jacobian = s**6 / 2, 3 * s**5
    upper = (weights * (1 - small) ** wins * small**losses * jacobian).sum()
    lower = (weights * small**wins * (1 - small) ** losses * jacobian).sum()
    return float(upper / (upper + lower))


@pytest.mark.parametrize("wins", [0, 1, 2, 5, 16, 100, 1000])
@pytest.mark.parametrize("losses", [0, 1, 3, 7, 16, 90, 1000])
def test_whole_counts_equal_the_binomial_sum(wins: int, losses: int) -> None:
    assert probability_above_half(wins, losses) == pytest.approx(exact(wins, losses), abs=1e-10, rel=1e-9)


def test_four_votes_of_one_side_are_needed_for_95_percent() -> None:
    """P after k wins and no loss is 1 - 2^-(k+1): 0.9375 after 3, 0.96875 after 4."""
    assert [probability_above_half(k, 0) for k in (0, 3, 4)] == pytest.approx([0.5, 0.9375, 0.96875], abs=1e-14)


@settings(deadline=None)
@given(st.floats(0, 40), st.floats(0, 40))
def test_fractional_counts_equal_numerical_integration(wins: float, losses: float) -> None:
    assert probability_above_half(wins, losses) == pytest.approx(integrated(wins, losses), abs=1e-10)


@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_the_two_sides_are_symmetric(wins: float, losses: float) -> None:
    total = probability_above_half(wins, losses) + probability_above_half(losses, wins)
    assert total == pytest.approx(1, abs=1e-9)


@given(st.floats(0, 50), st.floats(0, 50), st.floats(0.01, 5))
def test_a_further_win_never_lowers_it(wins: float, losses: float, more: float) -> None:
    assert probability_above_half(wins + more, losses) >= probability_above_half(wins, losses) - 1e-13


@given(st.floats(0, 1))
def test_known_cases_of_the_incomplete_beta(x: float) -> None:
    """I_x(1, 1) = x; I_x(a, 1) = x^a; I_x(1, b) = 1 - (1 - x)^b (DLMF 8.17)."""
    assert regularised_incomplete_beta(x, 1, 1) == pytest.approx(x, abs=1e-12)
    assert regularised_incomplete_beta(x, 2.5, 1) == pytest.approx(x**2.5, abs=1e-12)
    assert regularised_incomplete_beta(x, 1, 3.5) == pytest.approx(1 - (1 - x) ** 3.5, abs=1e-12)


@pytest.mark.parametrize("wrong", [-1.0, math.inf, math.nan])
def test_counts_that_are_none_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="counts of votes"):
        probability_above_half(wrong, 1.0)
