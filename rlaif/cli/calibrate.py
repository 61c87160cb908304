"""rlaif calibrate"""

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import options
from rlaif.cli.judge import StopName


def calibrate_command(
    gold: Annotated[
        list[Path], typer.Argument(help="Gold files (rlaif bench convert), at least 50 labels with a side.")
    ],
    judge: Annotated[
        str, typer.Option("--judge", "-j", help="Ensemble or judge: a shipped name (rlaif ls judges) or a YAML file.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="YAML file for the ensemble that gold recommends; votes are kept beside it."
        ),
    ],
    votes: Annotated[int, typer.Option("--votes", min=1, help="Votes per judge and pair, as you will judge with.")] = 2,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Model that judges, instead of the file's; several make a panel."),
    ] = None,
    stop: Annotated[StopName | None, typer.Option("--stop", help="The rule that you will judge with.")] = None,
    stop_probability: Annotated[float | None, typer.Option("--stop-probability", help="For --stop posterior.")] = None,
    margin_gate: Annotated[
        float | None,
        typer.Option("--margin-gate", min=0, help="The margin that pairs will have to be above; 1/3 by default."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only so many pairs, drawn evenly.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw and of the folds.")] = 0,
    engine: options.Engine = options.EngineName.auto,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = "OPENAI_API_KEY",
    concurrency: options.Concurrency = None,
    max_requests: options.MaxRequests = None,
    batch_size: options.BatchSize = 32,
    dtype: options.DType = "auto",
    max_model_len: options.MaxModelLen = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Measure judges on gold labels, choose the ensemble by evidence, and fit what its margins are worth.

    Best single judge, majority and log-odds weights are cross-validated; the cheapest that no other beats beyond chance is
    written, with the map from margin to probability of being right. rlaif judge then fills in `confidence`.

    Example: rlaif calibrate gold.jsonl --judge balanced-panel -m gpt-5-mini --engine openai -o my-panel.yaml
    """
    from rlaif.gold.records import responses_of
    from rlaif.judges.bench import gold_sample
    from rlaif.judges.calibrate import findings
    from rlaif.judges.calibration import calibrate
    from rlaif.judges.plan import judge_plan
    from rlaif.judges.stopping import VOTE_MARGIN

    configs = options.engine_configs(
        model or [], engine=engine, base_url=base_url, api_key_env=api_key_env, concurrency=concurrency,
        max_requests=max_requests, batch_size=batch_size, dtype=dtype, max_model_len=max_model_len,
    )  # fmt: skip
    if dry_run:
        rows = responses_of(gold_sample(gold, limit, seed))
        would = judge_plan(rows, judge, votes=votes, models=configs, comparisons="models", stop="all")
        example = would.pop("example")
        if json:
            options.print_json({**would, "example": example})
        else:
            print(example, end="\n\n")
            options.print_table(would)
        return
    found = calibrate(
        gold, judge, output, votes=votes, models=configs, stop=stop.value if stop else None,
        stop_probability=stop_probability, gate=VOTE_MARGIN if margin_gate is None else margin_gate, limit=limit, seed=seed,
    )  # fmt: skip
    told = {
        "chosen": found.choice.strategy.name,
        **{f"cross-validated, {name}": _estimate(value) for name, value in found.choice.accuracies.items()},
        "agreement of judges (Krippendorff's alpha)": "-" if found.alpha is None else f"{found.alpha:.2f}",
        "confidence fitted on": f"{found.confidence.labels} verdicts above the gate, {found.confidence.curve.method}",
        "output": output,
    }
    rows_told = [
        ["judge", "accuracy, 95 % interval", "order-consistent", "picks first", "picks longest", "unparsed", "kappa", "ECE"],
        *(
            [
                each.judge, _estimate(each.accuracy), _percent(each.order_consistency), _percent(each.first_pick_rate),
                _percent(each.longest_pick_rate), _percent(each.unparsed_share),
                "-" if each.kappa is None else f"{each.kappa:.2f}",
                "-" if each.calibration_error is None else f"{each.calibration_error:.2f}",
            ]
            for each in found.measures
        ),
    ]  # fmt: skip
    if json:
        columns, *values = rows_told
        options.print_json({**told, "judges": [dict(zip(columns, row, strict=True)) for row in values]})
        return
    from rlaif.report.tables import text_table

    print(text_table(rows_told))
    for finding in findings(found.measures):
        print(f"* {finding}")
    options.print_table(told)


def _estimate(value: object) -> str:
    from rlaif.report.tables import estimate

    return estimate(value)  # type: ignore[arg-type]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
