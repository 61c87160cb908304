"""How sure the votes of one comparison are of its side: the posterior of a coin, without SciPy."""

import math
from functools import lru_cache

TINY = 1e-300
PRECISION = 1e-15
MOST_STEPS = 100_000
"""About the square root of the larger count is needed."""


@lru_cache(maxsize=4096)  # a few votes give the same few counts over and over
def probability_above_half(wins: float, losses: float) -> float:
    """P(theta > 1/2 | wins, losses) in (0, 1), theta the share of votes for the first side, its prior uniform.

    wins, losses: counts >= 0, fractional where votes have strengths: a vote of margin m is (1 + m) / 2 of a win and
    (1 - m) / 2 of a loss. The posterior is Beta(1 + wins, 1 + losses); without votes it is 1/2. Treats votes as
    independent, which votes of one judge are not, so take it as a rule for stopping, not as a calibrated confidence.
    Raises ValueError for negative or infinite counts.
    """
    if not (0 <= wins < math.inf and 0 <= losses < math.inf):
        raise ValueError(f"counts of votes are finite and not negative, found {wins} and {losses}")
    return regularised_incomplete_beta(
        0.5, 1 + losses, 1 + wins
    )  # 1 - I(1/2; 1 + wins, 1 + losses), without cancellation


def regularised_incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b) in [0, 1] for x in [0, 1] and a, b > 0, to about 1e-13 (DLMF 8.17.22, by its continued fraction).

    The fraction converges fast below (a + 1) / (a + b + 2); beyond, I_x(a, b) = 1 - I_(1-x)(b, a) is used.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _below_mean(1 - x, b, a)
    return _below_mean(x, a, b)


def _below_mean(x: float, a: float, b: float) -> float:
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / a
    return front * _continued_fraction(x, a, b)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 / (1 + d1 / (1 + d2 / ...)) of DLMF 8.17.22 by the modified Lentz method (Numerical Recipes 5.2)."""
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, MOST_STEPS):
        term = _numerator(step, x, a, b)
        d = 1 / (1 + term * d or TINY)
        c = 1 + term / c or TINY
        value *= c * d
        if abs(c * d - 1) < PRECISION:
            return 1 / value
    raise ArithmeticError(f"the incomplete beta function of {x}, {a}, {b} did not converge in {MOST_STEPS} steps")


def _numerator(step: int, x: float, a: float, b: float) -> float:
    m, odd = divmod(step, 2)
    if odd:
        return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
