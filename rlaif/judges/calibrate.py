"""What gold labels say of judges, and which ensemble of them they recommend: pure functions of recorded margins.

C comparisons, J judges. A judge's margin already holds both its orders. Comparisons whose gold label is a tie count for
kappa only: no side of them is right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlaif.errors import DataError
from rlaif.judges.aggregate import EQUAL, sign
from rlaif.judges.agreement import (
    accuracy,
    cohen_kappa,
    expected_calibration_error,
    krippendorff_alpha,
    longest_pick_rate,
)
from rlaif.judges.confidence import ConfidenceMap, fit_confidence
from rlaif.judges.config import Aggregate
from rlaif.judges.weights import hits, is_anti_correlated, log_odds_weights, weighted_margins
from rlaif.statistics import Estimate
from rlaif.types import JudgeTally

FEWEST_LABELS = 50
FEWEST_SELECTED = 20
FOLDS = 5
BEYOND_CHANCE = 1.645
"""Standard errors: one-sided 95 %."""


@dataclass(frozen=True)
class GoldLabels:
    """Gold labels of C comparisons, in the order of the judges' records."""

    name: str
    """The gold set, as named in results."""
    sides: tuple[int, ...]
    """1 where the first response is better, -1 where the second is, 0 for a tie."""
    longer: tuple[int, ...]
    """1 where the first response is longer, -1 where the second is, 0 where neither is."""


@dataclass(frozen=True)
class JudgeRecord:
    """What one judge said of C comparisons."""

    judge: str
    margins: tuple[float | None, ...]
    """In [-1, 1], positive for the first response; None without any outcome."""
    order_consistent: tuple[bool | None, ...]
    """Whether both orders gave the same side; None where only one did."""
    asked: int
    unparsed: int
    decided: int
    """Votes that preferred one response."""
    first_picks: int
    """How many of these preferred the one shown first."""

    @classmethod
    def from_tallies(cls, tallies: Sequence[JudgeTally]) -> "JudgeRecord":
        """Of the tallies of one judge, one for each comparison."""
        return cls(
            judge=tallies[0].judge,
            margins=tuple(tally.margin for tally in tallies),
            order_consistent=tuple(tally.order_consistent for tally in tallies),
            asked=sum(tally.asked for tally in tallies),
            unparsed=sum(tally.unparsed for tally in tallies),
            decided=sum(tally.decided for tally in tallies),
            first_picks=sum(tally.first_picks for tally in tallies),
        )


@dataclass(frozen=True)
class JudgeMeasures:
    """One judge against gold; a rate without a base is None."""

    judge: str
    accuracy: Estimate
    """Share of gold's sides; a tie of the judge, or no margin, counts half."""
    order_consistency: float | None
    first_pick_rate: float | None
    longest_pick_rate: float | None
    unparsed_share: float | None
    kappa: float | None
    """Cohen's, a tie being a category; comparisons without a margin are left out."""
    calibration_error: float | None
    """Expected calibration error of (1 + |margin|) / 2 taken as the probability of being right."""
    is_anti_correlated: bool


def measure(record: JudgeRecord, gold: GoldLabels) -> JudgeMeasures:
    """One judge against gold. Raises DataError where gold is too small or has one side only."""
    margins, sides = _decided_by_gold([record], gold)
    right = hits(margins[:, 0], sides)
    given = ~np.isnan(margins[:, 0])
    seen = [consistent for consistent in record.order_consistent if consistent is not None]
    both = [(sign(m), side) for m, side in zip(record.margins, gold.sides, strict=True) if m is not None]
    estimate = accuracy(right.tolist())
    assert estimate is not None, "there are labels"
    return JudgeMeasures(
        judge=record.judge,
        accuracy=estimate,
        order_consistency=sum(seen) / len(seen) if seen else None,
        first_pick_rate=record.first_picks / record.decided if record.decided else None,
        longest_pick_rate=longest_pick_rate(record.margins, gold.longer),
        unparsed_share=record.unparsed / record.asked if record.asked else None,
        kappa=cohen_kappa([said for said, _ in both], [side for _, side in both]),
        calibration_error=expected_calibration_error((1 + np.abs(margins[given, 0])) / 2, right[given]),
        is_anti_correlated=is_anti_correlated(float(right.sum()), len(right)),
    )


