"""From the size of a verdict's margin to its probability of being right, fitted on gold labels."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from rlaif.config import Config
from rlaif.errors import DataError

ISOTONIC_FROM = 500
"""Labels from which the isotonic curve is fitted; below it would follow the noise (Niculescu-Mizil & Caruana 2005)."""
PARAMETER_SD = 10.0
"""Prior of intercept and slope, normal around 0: one answer also where all margins are the same size."""
CONVERGED = 1e-10
MOST_STEPS = 100
SMOOTHING = 1.0
"""Right and wrong verdicts added to each isotonic block (Laplace), so that it never says 0 or 1."""


class LogisticCurve(Config):
    """P(right) = 1 / (1 + exp(-(intercept + slope * margin)))."""

    method: Literal["logistic"] = "logistic"
    intercept: float
    """Log-odds of being right at margin 0."""
    slope: float = Field(ge=0)
    """How much they grow up to margin 1."""

    def probability(self, size: float) -> float:
        return float(1 / (1 + np.exp(-(self.intercept + self.slope * size))))


class IsotonicCurve(Config):
    """A line through knots: straight between two, level before the first and after the last."""

    method: Literal["isotonic"] = "isotonic"
    knots: tuple[tuple[float, float], ...] = Field(min_length=1)
    """Margin and probability of being right, both ascending."""

    @model_validator(mode="after")
    def _ascending(self) -> "IsotonicCurve":
        sizes, probabilities = zip(*self.knots, strict=True)
        if list(sizes) != sorted(set(sizes)) or list(probabilities) != sorted(probabilities):
            raise ValueError("knots must ascend: a larger margin first, and its probability no smaller")
        if not (sizes[0] >= 0 and sizes[-1] <= 1 and probabilities[0] > 0 and probabilities[-1] < 1):
            raise ValueError("margins of knots must be in [0, 1] and probabilities between 0 and 1")
        return self

    def probability(self, size: float) -> float:
        sizes, probabilities = zip(*self.knots, strict=True)
        return float(np.interp(size, sizes, probabilities))


class ConfidenceMap(Config):
    """A fitted map and what it was fitted on: it holds for verdicts made in the same way."""

    curve: Annotated[LogisticCurve | IsotonicCurve, Field(discriminator="method")]
    """The map itself."""
    gold: str
    """The set of gold labels."""
    labels: int = Field(ge=1)
    """How many labelled verdicts it was fitted on."""
    stopping_rule: str
    """The rule by which votes were asked."""
    votes: int = Field(ge=1)
    """The most votes per judge and comparison."""

    def confidence(self, margin: float) -> float:
        """Probability in (0, 1) that a verdict of this margin (of either sign) is right; never falls with its size."""
        return self.curve.probability(min(1.0, abs(margin)))


def fit_confidence(
    margins: Sequence[float], right: Sequence[float], *, gold: str, stopping_rule: str, votes: int
) -> ConfidenceMap:
    """The map of verdicts with these margins in [-1, 1], `right` being 1, 0, or 1/2 where gold is split.

    Logistic below ISOTONIC_FROM verdicts, isotonic from there on. Raises DataError without any.
    """
    if not len(margins):
        raise DataError(f"no verdict on '{gold}' would be selected, so no confidence can be fitted; loosen the gates")
    sizes, hits = np.abs(np.asarray(margins, dtype=float)), np.asarray(right, dtype=float)
    fit = fit_logistic if len(sizes) < ISOTONIC_FROM else fit_isotonic
    return ConfidenceMap(curve=fit(sizes, hits), gold=gold, labels=len(sizes), stopping_rule=stopping_rule, votes=votes)


def fit_logistic(sizes: np.ndarray, right: np.ndarray) -> LogisticCurve:
    """The most probable curve of slope >= 0; finite, and cautious, also where the labels are separable.

    sizes, right: (N,) in [0, 1]. With R right and W wrong, right counts as (R + 1) / (R + 2) and wrong as 1 / (W + 2)
    (Platt 1999, section 2.2), so 50 of 50 right at one margin say 51/52 and not 1. The objective is strictly concave, so
    where the free slope is negative the best allowed one is 0.
    """
    hits = right.sum()
    targets = right * (hits + 1) / (hits + 2) + (1 - right) / (len(right) - hits + 2)
    ones = np.ones_like(sizes)
    intercept, slope = _newton(np.stack([ones, sizes], 1), targets)
    if slope < 0:
        (intercept,), slope = _newton(ones[:, None], targets), 0.0
    return LogisticCurve(intercept=float(intercept), slope=float(slope))


def _newton(design: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Logistic regression with priors N(0, PARAMETER_SD^2): (N, P), (N,) to (P,). Steps are halved until they climb."""
    precision = PARAMETER_SD**-2

    def log_posterior(parameters: np.ndarray) -> float:
        logits = design @ parameters
        return float((targets * logits - np.logaddexp(0, logits)).sum() - precision * (parameters**2).sum() / 2)

    parameters = np.zeros(design.shape[1])
    for _ in range(MOST_STEPS):
        p = 1 / (1 + np.exp(-design @ parameters))
        gradient = design.T @ (targets - p) - precision * parameters
        curvature = (design.T * (p * (1 - p))) @ design + precision * np.eye(len(parameters))
        step = np.linalg.solve(curvature, gradient)
        if np.abs(step).max() < CONVERGED:
            break
        height = log_posterior(parameters)
        while np.abs(step).max() > CONVERGED and log_posterior(parameters + step) < height:
            step = step / 2
        parameters = parameters + step
    return parameters


def fit_isotonic(sizes: np.ndarray, right: np.ndarray) -> IsotonicCurve:
    """The non-decreasing step function nearest to the labels (pool adjacent violators, Ayer et al. 1955) as knots.

    sizes, right: (N,) in [0, 1]. Equal sizes (to 9 digits) are one block from the start. A block of n verdicts, r of them
    right, becomes a knot at its mean size with (r + 1) / (n + 2); blocks that this puts out of order are pooled again.
    """
    values, inverse = np.unique(np.round(sizes, 9), return_inverse=True)
    counts = np.bincount(inverse)
    blocks = np.stack([counts, np.bincount(inverse, weights=right), counts * values], 1)
    blocks = _pool(_pool(blocks, 0.0), SMOOTHING)
    knots = [(min(1.0, total / n), (r + SMOOTHING) / (n + 2 * SMOOTHING)) for n, r, total in blocks.tolist()]
    return IsotonicCurve(knots=tuple(knots))


def _pool(blocks: np.ndarray, smoothing: float) -> np.ndarray:
    """Adjacent blocks (count, right, sum of sizes) joined until their smoothed shares of right ascend."""

    def share(block: np.ndarray) -> float:
        return float((block[1] + smoothing) / (block[0] + 2 * smoothing))

    pooled: list[np.ndarray] = []
    for each in blocks:
        block = each
        while pooled and share(pooled[-1]) >= share(block):
            block = block + pooled.pop()
        pooled.append(block)
    return np.array(pooled)
