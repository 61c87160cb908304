"""How well judges agree with gold labels and with each other: pure functions, order of arrival never counts."""

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from rlaif.statistics import Estimate, wilson

ECE_BINS = 10


def accuracy(hits: Sequence[float]) -> Estimate | None:
    """The mean of hits in [0, 1] (1 right, 0 wrong, 1/2 a tie) with Wilson's 95 % interval; None without any.

    With halves the interval is a little wide: a half has less variance than the coin flip that Wilson assumes.
    """
    if not hits:
        return None
    total = float(sum(hits))
    return Estimate(total / len(hits), *wilson(total, len(hits)))


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance, in [-1, 1] (Cohen 1960): (p_o - p_e) / (1 - p_e).

    first, second: the categories of the same items, a tie being a category like the others. None without items, and
    where both raters only ever say the same one thing, since agreement by chance is certain then.
    """
    if len(first) != len(second):
        raise ValueError(f"the raters rated {len(first)} and {len(second)} items; the items must be the same")
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True))
    expected = sum(first.count(category) * second.count(category) for category in set(first))
    return (n * observed - expected) / (n * n - expected) if n * n > expected else None


def krippendorff_alpha(
    units: Sequence[Sequence[float | None]], level: Literal["nominal", "ordinal"] = "nominal"
) -> float | None:
    """Agreement of any number of raters beyond chance, at most 1 (Krippendorff 2011): 1 - D_o / D_e.

    units: for each item its ratings, None where a rater gave none; items with fewer than two ratings say nothing. level:
    whether only the equality of two ratings counts, or also how many ratings lie between them. None where no item has
    two ratings, or all ratings are the same.
    """
    coincidences = _coincidences([[value for value in unit if value is not None] for unit in units])
    counts = coincidences.sum(1)
    total = counts.sum()
    difference = _nominal(counts) if level == "nominal" else _ordinal(counts)
    expected = float((np.outer(counts, counts) * difference).sum())
    if not expected:
        return None
    return 1 - float((total - 1) * (coincidences * difference).sum() / expected)


def _coincidences(units: Sequence[Sequence[float]]) -> np.ndarray:
    """How often two ratings met in one unit, (V, V) over the V values in ascending order; a unit of m weighs m."""
    paired = [unit for unit in units if len(unit) > 1]
    values = {value: index for index, value in enumerate(sorted({value for unit in paired for value in unit}))}
    coincidences = np.zeros((len(values), len(values)))
    for unit in paired:
        counts = np.bincount([values[value] for value in unit], minlength=len(values))
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    return coincidences


def _nominal(counts: np.ndarray) -> np.ndarray:
    return 1 - np.eye(len(counts))


def _ordinal(counts: np.ndarray) -> np.ndarray:
    """Squared number of ratings from the middle of one value's to the middle of the other's, (V, V)."""
    middles = np.cumsum(counts) - counts / 2
    return np.asarray((middles[:, None] - middles[None, :]) ** 2)


def expected_calibration_error(
    confidences: Sequence[float], hits: Sequence[float], bins: int = ECE_BINS
) -> float | None:
    """Mean distance between confidence and share of hits, in [0, 1], over bins of equal mass; None without any.

    Bins of equal mass (Nguyen & O'Connor 2015) rather than of equal width, since judges give few different confidences
    and mostly high ones: item r of n by confidence lies in bin floor(r bins / n). Equal confidences share the bin of
    their middle rank, so that order of arrival never counts; a bin may then be empty.
    """
    if not len(confidences):
        return None
    confidence, hit = np.asarray(confidences, dtype=float), np.asarray(hits, dtype=float)
    ranked = np.sort(confidence)
    ranks = (np.searchsorted(ranked, confidence, "left") + np.searchsorted(ranked, confidence, "right") - 1) / 2
    bin_of = (ranks * bins / len(confidence)).astype(int)
    gaps = np.bincount(bin_of, weights=confidence - hit)
    return float(np.abs(gaps).sum() / len(confidence))


def longest_pick_rate(margins: Sequence[float | None], longer: Sequence[int]) -> float | None:
    """Share of the decided comparisons in which the longer response was preferred, in [0, 1]; 1/2 is unbiased.

    margins: positive for the first response, None or 0 where none was preferred. longer: 1 where the first response is
    the longer one, -1 where the second is, 0 where they are equally long. Left out is what is undecided or equally long.
    """
    picks = [margin * side > 0 for margin, side in zip(margins, longer, strict=True) if margin and side]
    return sum(picks) / len(picks) if picks else None
