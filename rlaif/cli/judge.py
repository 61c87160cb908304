"""rlaif judge"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli import options

if TYPE_CHECKING:
    from rlaif.judges.stats import JudgeStats


class StopName(StrEnum):
    all = "all"
    cannot_lose = "cannot-lose"
    posterior = "posterior"


class ComparisonsName(StrEnum):
    all = "all"
    ring = "ring"
    screened = "screened"
    models = "models"


def judge_command(
    responses: Annotated[Path, typer.Argument(help="Responses, as written by rlaif generate.")],
    judge: Annotated[
        str, typer.Option("--judge", "-j", help="Judge or ensemble: a shipped name (rlaif ls judges) or a YAML file.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="JSONL file of verdicts; votes are kept beside it and never asked twice."),
    ],
    votes: Annotated[
        int, typer.Option("--votes", min=1, help="Votes per judge and comparison, their orders alternating.")
    ] = 2,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Model that judges, instead of the file's; several make a panel."),
    ] = None,
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
        StopName | None,
        typer.Option(
            "--stop",
            help="When a comparison has enough votes: cannot-lose (default): no further vote could change the outcome or a "
            "gate; posterior: one side leads with --stop-probability; all: never.",
        ),
    ] = None,
    stop_probability: Annotated[
        float | None, typer.Option("--stop-probability", help="For --stop posterior; 0.95 unless the file says.")
    ] = None,
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
    engine: options.Engine = options.EngineName.auto,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = "OPENAI_API_KEY",
    concurrency: options.Concurrency = None,
    max_requests: options.MaxRequests = None,
    batch_size: options.BatchSize = 32,
    dtype: options.DType = "auto",
    max_model_len: options.MaxModelLen = None,
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

    configs = options.engine_configs(
        model or [], engine=engine, base_url=base_url, api_key_env=api_key_env, concurrency=concurrency,
        max_requests=max_requests, batch_size=batch_size, dtype=dtype, max_model_len=max_model_len,
    )  # fmt: skip
    rule: Comparisons | None = comparisons.value if comparisons is not None else None
    stop_rule: StopRule | None = stop.value if stop is not None else None
    gates = tuple(margin_gate) if margin_gate else (VOTE_MARGIN,)
    if dry_run:
        would = judge_plan(
            responses, judge, votes=votes, models=configs, comparisons=rule, stop=stop_rule,
            stop_probability=stop_probability, gates=gates,
        )  # fmt: skip
        if json:
            options.print_json(would)
        else:
            print(would.pop("example"), end="\n\n")
            options.print_table(would)
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
        "failed votes": len(result.failures), "prompts without a comparison": len(result.skipped), "output": output,
    }  # fmt: skip
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
