"""rlaif pairs"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import options


class RuleName(StrEnum):
    best_random = "best-random"
    best_worst = "best-worst"
    adjacent = "adjacent"
    all = "all"


def pairs_command(
    judged: Annotated[Path, typer.Argument(help="Verdicts, as written by rlaif judge.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file of preference pairs.")],
    rule: Annotated[
        RuleName,
        typer.Option(
            "--rule", help="best-random: the best response against a random worse one; best-worst; adjacent ranks; all."
        ),
    ] = RuleName.best_random,
    min_margin: Annotated[
        float | None,
        typer.Option(
            "--min-margin",
            min=0,
            max=1,
            help="The margin must be above it (default 1/3 for comparisons, 0 for scores).",
        ),
    ] = None,
    min_chosen: Annotated[
        float | None, typer.Option("--min-chosen", min=0, max=1, help="Least score of the chosen response.")
    ] = None,
    max_length_ratio: Annotated[
        float | None,
        typer.Option("--max-length-ratio", min=1, help="Most of the longer to the shorter response, in characters."),
    ] = None,
    max_pairs_per_prompt: Annotated[
        int | None, typer.Option("--max-pairs-per-prompt", min=1, help="Largest margins first.")
    ] = None,
    keep_truncated: Annotated[
        bool, typer.Option("--keep-truncated", help="Also choose responses cut at the token limit.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the random choices.")] = 0,
    json: options.Json = False,
) -> None:
    """Make preference pairs from verdicts, without judging again.

    Example: rlaif pairs judged.jsonl --rule best-worst --min-margin 0.5 -o preferences.jsonl
    """
    from rlaif.preferences.pairs import make_pairs

    result = make_pairs(
        judged, rule=rule.value, min_margin=min_margin, min_chosen=min_chosen, max_length_ratio=max_length_ratio,
        max_pairs_per_prompt=max_pairs_per_prompt, keep_truncated=keep_truncated, seed=seed, output=output,
    )  # fmt: skip
    share = result.longer_chosen
    told = {
        "pairs": len(result.pairs),
        "longer chosen": None if share is None else round(share, 3),
        "output": output,
    }
    if json:
        options.print_json({**told, "skipped": result.reasons})
        return
    options.print_table({**told, "longer chosen": "-" if share is None else f"{share:.0%} of the pairs"})
    if result.skipped:
        print("gave no pair (each listed in the .d folder beside the output):")
        options.print_table({f"  {reason}": count for reason, count in result.reasons.items()})
