"""Confidence intervals and text statistics: pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 4000
Z_95 = 1.959963984540054


class Estimate(NamedTuple):
    """A mean with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    p = successes / n
    centre = p + Z_95**2 / (2 * n)
    spread = Z_95 * np.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
    scale = 1 + Z_95**2 / n
    return max(0.0, float((centre - spread) / scale)), min(1.0, float((centre + spread) / scale))


def clustered_mean(values: Mapping[str, Sequence[float]]) -> Estimate | None:
    """The mean of values in [0, 1] that come in clusters (the samples of one prompt); None without values.

    The interval is a percentile bootstrap over clusters, seeded; where every value is the same it says nothing, so
    then it is Wilson's with the number of clusters as n.
    """
    clusters = [list(cluster) for cluster in values.values() if cluster]
    if not clusters:
        return None
    flat = [value for cluster in clusters for value in cluster]
    mean = float(np.mean(flat))
    if min(flat) == max(flat):
        return Estimate(mean, *wilson(mean * len(clusters), len(clusters)))
    sums = np.array([sum(cluster) for cluster in clusters])
    sizes = np.array([len(cluster) for cluster in clusters])
    draws = np.random.default_rng(0).integers(len(clusters), size=(RESAMPLES, len(clusters)))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(mean, float(low), float(high))


def distinct_ngrams(texts: Iterable[str], n: int) -> float | None:
    """Distinct n-grams over all n-grams, across all texts together, in (0, 1] (distinct-n, Li et al. 2016); None if none."""
    grams = [gram for text in texts for gram in _ngrams(text.casefold().split(), n)]
    return len(set(grams)) / len(grams) if grams else None


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