@dataclass(frozen=True)
class Strategy:
    """A way to make one ensemble of all judges from gold labels."""

    name: str
    aggregate: Aggregate
    """How its ensemble combines the judges' margins."""
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Margins (C, J) and gold (C,) to the weights of the judges (J,), each >= 0."""

    def margins(self, margins: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The ensemble's margins, (C,); NaN where no judge with a weight gave one."""
        if self.aggregate == "mean":  # of one judge
            return np.asarray(margins[:, int(weights.argmax())])
        return weighted_margins(margins, weights)


def _one_each(margins: np.ndarray, gold: np.ndarray) -> np.ndarray:
    return np.ones(margins.shape[1])


def _all_to_the_best(margins: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """1 for the judge that is right most often, the first listed of equals."""
    weights = np.zeros(margins.shape[1])
    weights[int(hits(margins, gold).mean(0).argmax())] = 1.0
    return weights


STRATEGIES = (
    Strategy("best single", "mean", _all_to_the_best),
    Strategy("log-odds weights", "weighted", log_odds_weights),
    Strategy("majority", "majority", _one_each),
)
"""Cheapest first, in judges to ask: one, those of some weight, all."""


@dataclass(frozen=True)
class Choice:
    """The strategy that cross-validation recommends, fitted on all labels."""

    strategy: Strategy
    weights: dict[str, float]
    """Of every judge by name; 0 is no say."""
    accuracies: dict[str, Estimate]
    """Out-of-fold accuracy of every strategy by name."""
    out_of_fold: tuple[float | None, ...]
    """The chosen ensemble's margin of each comparison from weights that have not seen its label; None for gold's ties."""


def choose(records: Sequence[JudgeRecord], gold: GoldLabels, *, folds: int = FOLDS, seed: int = 0) -> Choice:
    """The cheapest strategy whose out-of-fold accuracy no other beats beyond chance, fitted on all labels.

    The folds are seeded and hold each side of gold alike. Beyond chance: the mean difference to the most accurate strategy,
    comparison by comparison, is above BEYOND_CHANCE of its standard errors (after the one-standard-error rule of Breiman et
    al. 1984); a few labels where strategies differ would else pick at random. A strategy that leaves all judges without
    weight is no candidate. Raises DataError where gold is too small or has one side only.
    """
    margins, sides = _decided_by_gold(records, gold)
    fold_of = stratified_folds(sides, folds, seed)
    held_out = {each.name: _out_of_fold(each, margins, sides, fold_of) for each in STRATEGIES}
    right = {name: hits(values, sides) for name, values in held_out.items()}
    fitted = {each.name: each.fit(margins, sides) for each in STRATEGIES}
    candidates = [each for each in STRATEGIES if fitted[each.name].any()]
    top = max((right[each.name] for each in candidates), key=np.mean)
    chosen = next(each for each in candidates if not _is_better(top, right[each.name]))
    out_of_fold = np.full(len(gold.sides), np.nan)
    out_of_fold[np.array(gold.sides) != 0] = held_out[chosen.name]
    estimates = {name: accuracy(each.tolist()) for name, each in right.items()}
    return Choice(
        strategy=chosen,
        weights=dict(zip([record.judge for record in records], fitted[chosen.name].tolist(), strict=True)),
        accuracies={name: estimate for name, estimate in estimates.items() if estimate is not None},
        out_of_fold=tuple(None if np.isnan(value) else value for value in out_of_fold.tolist()),
    )


def _is_better(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the hits of one are more than those of the other beyond chance, comparison by comparison."""
    gains = one - other
    return bool(gains.mean() > BEYOND_CHANCE * gains.std(ddof=1) / len(gains) ** 0.5)


def stratified_folds(sides: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each comparison, (C,) in [0, folds): each side is shuffled and dealt in turn, the second from where the
    first ended, so that folds differ by at most one comparison of each side and one in all."""
    generator = np.random.default_rng(seed)
    shuffled = np.concatenate([generator.permutation(np.flatnonzero(sides == side)) for side in (1, -1)])
    fold_of = np.empty(len(sides), dtype=int)
    fold_of[shuffled] = np.arange(len(sides)) % folds
    return fold_of


def _out_of_fold(strategy: Strategy, margins: np.ndarray, sides: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """The ensemble's margin of each comparison by the weights fitted on the other folds, (C,)."""
    values = np.full(len(sides), np.nan)
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        weights = strategy.fit(margins[~held_out], sides[~held_out])
        values[held_out] = strategy.margins(margins[held_out], weights)
    return values


def fit_selected(
    margins: Sequence[float | None],
    selected: Sequence[bool],
    gold: GoldLabels,
    *,
    min_margin: float,
    stopping_rule: str,
    votes: int,
) -> ConfidenceMap:
    """The map from margin to probability of being right, on the verdicts that would become pairs.

    margins: of the ensemble's verdicts under the stopping rule, from weights that have not seen the comparison's label.
    selected: whether the other gates let the comparison through; a margin must be above min_margin in size. Verdicts on
    gold's ties are left out. Raises DataError if fewer than FEWEST_SELECTED are left.
    """
    kept = [
        (margin, float(sign(margin) == side))
        for margin, side, is_selected in zip(margins, gold.sides, selected, strict=True)
        if is_selected and side and margin is not None and sign(margin) and abs(margin) > min_margin + EQUAL
    ]
    if len(kept) < FEWEST_SELECTED:
        raise DataError(
            f"{gold.name}: only {len(kept)} of {len(margins)} verdicts pass the gates (margin above {min_margin:g}); at "
            f"least {FEWEST_SELECTED} are needed to fit a confidence. Give more gold labels, or loosen the gates"
        )
    return fit_confidence(
        [margin for margin, _ in kept],
        [right for _, right in kept],
        gold=gold.name,
        stopping_rule=stopping_rule,
        votes=votes,
    )


def agreement_between(records: Sequence[JudgeRecord]) -> tuple[float | None, dict[tuple[str, str], float | None]]:
    """Krippendorff's alpha (nominal) of all judges' sides, and Cohen's kappa of every two, a tie being a category."""
    said = {record.judge: [None if m is None else sign(m) for m in record.margins] for record in records}
    kappas = {}
    for one, other in combinations(said, 2):
        both = [(a, b) for a, b in zip(said[one], said[other], strict=True) if a is not None and b is not None]
        kappas[one, other] = cohen_kappa([a for a, _ in both], [b for _, b in both])
    return krippendorff_alpha(list(zip(*said.values(), strict=True))), kappas


def findings(measures: Sequence[JudgeMeasures]) -> list[str]:
    """What must be said loudly: judges that are wrong more often than chance allows."""
    return [
        f"{each.judge} is ANTI-CORRELATED with gold: right in {each.accuracy.value:.0%} "
        f"(95 % interval {each.accuracy.low:.0%} to {each.accuracy.high:.0%}); its say must be 0"
        for each in measures
        if each.is_anti_correlated
    ]


def check_gold(gold: GoldLabels) -> None:
    """Raises DataError where gold is too small or has one side only."""
    firsts, seconds = gold.sides.count(1), gold.sides.count(-1)
    if firsts + seconds < FEWEST_LABELS:
        raise DataError(
            f"{gold.name}: {firsts + seconds} gold labels with a side; at least {FEWEST_LABELS} are needed to tell a "
            "judge from chance. Label more comparisons, or use a public gold set"
        )
    if not firsts or not seconds:
        raise DataError(
            f"{gold.name}: gold always prefers the {'first' if firsts else 'second'} response, so a judge that looks at "
            "position alone would be perfect. Swap the responses of half the rows"
        )


def _decided_by_gold(records: Sequence[JudgeRecord], gold: GoldLabels) -> tuple[np.ndarray, np.ndarray]:
    """Margins (C, J), NaN for none, and sides (C,), of the comparisons in which gold has a side."""
    check_gold(gold)
    sides = np.array(gold.sides, dtype=float)
    margins = np.array([record.margins for record in records], dtype=float).T
    return margins[sides != 0], sides[sides != 0]
