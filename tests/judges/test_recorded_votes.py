"""The published votes of six judges on LLMBar, counted, stopped and calibrated by the project's own code."""

import os
from pathlib import Path

import pytest

from benchmarks.judging_votes import (
    CANNOT_LOSE,
    calibration_row,
    cheapest_first,
    judge_row,
    panel_accuracy,
    random_order,
    stopping_row,
)
from benchmarks.recorded_votes import FILE, GPTINST, JUDGES, NATURAL, NEIGHBOR, RecordedVotes, load
from rlaif.judges.stopping import Stopping

GOLD = os.environ.get("RLAIF_GOLD")


@pytest.fixture(scope="module")
def votes() -> RecordedVotes:
    if GOLD is None or not (Path(GOLD) / FILE).is_file():
        pytest.skip(f"RLAIF_GOLD names no folder with {FILE}")
    return load(Path(GOLD), "Vanilla", "Metrics_Reference")


@pytest.mark.parametrize(("subset", "expected"), [(NATURAL, 93.0), (NEIGHBOR, 42.9), (GPTINST, 51.1)])
def test_the_majority_of_six_judges_in_both_orders(votes: RecordedVotes, subset: str, expected: float) -> None:
    assert 100 * panel_accuracy(votes, JUDGES, "Vanilla", subset) == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize(("subset", "expected"), [(NATURAL, (95.0, 95, 97.9)), (NEIGHBOR, (77.6, 93, 80.8))])
def test_gpt_4_in_one_order_and_where_both_orders_agree(
    votes: RecordedVotes, subset: str, expected: tuple[float, float, float]
) -> None:
    row = judge_row(votes, "GPT-4", "Vanilla", subset)
    assert row.kept_accuracy is not None
    measured = (row.one_order, row.kept, row.kept_accuracy)
    assert tuple(100 * value for value in measured) == pytest.approx(expected, abs=0.5)


def test_a_posterior_of_95_percent_needs_less_than_half_of_the_votes(votes: RecordedVotes) -> None:
    """Natural, 16 votes in random order, mean of 40 seeds: at most 45 % of the votes, accuracy within 0.5 points."""
    row = stopping_row(votes, NATURAL, Stopping("posterior", 0.95), random_order, seeds=40)
    assert row.share <= 0.45
    assert row.accuracy == pytest.approx(row.full_accuracy, abs=0.005)


@pytest.mark.parametrize("queue", [random_order, cheapest_first])
def test_cannot_lose_saves_votes_and_changes_nothing(votes: RecordedVotes, queue) -> None:  # type: ignore[no-untyped-def]
    """On every subset: the same outcome and the same side of the gate of 1/3 for each comparison, with fewer votes."""
    for subset in votes.subsets:
        row = stopping_row(votes, subset, CANNOT_LOSE, queue, seeds=2)
        assert row.same == 1, subset
        assert row.accuracy == row.full_accuracy, subset
        assert row.share < 1, subset


@pytest.mark.parametrize("strategy", ["Vanilla", "Metrics_Reference"])
def test_a_calibrated_ensemble_is_as_good_as_its_best_judge_and_far_above_majority(
    votes: RecordedVotes, strategy: str
) -> None:
    """Neighbor and GPTInst, 50 labels, held-out accuracy over 20 splits."""
    row = calibration_row(votes, strategy)
    assert row["calibrated"] >= row["best single"]
    assert row["calibrated"] >= row["majority"] + 0.25
