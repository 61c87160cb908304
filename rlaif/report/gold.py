"""Judges on gold labels as rows for a table."""

from collections.abc import Sequence

from rlaif.judges.bench import Measure
from rlaif.judges.calibrate import JudgeMeasures
from rlaif.report.tables import estimate, percent


def bench_rows(measures: Sequence[Measure]) -> list[list[str]]:
    """A header and one row per judge and subset."""
    header = [
        "judge", "subset", "pairs", "accuracy, 95 % interval", "random", "longest", "first stored", "ties", "no verdict",
        "gold ties", "order-consistent", "picks first", "picks longest", "votes", "unparsed",
    ]  # fmt: skip
    return [header] + [
        [
            row.judge, row.subset, str(row.pairs), estimate(row.accuracy), "50.0%", percent(row.longest, 1),
            percent(row.first_stored, 1), str(row.tied), str(row.no_verdict), str(row.gold_ties),
            percent(row.order_consistency, 1), percent(row.first_pick_rate, 1), percent(row.longest_pick_rate, 1),
            str(row.votes), str(row.unparsed),
        ]
        for row in measures
    ]  # fmt: skip


def calibration_rows(measures: Sequence[JudgeMeasures]) -> list[list[str]]:
    """A header and one row per judge."""
    header = [
        "judge", "accuracy, 95 % interval", "order-consistent", "picks first", "picks longest", "unparsed", "kappa",
        "calibration error",
    ]  # fmt: skip
    return [header] + [
        [
            row.judge, estimate(row.accuracy), percent(row.order_consistency, 1), percent(row.first_pick_rate, 1),
            percent(row.longest_pick_rate, 1), percent(row.unparsed_share, 1), _number(row.kappa),
            _number(row.calibration_error),
        ]
        for row in measures
    ]  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
