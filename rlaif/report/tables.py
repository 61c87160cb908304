"""Tables, as text for a terminal and as Markdown."""

from collections.abc import Sequence

from rlaif.judges.stats import JudgeStats


def judge_rows(judges: Sequence[JudgeStats]) -> list[list[str]]:
    """A header and one row per judge: what its votes alone tell of it."""
    header = ["judge", "model", "weight", "votes", "unparsed", "picks first", "order-consistent", "agrees", "mean score"]
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
