"""rlaif calibrate"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli import options

if TYPE_CHECKING:
    from rlaif.judges.calibration import Calibration


@options.with_engine_options
def calibrate_command(
    gold: Annotated[
        list[Path], typer.Argument(help="Gold files (rlaif bench convert), at least 50 labels with a side.")
    ],
    judge: options.JudgeName,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="YAML file for the ensemble that gold recommends; votes are kept beside it."
        ),
    ],
    votes: options.Votes = 2,
    model: options.JudgingModels = None,
    stop: Annotated[options.StopName | None, typer.Option("--stop", help="The rule that you will judge with.")] = None,
    stop_probability: options.StopProbability = None,
    margin_gate: Annotated[
        float | None,
        typer.Option("--margin-gate", min=0, help="The margin that pairs will have to be above; 1/3 by default."),
    ] = None,
    limit: options.GoldLimit = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw and of the folds.")] = 0,
    *,
    through: options.EngineOptions,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Measure judges on gold labels, choose the ensemble by evidence, and fit what its margins are worth.

    Best single judge, majority and log-odds weights are cross-validated; the cheapest that no other beats beyond chance is
    written, with the map from margin to probability of being right. rlaif judge then fills in `confidence`.

    Example: rlaif calibrate gold.jsonl --judge balanced-panel -m gpt-5-mini --engine openai -o my-panel.yaml
    """
    from rlaif.errors import QualityGateError
    from rlaif.gold.records import responses_of
    from rlaif.judges.bench import gold_sample
    from rlaif.judges.calibration import calibrate, checked_labels
    from rlaif.judges.plan import judge_plan
    from rlaif.judges.stopping import VOTE_MARGIN

    configs = through.configs(model or [])
    if dry_run:
        pairs = gold_sample(gold, limit, seed)
        checked_labels(gold, pairs)
        would = judge_plan(responses_of(pairs), judge, votes=votes, models=configs, comparisons="models", stop="all")
        options.print_plan(would, json)
        return
    failed: QualityGateError | None = None
    try:
        found = calibrate(
            gold, judge, output, votes=votes, models=configs, stop=stop.value if stop else None, limit=limit, seed=seed,
            stop_probability=stop_probability, gate=VOTE_MARGIN if margin_gate is None else margin_gate,
        )  # fmt: skip
    except QualityGateError as error:
        found, failed = error.result, error
    if json:
        options.print_json({**found.as_dict(), "output": output})
    else:
        _print(found, output)
    if failed is not None:
        raise failed


def _print(found: "Calibration", output: Path) -> None:
    from rlaif.judges.calibrate import findings
    from rlaif.report.gold import calibration_rows
    from rlaif.report.tables import estimate, text_table

    print(text_table(calibration_rows(found.measures)))
    for finding in findings(found.measures):
        print(f"* {finding}")
    fitted = found.confidence
    told = {
        "chosen": found.choice.strategy.name,
        **{f"cross-validated, {name}": estimate(value) for name, value in found.choice.accuracies.items()},
        "agreement of judges (Krippendorff's alpha)": "-" if found.alpha is None else f"{found.alpha:.2f}",
        "confidence fitted on": f"{fitted.labels} verdicts above the gate, {fitted.curve.method}" if fitted else "-",
        "output": output,
    }
    options.print_table(told)
