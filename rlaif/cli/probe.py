"""rlaif probe"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlaif.cli import options

if TYPE_CHECKING:
    from rlaif.judges.probe import ProbeResult


class DefencesName(StrEnum):
    on = "on"
    off = "off"
    both = "both"


@options.with_engine_options
def probe_command(
    judge: options.JudgeName,
    model: options.JudgingModels = None,
    gold: Annotated[
        Path | None,
        typer.Option("--gold", help="Pairs with a better and a worse answer (gold JSONL); by default 21 shipped ones."),
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", help="Only this attack; repeat for several.", metavar="NAME")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use so many pairs.")] = None,
    votes: options.Votes = 2,
    defences: Annotated[
        DefencesName, typer.Option("--defences", help="Fences and escaped control tokens; both: to see what they do.")
    ] = DefencesName.on,
    max_success: Annotated[
        float | None,
        typer.Option(
            "--max-success", min=0, max=1, help="Exit with status 3 if an attack wins a larger share than this."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for votes and probe.json; no vote is asked twice.")
    ] = None,
    *,
    through: options.EngineOptions,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Attack a judge: how often does each attack make the worse answer win?

    Example: rlaif probe --judge helpful -m gpt-5-mini --engine openai --defences both -o runs/probe
    """
    from rlaif.errors import QualityGateError
    from rlaif.judges.probe import SHIPPED_PAIRS, probe, probe_plan

    configs = through.configs(model or [])
    settings: tuple[Literal["on", "off"], ...] = (
        ("off", "on") if defences == "both" else ("on",) if defences == "on" else ("off",)
    )
    source = gold or SHIPPED_PAIRS
    if dry_run:
        would = probe_plan(
            judge, gold=source, attacks=attack or (), limit=limit, votes=votes, models=configs, defences=settings
        )
        if json:
            options.print_json(would)
        else:
            for name, text in would.pop("examples").items():
                print(f"--- {name} ---\n{text}\n")
            options.print_table(would)
        return
    failed: QualityGateError | None = None
    try:
        result = probe(
            judge, gold=source, attacks=attack or (), limit=limit, votes=votes, models=configs, defences=settings,
            max_success=max_success, output=output, overwrite=overwrite,
        )  # fmt: skip
    except QualityGateError as error:
        result, failed = error.result, error
    if json:
        options.print_json(result.as_dict())
    else:
        _print(result)
    if failed is not None:
        raise failed


def _print(result: "ProbeResult") -> None:
    from rlaif.report.probe import probe_rows
    from rlaif.report.tables import text_table

    for judge, rows, remarks in probe_rows(result):
        print(f"{judge}\n\n{text_table(rows)}\n")
        print("\n".join(f"* {remark}" for remark in remarks), end="\n\n")
    told = {"pairs": result.pairs, "new votes": result.new_judgments, "votes already there": result.reused_judgments}
    if result.ties_left_out:
        told["ties left out"] = result.ties_left_out
    options.print_table(told)
