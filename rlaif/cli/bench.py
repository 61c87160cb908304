"""rlaif bench: gold labels, and how often a judge agrees with them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import options

HELP = "Measure judges on gold labels: pairs whose better response is known."


class SetName(StrEnum):
    llmbar = "llmbar"
    llmbar_votes = "llmbar_votes"
    pandalm = "pandalm"
    evalbiasbench = "evalbiasbench"
    hh_rlhf = "hh_rlhf"
    hhh = "hhh"
    gsm8k = "gsm8k"
    gsm8k_prompts = "gsm8k_prompts"
    ifeval = "ifeval"
    xstest = "xstest"
    self_instruct = "self_instruct"
    arena_hard = "arena_hard"
    mt_bench = "mt_bench"


def convert_command(
    set: Annotated[SetName, typer.Argument(metavar="SET", help=f"One of: {', '.join(SetName)}.")],
    source: Annotated[Path, typer.Argument(help="A file of the set as it is published, or the folder with its files.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSONL file; rows that give nothing are listed in <output>.d/.")
    ],
    json: options.Json = False,
) -> None:
    """Convert a public set: pairs to gold rows, recorded votes to judgments, prompts to what rlaif generate reads.

    Pairs are stored with the better response first as often as second.

    Example: rlaif bench convert llmbar downloads/llmbar -o gold/llmbar.jsonl
    """
    from rlaif.gold.convert import convert

    told = {**convert(set.value, source, output).as_dict(), "output": output}
    if json:
        options.print_json(told)
        return
    for key in ("skipped", "subsets"):
        counts = told.pop(key, {})
        told |= {f"  {name}": count for name, count in counts.items()} if len(counts) > 1 or key == "skipped" else {}
    shares = {key: f"{value:.1%}" for key, value in told.items() if isinstance(value, float)}
    options.print_table({**told, **shares})


@options.with_engine_options
def judge_command(
    gold: Annotated[list[Path], typer.Argument(help="Gold files, as written by rlaif bench convert.")],
    judge: options.JudgeName,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for verdicts, votes (never asked twice) and bench.json."),
    ] = None,
    votes: options.Votes = 2,
    model: options.JudgingModels = None,
    stop: Annotated[
        options.StopName,
        typer.Option("--stop", help="As in rlaif judge; here every vote is asked unless you say otherwise."),
    ] = options.StopName.all,
    stop_probability: options.StopProbability = None,
    limit: options.GoldLimit = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw of --limit.")] = 0,
    *,
    through: options.EngineOptions,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Judge gold pairs and print how often the judge is right, beside guessing and always taking the longer response.

    A judge's tie counts half; pairs without a verdict and gold ties are counted beside the accuracy, not in it.

    Example: rlaif bench judge gold/llmbar.jsonl gold/pandalm.jsonl --judge helpful -m gpt-5-mini --engine openai
    --limit 100 -o runs/bench
    """
    from rlaif.errors import QualityGateError
    from rlaif.gold.records import responses_of
    from rlaif.judges.bench import bench, findings, gold_sample
    from rlaif.judges.plan import judge_plan
    from rlaif.report.gold import bench_rows
    from rlaif.report.tables import text_table

    configs = through.configs(model or [])
    if dry_run:
        rows = responses_of(gold_sample(gold, limit, seed))
        would = judge_plan(
            rows, judge, votes=votes, models=configs, comparisons="models", stop=stop.value, stop_probability=stop_probability
        )  # fmt: skip
        options.print_plan(would, json)
        return
    failed: QualityGateError | None = None
    try:
        result = bench(
            gold, judge, votes=votes, models=configs, stop=stop.value, stop_probability=stop_probability, limit=limit,
            seed=seed, output=output, overwrite=overwrite,
        )  # fmt: skip
    except QualityGateError as error:
        result, failed = error.result, error
    if json:
        options.print_json(result.as_dict())
    else:
        print(text_table(bench_rows(result.measures)))
        for finding in findings(result.overall()):
            print(f"* {finding}")
        print("A judge's tie counts half; gold ties and pairs without a verdict are not in the accuracy.")
    if failed is not None:
        raise failed
