"""What calibration measures of a judge, and which ensemble it recommends."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rlaif.errors import DataError
from rlaif.judges.calibrate import (
    FEWEST_SELECTED,
    GoldLabels,
    JudgeRecord,
    agreement_between,
    choose,
    findings,
    fit_selected,
    measure,
    stratified_folds,
)
from rlaif.types import JudgeTally


def record(name: str, margins: list[float | None]) -> JudgeRecord:
    return JudgeRecord(name, tuple(margins), (None,) * len(margins), asked=0, unparsed=0, decided=0, first_picks=0)


def labels(sides: list[int], longer: list[int] | None = None) -> GoldLabels:
    return GoldLabels("gold.jsonl", tuple(sides), tuple(longer or [0] * len(sides)))


def simulated(rates: dict[str, float], n: int, seed: int = 0) -> tuple[list[JudgeRecord], GoldLabels]:
    """Independent judges that are right with these rates."""
    generator = np.random.default_rng(seed)
    sides = [1, -1] * (n // 2)
    return [
        record(name, [side * (1.0 if right else -1.0) for side, right in zip(sides, generator.uniform(size=n) < rate)])  # noqa: B905
        for name, rate in rates.items()
    ], labels(sides)


def test_measures_by_hand() -> None:
    """60 comparisons, gold 1, -1, 1, -1 ...: right on 40, wrong on 10, 5 ties, 5 without margin: (40 + 5) / 60."""
    sides = [1, -1] * 30
    said = [1] * 40 + [-1] * 10 + [0] * 5
    margins: list[float | None] = [0.5 * s * side for s, side in zip(said, sides, strict=False)] + [None] * 5
    judge = JudgeRecord("j", tuple(margins), (True,) * 30 + (False,) * 20 + (None,) * 10, 120, 6, 100, 70)
    measures = measure(judge, labels(sides, longer=[1] * 60))
    assert measures.accuracy.value == pytest.approx(45 / 60)
    assert measures.order_consistency == pytest.approx(30 / 50)
    assert measures.first_pick_rate == pytest.approx(0.7)
    assert measures.unparsed_share == pytest.approx(6 / 120)
    assert measures.longest_pick_rate == pytest.approx(0.5)  # 20 of the 40 right and 5 of the 10 wrong ones are firsts
    # p_o = 40/55; gold 28 firsts and 27 seconds (index 54 is a first), the judge 25, 25 and 5 ties
    expected = (28 * 25 + 27 * 25) / 55**2
    assert measures.kappa == pytest.approx((40 / 55 - expected) / (1 - expected))
    # confidence .75 where it has a side (right .8), .5 at ties (right .5): bins of 5.5 mix the two in no bin but one
    assert measures.calibration_error == pytest.approx(0.05 * 50 / 55, abs=0.01)
    assert not measures.is_anti_correlated


def test_ties_of_gold_count_for_kappa_only() -> None:
    records, gold = simulated({"j": 0.8}, 100)
    with_ties = measure(
        replace(records[0], margins=(*records[0].margins, 0.0, 1.0), order_consistent=(None,) * 102),
        labels([*gold.sides, 0, 0]),
    )
    without = measure(records[0], gold)
    assert with_ties.accuracy == without.accuracy
    assert with_ties.kappa != without.kappa


def test_an_anti_correlated_judge_is_called_out() -> None:
    records, gold = simulated({"good": 0.8, "inverted": 0.2}, 100)
    (finding,) = findings([measure(each, gold) for each in records])
    assert finding.startswith("inverted is ANTI-CORRELATED")


def test_tallies_become_a_record() -> None:
    tally = JudgeTally(judge="j", model="m", weight=1, margin=0.5, asked=2, counted=2, unparsed=0, order_consistent=True,
                       first_picks=1, decided=2)  # fmt: skip
    made = JudgeRecord.from_tallies([tally, tally.model_copy(update={"margin": None, "unparsed": 2})])
    assert made == JudgeRecord("j", (0.5, None), (True, True), asked=4, unparsed=2, decided=4, first_picks=2)


def test_a_panel_of_equals_is_chosen_over_each_of_them() -> None:
    """Seven independent judges of 70 %: their majority is right in 87 %."""
    records, gold = simulated({f"j{i}": 0.7 for i in range(7)}, 400)
    chosen = choose(records, gold)
    assert chosen.strategy.name in ("majority", "log-odds weights")
    assert chosen.accuracies[chosen.strategy.name].value == pytest.approx(0.87, abs=0.05)


def test_one_good_judge_is_chosen_over_a_panel_that_errs() -> None:
    records, gold = simulated({"a": 0.3, "good": 0.9, "b": 0.3, "c": 0.4}, 200)
    chosen = choose(records, gold)
    assert chosen.strategy.name == "best single"
    assert chosen.weights == {"a": 0, "good": 1, "b": 0, "c": 0}


def test_of_equals_the_cheapest_is_chosen() -> None:
    """Three copies of one judge: all strategies are right alike, so one judge is enough."""
    (one,), gold = simulated({"j": 0.8}, 100)
    chosen = choose([replace(one, judge=name) for name in "abc"], gold)
    assert (chosen.strategy.name, chosen.weights) == ("best single", {"a": 1, "b": 0, "c": 0})


def test_out_of_fold_margins_have_not_seen_their_label() -> None:
    """Coins on 50 labels: the best of 30 looks better than chance on the labels that chose it, held out it does not."""
    accuracies = []
    for seed in range(20):
        records, gold = simulated({f"j{i}": 0.5 for i in range(30)}, 50, seed)
        accuracies.append(choose(records, gold).accuracies["best single"].value)
    assert np.mean(accuracies) == pytest.approx(0.5, abs=0.05)


def test_the_choice_is_seeded_and_margins_belong_to_their_comparisons() -> None:
    records, gold = simulated({"a": 0.8, "b": 0.75, "c": 0.7}, 120)
    tied = replace(gold, sides=(0, *gold.sides[1:]), longer=gold.longer)
    chosen = choose(records, tied)
    assert chosen == choose(records, tied)
    assert chosen.out_of_fold[0] is None
    right = [m * side > 0 for m, side in zip(chosen.out_of_fold, tied.sides, strict=True) if m]
    assert np.mean(right) > 0.7


def test_folds_hold_each_side_alike() -> None:
    sides = np.array([1.0] * 33 + [-1.0] * 30)
    fold_of = stratified_folds(sides, 5, seed=3)
    for side, size in ((1, 33 / 5), (-1, 6)):
        counts = np.bincount(fold_of[sides == side], minlength=5)
        assert set(counts.tolist()) <= {math.floor(size), math.ceil(size)}
    assert (fold_of == stratified_folds(sides, 5, seed=3)).all()
    assert (fold_of != stratified_folds(sides, 5, seed=4)).any()


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ([1, -1] * 24 + [0] * 100, "gold.jsonl: 48 gold labels with a side; at least 50"),
        ([1] * 60, "always prefers the first"),
        ([-1] * 60, "always prefers the second"),
    ],
)
def test_gold_that_can_not_tell_a_judge_from_chance_is_refused(sides: list[int], message: str) -> None:
    judge = record("j", [1.0] * len(sides))
    with pytest.raises(DataError, match=message):
        measure(judge, labels(sides))
    with pytest.raises(DataError, match=message):
        choose([judge], labels(sides))


def test_confidence_is_fitted_on_what_the_gates_select() -> None:
    """At margin .9 right in 90 %, at .2 (below the gate) never, not selected never: only the first kind counts."""
    sides = [1, -1] * 100
    margins = [side * (0.9 if i % 10 else -0.9) for i, side in enumerate(sides)]
    margins[150:] = [-0.2 * side for side in sides[150:]]
    selected = [i < 100 or i >= 150 for i in range(200)]
    fitted = fit_selected(margins, selected, labels(sides), min_margin=1 / 3, stopping_rule="all", votes=2)
    assert fitted.labels == 100
    assert fitted.confidence(0.9) == pytest.approx(0.9, abs=0.02)


def test_too_few_selected_verdicts_are_refused() -> None:
    sides = [1, -1] * 30
    margins = [0.9] * (FEWEST_SELECTED - 1) + [None] * 20 + [1 / 3] * 21
    with pytest.raises(DataError, match="only 19 of 60 verdicts pass the gates"):
        fit_selected(margins, [True] * 60, labels(sides), min_margin=1 / 3, stopping_rule="all", votes=2)


def test_agreement_between_judges_needs_no_gold() -> None:
    records = [record("a", [1, -1, 0.2, None]), record("b", [0.5, -0.1, 1, 1]), record("c", [-1, 1, -1, None])]
    alpha, kappas = agreement_between(records)
    assert kappas["a", "b"] == 1
    assert kappas["a", "c"] == pytest.approx((0 - 4 / 9) / (1 - 4 / 9))
    assert alpha is not None
    assert alpha < 0
