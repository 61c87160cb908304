"""Hit rates of judges and sides of comparisons together, by expectation maximisation (Dawid & Skene 1979), one coin each.

The two sides of a comparison are interchangeable, so a judge has one hit rate, whichever side is right, and each side is
right with probability 1/2 before any vote. Arrays: C comparisons, J judges, NaN where a judge gave no margin.
"""

from typing import NamedTuple

import numpy as np

from rlaif.errors import DataError
from rlaif.judges.weights import signs

SMOOTHING = 1.0
"""Hits and misses added to each judge's own (Laplace), so that no hit rate becomes 0 or 1."""
CONVERGED = 1e-8
MOST_ROUNDS = 1000


class OneCoin(NamedTuple):
    """A fitted model."""

    hit_rates: np.ndarray
    """(J,) each judge's probability of naming the better side, in (0, 1)."""
    first_is_better: np.ndarray
    """(C,) the posterior of the first side; 0 or 1 where gold says so."""


def fit_one_coin(margins: np.ndarray, gold: np.ndarray) -> OneCoin:
    """Hit rates from labelled comparisons, refined by the unlabelled ones.

    margins: (C, J), both orders of a judge in one margin; a tie or a missing margin is no evidence. gold: (C,) 1 or -1
    where the better side is known, NaN elsewhere; known sides never move. The start is the hit rate on gold.

    Without gold the judges can only be measured by their agreement, and a majority that errs together is then believed:
    26.6 % right on LLMBar-Adversarial, where the best single judge has 81 %. Raises DataError then. Gold anchors the
    start; where unlabelled comparisons far outnumber it, the end may still be the majority's, so check on held-out gold.
    """
    known = ~np.isnan(gold)
    sides = np.nan_to_num(signs(margins))
    if not (np.abs(sides[known]).sum() > 0):
        raise DataError(
            "dawid-skene found no comparison that has both a gold label and a vote; without gold it trusts whatever most "
            "judges agree on and can invert every verdict (26.6 % right on LLMBar-Adversarial). Give gold labels, or "
            "aggregate by majority"
        )
    truth = np.where(known, np.nan_to_num(gold), 0.0)
    rates = _hit_rates(sides[known], truth[known])
    for _ in range(MOST_ROUNDS):
        truth = np.where(known, truth, 2 * posterior(sides, rates) - 1)
        earlier, rates = rates, _hit_rates(sides, truth)
        if np.abs(rates - earlier).max() < CONVERGED:
            break
    return OneCoin(rates, np.where(known, (1 + truth) / 2, posterior(sides, rates)))


def posterior(margins: np.ndarray, hit_rates: np.ndarray) -> np.ndarray:
    """P(the first side is better), (C,), from the sides of independent judges of these hit rates; 1/2 without evidence."""
    log_odds = np.nan_to_num(signs(margins)) @ np.log(hit_rates / (1 - hit_rates))
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def _hit_rates(sides: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Expected hits over votes, smoothed, (J,). truth: (C,) the expected better side in [-1, 1]."""
    votes = np.abs(sides)
    right = (votes + sides * truth[:, None]).sum(0) / 2
    return np.asarray((right + SMOOTHING) / (votes.sum(0) + 2 * SMOOTHING))
