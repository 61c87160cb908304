"""rlaif judge"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli import options

if TYPE_CHECKING:
    from rlaif.judges.stats import JudgeStats


class ComparisonsName(StrEnum):
    all = "all"
    ring = "ring"
    screened = "screened"
    models = "models"


@options.with_engine_options
def judge_command(
    responses: Annotated[Path, typer.Argument(help="Responses, as written by rlaif generate.")],
    judge: options.JudgeName,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="JSONL file of verdicts; votes are kept beside it and never asked twice."),
    ],
    votes: options.Votes = 2,
    model: options.JudgingModels = None,
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", help="Also write preference pairs here (with the defaults of rlaif pairs)."),
    ] = None,
    comparisons: Annotated[
        ComparisonsName | None,
        typer.Option(
            "--comparisons",
            help="Of a prompt's responses: all pairs; ring: each with the next; screened: one pair; models: across models.",
        ),
    ] = None,
    stop: Annotated[
        options.StopName | None,
        typer.Option(
            "--stop",
            help="When a comparison has enough votes: cannot-lose (default): no further vote could change the outcome or a "
            "gate; posterior: one side leads with --stop-probability; all: never.",
        ),
    ] = None,
    stop_probability: options.StopProbability = None,
    margin_gate: Annotated[
        list[float] | None,
        typer.Option(
            "--margin-gate",
            min=0,
            help="Margin that pairs will have to be above (rlaif pairs --min-margin), default 1/3; cannot-lose keeps to it.",
        ),
    ] = None,
    max_unparsed: Annotated[
        float,
        typer.Option(
            "--max-unparsed", min=0, max=1, help="Share of a judge's votes without a verdict that is allowed."
        ),
    ] = 0.05,
    *,
    through: options.EngineOptions,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Judge responses by votes of one or several judges.

    Example: rlaif judge responses.jsonl --judge helpful --votes 3 -m gpt-5-mini --engine openai
    -o judged.jsonl --pairs preferences.jsonl
    """
    from rlaif.errors import QualityGateError
    from rlaif.judges.config import Comparisons, StopRule
    from rlaif.judges.plan import judge_plan
    from rlaif.judges.run import judge as judge_responses
    from rlaif.judges.stopping import VOTE_MARGIN
    from rlaif.preferences.pairs import make_pairs
    from rlaif.records import refuse_same_file

    configs = through.configs(model or [])
    rule: Comparisons | None = comparisons.value if comparisons is not None else None
    stop_rule: StopRule | None = stop.value if stop is not None else None
    gates = tuple(margin_gate) if margin_gate else (VOTE_MARGIN,)
    if dry_run:
        would = judge_plan(
            responses, judge, votes=votes, models=configs, comparisons=rule, stop=stop_rule,
            stop_probability=stop_probability, gates=gates,
        )  # fmt: skip
        options.print_plan(would, json)
        return
    refuse_same_file(responses, output, pairs)
    failed: QualityGateError | None = None
    try:
        result = judge_responses(
            responses, judge, votes=votes, models=configs, comparisons=rule, stop=stop_rule,
            stop_probability=stop_probability, gates=gates, output=output, max_unparsed=max_unparsed, overwrite=overwrite,
        )  # fmt: skip
    except QualityGateError as error:
        result, failed = error.result, error
    told = {
        "verdicts": len(result.verdicts), "new votes": result.new_judgments, "votes already there": result.reused_judgments,
        "failed votes": len(result.failures), "prompts without a comparison": sum("judge" not in row for row in result.skipped),
        "output": output,
    }  # fmt: skip
    if left_out := sum("judge" in row for row in result.skipped):
        told["left out by a judge"] = left_out
    if pairs is not None:
        made = make_pairs(result.verdicts, output=pairs)
        told |= {"preference pairs": len(made.pairs), "pairs": pairs}
    if json:
        options.print_json({**told, "judges": [stats.as_dict() for stats in result.judges]})
    else:
        print(stats_table(result.judges))
        options.print_table(told)
    if failed is not None:
        raise failed


def stats_table(judges: "list[JudgeStats]") -> str:
    """The judges' statistics as text for a terminal."""
    from rlaif.report.tables import judge_rows, text_table

    return text_table(judge_rows(judges))
