"""Tables, as text for a terminal and as Markdown."""

from collections.abc import Sequence

from rlaif.evaluation import Evaluation
from rlaif.judges.stats import JudgeStats
from rlaif.statistics import Estimate


def judge_rows(judges: Sequence[JudgeStats]) -> list[list[str]]:
    """A header and one row per judge: what its votes alone tell of it."""
    header = [
        "judge",
        "model",
        "weight",
        "votes",
        "unparsed",
        "picks first",
        "order-consistent",
        "agrees",
        "mean score",
    ]
    return [header] + [
        [
            stats.judge,
            stats.model.rstrip("/").rsplit("/", 1)[-1],
            f"{stats.weight:g}" if stats.weight else "0 (shown only)",
            str(stats.asked),
            str(stats.unparsed),
            _share(stats.first_picks, stats.decided),
            _share(stats.consistent, stats.both_orders),
            _share(stats.agreed, stats.compared),
            "-" if stats.mean_score is None else f"{stats.mean_score:.2f}",
        ]
        for stats in judges
    ]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows with aligned columns; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first row is the header."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "-"


def evaluation_rows(evaluation: Evaluation) -> list[list[str]]:
    """A header and one row per measure: base against trained."""
    base, policy = evaluation.baseline, evaluation.policy
    return [
        ["", "base", "trained"],
        ["score (pass rate), 95 % interval", estimate(base.score), estimate(policy.score)],
        [
            "preferred, ties as half",
            "",
            f"{estimate(evaluation.win_rate)}; {evaluation.wins} won, {evaluation.ties} tied, {evaluation.losses} lost",
        ],
        ["answers", str(base.answers), str(policy.answers)],
        [
            "mean tokens",
            _number(base.mean_tokens, 1),
            f"{_number(policy.mean_tokens, 1)} (x {_number(evaluation.length_ratio, 2)})",
        ],
        ["ended by itself", percent(base.finished), percent(policy.finished)],
        [
            "distinct 1-grams / 2-grams",
            *(f"{_number(m.distinct_1, 2)} / {_number(m.distinct_2, 2)}" for m in (base, policy)),
        ],
        ["distinct answers", percent(base.distinct_answers), percent(policy.distinct_answers)],
        ["relevance, nats per token", _number(base.relevance, 2), _number(policy.relevance, 2)],
    ]


def estimate(value: Estimate | None) -> str:
    """A share with its interval, in percent."""
    return "-" if value is None else f"{value.value:.1%} [{value.low:.0%}, {value.high:.0%}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share in percent, '-' for none."""
    return "-" if value is None else f"{value:.{digits}%}"
