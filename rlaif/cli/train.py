"""`rlaif train METHOD`: flags to a TrainConfig, then rlaif.training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rlaif.training.config import TrainConfig
    from rlaif.training.run import DryRun, TrainResult

RUN, HYPER, ADAPTER, DATA, OUTPUT = "The run", "Learning", "What is trained", "Data", "Output"


def train_command(
    method: Annotated[str, typer.Argument(help="What is learnt: dpo (preference pairs) or sft (answers).")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Model folder, hub name, GGUF file or earlier adapter.", rich_help_panel=RUN
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="JSONL file: preference pairs, or answers for sft.", rich_help_panel=RUN)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Run folder; the same command continues a killed run.", rich_help_panel=RUN
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="Preset: a YAML file or a shipped name [default: the method's].", rich_help_panel=RUN),
    ] = None,
    full: Annotated[
        bool | None,
        typer.Option("--full/--lora", help="Train all weights, or a LoRA adapter.", rich_help_panel=ADAPTER),
    ] = None,
    lora_r: Annotated[int | None, typer.Option(help="Rank of the adapter.", rich_help_panel=ADAPTER)] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="The adapter is scaled by alpha / r.", rich_help_panel=ADAPTER)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=HYPER)] = None,
    beta: Annotated[
        float | None, typer.Option(help="How strongly dpo holds to the reference.", rich_help_panel=HYPER)
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Probability that a preference is wrong (cDPO).", rich_help_panel=HYPER)
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.", rich_help_panel=HYPER)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per optimiser step.", rich_help_panel=HYPER)] = None,
    reference: Annotated[str | None, typer.Option(help="auto, adapter-off or cached.", rich_help_panel=HYPER)] = None,
    seed: Annotated[int | None, typer.Option(help="Order of the rows, first weights.", rich_help_panel=HYPER)] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Most tokens of a prompt with one answer.", rich_help_panel=DATA)
    ] = None,
    truncation: Annotated[
        str | None, typer.Option(help="drop, truncate-prompt-left or raise.", rich_help_panel=DATA)
    ] = None,
    micro_batch_tokens: Annotated[
        int | None, typer.Option(help="Most tokens in memory at once.", rich_help_panel=HYPER)
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float64.", rich_help_panel=HYPER)
    ] = None,
    save_steps: Annotated[int | None, typer.Option(help="Steps between checkpoints.", rich_help_panel=OUTPUT)] = None,
    logging_steps: Annotated[
        int | None, typer.Option(help="Steps between lines of metrics.jsonl.", rich_help_panel=OUTPUT)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete an earlier run in the folder and start over.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tokenise and count; load no weights.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Train a policy on a file: LoRA or all weights, with DPO or SFT.

    Example: rlaif train dpo -m HuggingFaceTB/SmolLM2-135M-Instruct --data preferences.jsonl -o runs/dpo

    Every other setting is a key of the preset: 'rlaif show train dpo' prints it, --config names your own.
    """
    from rlaif.training.config import check_method

    _refuse_foreign(
        check_method(method), full,
        {"--beta": beta, "--label-smoothing": label_smoothing, "--reference": reference},
        {"--lora-r": lora_r, "--lora-alpha": lora_alpha},
    )  # fmt: skip
    lora = {key: value for key, value in (("r", lora_r), ("alpha", lora_alpha)) if value is not None}
    settings = _config(
        config or check_method(method),
        method=check_method(method), model=model, data=data, output=output, full=full, lora=lora or None,
        learning_rate=lr, beta=beta, label_smoothing=label_smoothing, epochs=epochs, batch_size=batch_size,
        reference=reference, seed=seed, max_length=max_length, truncation=truncation,
        micro_batch_tokens=micro_batch_tokens, dtype=dtype, save_steps=save_steps, logging_steps=logging_steps,
    )  # fmt: skip
    from rlaif.training import run

    if dry_run:
        _print_dry_run(run.dry_run(settings), as_json)
    else:
        _print_result(run.train(settings, overwrite=overwrite), as_json)


def _refuse_foreign(method: str, full: bool | None, of_dpo: dict[str, object], of_lora: dict[str, object]) -> None:
    """Raises ConfigError for flags that the run would ignore."""
    from rlaif.errors import ConfigError

    foreign = [flag for flag, value in of_dpo.items() if value is not None] if method == "sft" else []
    if foreign:
        raise ConfigError(f"{', '.join(foreign)}: sft compares with no reference and has no such setting; leave it out")
    foreign = [flag for flag, value in of_lora.items() if value is not None] if full else []
    if foreign:
        raise ConfigError(f"{', '.join(foreign)}: with --full there is no adapter; leave one of them out")


def _config(preset: str, **flags: Any) -> "TrainConfig":
    """The preset with the flags over it. Raises ConfigError naming the flags that are missing."""
    from rlaif import resources
    from rlaif.config import read_yaml
    from rlaif.errors import ConfigError
    from rlaif.training.config import load_preset

    given = read_yaml(resources.find("train", preset))
    missing = [name for name in ("model", "data", "output") if flags[name] is None and name not in given]
    if missing:
        listing = ", ".join(f"--{name}" for name in missing)
        raise ConfigError(f"missing {listing}: give it on the command line or as a key of the preset")
    return load_preset(preset, **flags)


def _print_result(result: "TrainResult", as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps(asdict(result), default=str))
        return
    typer.echo(f"trained on {result.rows} rows in {result.steps} steps ({result.skipped} rows left out)")
    shown = ("loss", "rewards/margins", "rewards/accuracies")
    typer.echo(", ".join(f"{name} {result.metrics[name]:.4g}" for name in shown if name in result.metrics))
    typer.echo(f"{result.path}")


def _print_dry_run(plan: "DryRun", as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps(asdict(plan)))
        return
    left_out = "; ".join(f"{count} {reason}" for reason, count in plan.skipped.items()) or "none"
    typer.echo(f"rows: {plan.rows} (left out: {left_out})")
    typer.echo(f"tokens: {plan.tokens}, of them learnt: {plan.completion_tokens}; longest: {plan.longest_tokens}")
    typer.echo(f"optimiser steps: {plan.steps}")
    if plan.trainable_parameters is not None:
        typer.echo(f"trainable parameters: {plan.trainable_parameters:,}")
