"""The say of each judge from gold labels. Arrays: C comparisons, J judges, NaN where a judge gave no margin."""

import numpy as np

from rlaif.judges.aggregate import EQUAL
from rlaif.statistics import wilson

SMOOTHING = 1.0
"""Hits and misses added to each judge's own (Laplace): a judge that is always right keeps a finite weight."""


def signs(margins: np.ndarray) -> np.ndarray:
    """The sides of margins: 1, -1, or 0 for a tie; NaN stays NaN."""
    return np.where(np.abs(margins) < EQUAL, 0.0, np.sign(margins))


def hits(margins: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """1 where the side is gold's, 0 where it is the other, 1/2 for a tie and where there is no margin (NaN).

    margins: (C,) or (C, J), both orders of a judge already in one margin. gold: (C,) of 1 and -1. So a judge gains
    nothing by keeping silent: whoever needs a verdict then flips a coin.
    """
    side = np.nan_to_num(signs(margins))
    return np.asarray((1 + side * (gold if side.ndim == 1 else gold[:, None])) / 2)


def log_odds_weights(margins: np.ndarray, gold: np.ndarray, *, negative: bool = False) -> np.ndarray:
    """The weight of each judge, (J,): ln of its smoothed hits over its smoothed misses (Nitzan & Paroush 1982).

    These weights make the weighted majority of independent judges of known hit rate the most probable side. Only
    comparisons in which the judge gave a margin count for it. Both orders of a judge must be one margin: its two votes
    err together and would be counted as two judges.

    negative: keep weights below 0, which turn a judge's verdicts round; else they are 0. A judge that is reliably wrong
    on these labels need not be on others, so this is never a default.
    """
    given = ~np.isnan(margins)
    right = np.where(given, hits(margins, gold), 0.0).sum(0)
    wrong = given.sum(0) - right
    weights = np.log((right + SMOOTHING) / (wrong + SMOOTHING))
    return np.asarray(weights if negative else np.maximum(weights, 0.0))


def weighted_margins(margins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean of the signs of the judges that gave a margin, (C,) in [-1, 1]; NaN where none has a say.

    It is what an ensemble's weighted vote gives, and for weights of 0 and 1 its majority.
    """
    say = np.where(np.isnan(margins), 0.0, np.abs(weights))
    total = say.sum(1)
    votes = (np.nan_to_num(signs(margins)) * weights).sum(1)
    return np.where(total > 0, votes / np.where(total > 0, total, 1.0), np.nan)


def is_anti_correlated(right: float, n: int) -> bool:
    """Whether a judge is on the wrong side of gold beyond chance: Wilson's 95 % interval lies below one half."""
    return n > 0 and wilson(right, n)[1] < 0.5
