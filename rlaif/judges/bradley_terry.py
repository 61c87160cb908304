"""Strengths of the n responses of one prompt from comparisons with ties, and what they say of each pair."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlaif.errors import DataError

STRENGTH_SD = 2.0
"""Prior of a strength, in log-odds: two unrelated responses are mostly within 17 to 1."""
TIE_SD = 1.0
"""Prior of the logarithm of the tie parameter, around 0: equal responses tie in 1 of 3."""
LONGEST_STEP = 2.0
CONVERGED = 1e-9
MOST_STEPS = 200

Comparison = tuple[int, int, float]
"""First and second response by index, and the margin in [-1, 1], positive for the first."""


class Strengths(NamedTuple):
    """A fitted model of n responses."""

    strengths: np.ndarray
    """(n,) log-odds, their sum 0; larger is better."""
    tie: float
    """Davidson's nu > 0: equal responses tie with probability nu / (nu + 2)."""
    margins: np.ndarray
    """(n, n) P(i beats j) - P(j beats i), antisymmetric, each in (-1, 1)."""


def fit_strengths(n: int, comparisons: Sequence[Comparison], weights: Sequence[float] | None = None) -> Strengths:
    """Bradley–Terry strengths with Davidson's ties: the most probable ones under a weak prior.

    With d = s_i - s_j (Davidson 1970, eq. 2.4): P(i beats j) = e^(d/2) / (e^(d/2) + e^(-d/2) + nu), a tie has nu in the
    numerator. A margin m is |m| of a win and 1 - |m| of a tie. Priors s ~ N(0, STRENGTH_SD^2), ln nu ~ N(0, TIE_SD^2)
    keep the strengths finite where one response always wins; one without comparisons gets 0. The log-posterior is
    strictly concave: there is one answer, whatever the order of the comparisons and the names of the responses.

    weights: of each comparison, >= 0, 1 by default. Raises DataError for an index or margin out of range.
    """
    wins, ties = _counts(n, comparisons, weights)
    parameters = np.zeros(n + 1)  # the strengths and ln nu
    for _ in range(MOST_STEPS):
        step = _newton_step(parameters, wins, ties)
        longest = float(np.abs(step).max())
        parameters = parameters + step * min(1.0, LONGEST_STEP / max(longest, CONVERGED))
        if longest < CONVERGED:
            break
    return Strengths(parameters[:n], float(np.exp(parameters[n])), _probabilities(parameters)[0])


def _newton_step(parameters: np.ndarray, wins: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """The step to the top of the quadratic that has the log-posterior's gradient and curvature here, (n + 1,)."""
    n = len(wins)
    margin, tie = _probabilities(parameters)
    games = wins + wins.T + ties
    met, tied = games * margin, games * tie
    prior = np.full(n + 1, STRENGTH_SD**-2)
    prior[n] = TIE_SD**-2
    gradient = -prior * parameters
    gradient[:n] += (wins - wins.T - met).sum(1) / 2
    gradient[n] += (ties - tied).sum() / 2
    spread = (games - tied - met * margin) / 4  # the variance of half the sign of an outcome
    curvature = np.empty((n + 1, n + 1))
    curvature[:n, :n] = np.diag(spread.sum(1)) - spread
    curvature[:n, n] = curvature[n, :n] = -(met * tie).sum(1) / 2
    curvature[n, n] = (tied * (1 - tie)).sum() / 2
    return np.linalg.solve(curvature + np.diag(prior), gradient)


def _probabilities(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(i beats j) - P(j beats i) and P(tie), both (n, n)."""
    half = (parameters[:-1, None] - parameters[None, :-1]) / 2
    win, tie = np.exp(half), np.exp(parameters[-1])
    loss = 1 / win
    total = win + loss + tie
    return (win - loss) / total, tie / total


def _counts(
    n: int, comparisons: Sequence[Comparison], weights: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Wins of i over j, and ties (symmetric), both (n, n)."""
    wins, ties = np.zeros((n, n)), np.zeros((n, n))
    for (i, j, margin), weight in zip(comparisons, weights or [1.0] * len(comparisons), strict=True):
        if not (0 <= i < n and 0 <= j < n and i != j and abs(margin) <= 1 and weight >= 0):
            raise DataError(
                f"the comparison ({i}, {j}, {margin}) of weight {weight} is not one of {n} responses: two different "
                f"indices from 0 to {n - 1}, a margin in [-1, 1] and a weight of at least 0 are needed"
            )
        winner, loser = (i, j) if margin > 0 else (j, i)
        wins[winner, loser] += weight * abs(margin)
        ties[i, j] += weight * (1 - abs(margin))
        ties[j, i] += weight * (1 - abs(margin))
    return wins, ties
