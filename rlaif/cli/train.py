"""`rlaif train METHOD`: flags to a TrainConfig, then rlaif.training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rlaif.training.config import TrainConfig
    from rlaif.training.run import DryRun, TrainResult

RUN, HYPER, ADAPTER, DATA, OUTPUT = "The run", "Learning", "What is trained", "Data", "Output"
ONLINE = "Responses and rewards"


def train_command(
    method: Annotated[
        str,
        typer.Argument(
            help="From pairs: dpo, simpo, orpo, cpo, alphapo, tdpo, rainbowpo, step-dpo, rm; from labelled answers: kto, "
            "bco, apo-unpaired; from answers: sft, spin; from prompts, answered and judged as it learns: grpo, rloo, "
            "reinforce++, ppo, spo, online-dpo, online-simpo, online-kto, xpo, nash-md."
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            "--from",
            help="Model folder, hub name, GGUF file, or the folder of an earlier run.",
            metavar="<str>",
            rich_help_panel=RUN,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Pairs, labelled answers, answers or prompts: JSONL, JSON, CSV, Parquet, or a data set: owner/name:split.",
            rich_help_panel=RUN,
        ),
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
    rewards: Annotated[
        list[str] | None,
        typer.Option(
            "--reward",
            help="Judge that rewards responses, a name or a YAML file; repeat for a sum.",
            metavar="JUDGE",
            rich_help_panel=ONLINE,
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="The model of judges whose files name none.", rich_help_panel=ONLINE)
    ] = None,
    judge_base_url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible endpoint that serves it.", rich_help_panel=ONLINE)
    ] = None,
    group_size: Annotated[int | None, typer.Option(help="Responses to each prompt.", rich_help_panel=ONLINE)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of a response.", rich_help_panel=ONLINE)] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the sampling.", rich_help_panel=ONLINE)] = None,
    full: Annotated[
        bool | None,
        typer.Option("--full/--lora", help="Train all weights, or a LoRA adapter.", rich_help_panel=ADAPTER),
    ] = None,
    lora_r: Annotated[int | None, typer.Option(help="Rank of the adapter.", rich_help_panel=ADAPTER)] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="The adapter is scaled by alpha / r.", rich_help_panel=ADAPTER)
    ] = None,
    init_adapter: Annotated[
        Path | None, typer.Option(help="Go on training this adapter instead of a fresh one.", rich_help_panel=ADAPTER)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=HYPER)] = None,
    beta: Annotated[
        float | None, typer.Option(help="How strongly the policy is held to the reference.", rich_help_panel=HYPER)
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(help="Loss of dpo (sigmoid, ipo, ...); repeat for a sum.", rich_help_panel=HYPER, metavar="NAME"),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Probability that a preference is wrong (cDPO).", rich_help_panel=HYPER)
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.", rich_help_panel=HYPER)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per optimiser step.", rich_help_panel=HYPER)] = None,
    reference: Annotated[
        str | None, typer.Option(help="auto, adapter-off, cached, copy or none.", rich_help_panel=HYPER)
    ] = None,
    reference_model: Annotated[
        str | None, typer.Option(help="Another model as the reference.", rich_help_panel=HYPER)
    ] = None,
    validation: Annotated[
        float | None, typer.Option(help="Share of the prompts that is held out.", rich_help_panel=DATA)
    ] = None,
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
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other key of the preset, as trainer.warmup_steps=10; repeatable.",
            metavar="KEY=VALUE",
            rich_help_panel=RUN,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete an earlier run in the folder and start over.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tokenise and count; load no weights.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Train a policy (or a reward model) on a file: a LoRA adapter or all weights.

    Example: rlaif train dpo -m HuggingFaceTB/SmolLM2-135M-Instruct --data preferences.jsonl -o runs/dpo

    Example: rlaif train grpo -m HuggingFaceTB/SmolLM2-135M-Instruct --data prompts.jsonl --reward valid-json -o runs/grpo

    Every method has a preset with a sentence for every key: 'rlaif show train dpo' prints it, --set changes a key,
    --config names a preset of your own. With several GPUs: torchrun --nproc-per-node 8 -m rlaif train ...
    """
    from rlaif.training.config import check_method

    given = {
        "model": _one_model(models), "data": data, "output": output, "full": full, "init_adapter": init_adapter,
        "learning_rate": lr, "beta": beta, "loss": loss or None, "label_smoothing": label_smoothing, "epochs": epochs,
        "batch_size": batch_size, "reference": reference, "reference_model": reference_model, "seed": seed,
        "validation": validation, "max_length": max_length, "truncation": truncation,
        "micro_batch_tokens": micro_batch_tokens, "dtype": dtype, "save_steps": save_steps,
        "logging_steps": logging_steps, "group_size": group_size, "max_tokens": max_tokens, "temperature": temperature,
        "rewards": rewards or None, "judge_model": _judge_model(judge_model, judge_base_url),
    }  # fmt: skip
    lora = {key: value for key, value in (("r", lora_r), ("alpha", lora_alpha)) if value is not None}
    keys = {name: value for name, value in {**given, "lora": lora or None}.items() if value is not None}
    _refuse_foreign(check_method(method), keys)
    settings = _config(config or method, method, keys, assignments or [])
    from rlaif.progress import is_first
    from rlaif.training import run

    if dry_run:
        _print_dry_run(run.dry_run(settings), as_json)
    else:
        result = run.train(settings, overwrite=overwrite)
        if is_first():
            _print_result(result, as_json)


def _refuse_foreign(method: str, keys: dict[str, Any]) -> None:
    """Raises ConfigError for flags that the run would ignore."""
    from rlaif.errors import ConfigError
    from rlaif.training.config import METHODS

    foreign = [FLAGS.get(key, key) for key in keys if key not in METHODS[method].model_fields]
    if foreign:
        listing = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        raise ConfigError(
            f"{listing}: {method} has no such setting; leave it out ('rlaif show train {method}' lists its)"
        )


def _refuse_shape(keys: dict[str, Any]) -> None:
    """Raises ConfigError for the shape of an adapter where none is made."""
    from rlaif.errors import ConfigError

    if "lora" not in keys:
        return
    named = ", ".join(f"lora.{key}" for key in keys["lora"]) if isinstance(keys["lora"], dict) else "lora"
    if keys.get("full"):
        raise ConfigError(f"{named}: with --full there is no adapter; leave one of them out")
    if keys.get("init_adapter") is not None:
        raise ConfigError(
            f"{named}: the adapter that --init-adapter names has its shape already; leave one of them out"
        )


FLAGS = {
    "learning_rate": "lr",
    "rewards": "reward",
    "lora.r": "lora-r",
    "lora.alpha": "lora-alpha",
    "full": "full/--lora",
}
"""Keys whose flag has another name."""


def _judge_model(model: str | None, base_url: str | None) -> dict[str, str] | None:
    """The model of judges that name none, as the preset has it. Raises ConfigError for an endpoint without it."""
    from rlaif.errors import ConfigError

    if base_url and not model:
        raise ConfigError("--judge-base-url needs --judge-model: the name under which the endpoint serves it")
    given = {"model": model, "base_url": base_url}
    return {key: value for key, value in given.items() if value} or None


def _one_model(models: list[str] | None) -> str | None:
    """The model that is named. Raises ConfigError for two, as one by --model and one by --from."""
    from rlaif.errors import ConfigError

    if models and len(models) > 1:
        raise ConfigError(f"--model, -m and --from all name the model to start from; give one, not {', '.join(models)}")
    return models[0] if models else None


def _assigned(assignments: list[str], keys: dict[str, Any]) -> dict[str, Any]:
    """`keys` with each KEY=VALUE put in; a dot in the key goes one mapping deeper, the value is read as YAML.

    Raises ConfigError for what is no such assignment, and for a key that is given twice.
    """
    import yaml

    from rlaif.errors import ConfigError

    result = {name: dict(value) if isinstance(value, dict) else value for name, value in keys.items()}
    given = {path: f"--{FLAGS.get(path, path.replace('_', '-'))}" for path in _paths(keys)}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not path or not equals:
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, as in --set trainer.warmup_steps=10")
        if path == "method":
            raise ConfigError(f"--set {assignment}: the method is the first argument: rlaif train {text} ...")
        for other, how in given.items():
            if f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}."):
                raise ConfigError(f"--set {assignment}: {other} is given by {how} too; leave one of them out")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {assignment}: the value is not YAML; put texts in quotes") from None
        *parents, last = path.split(".")
        inner = result
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
        given[path] = f"--set {assignment}"
    return result


def _paths(keys: dict[str, Any]) -> list[str]:
    """The keys with those of inner mappings after a dot."""
    return [
        path
        for key, value in keys.items()
        for path in ([f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key])
    ]


def _config(preset: str, method: str, keys: dict[str, Any], assignments: list[str]) -> "TrainConfig":
    """The preset with flags and assignments over it. Raises ConfigError naming the flags that are missing."""
    from rlaif import resources
    from rlaif.config import read_yaml
    from rlaif.errors import ConfigError
    from rlaif.training.config import load_preset

    keys = _assigned(assignments, keys)
    _refuse_shape(keys)
    given = read_yaml(resources.find("train", preset))
    missing = [name for name in ("model", "data", "output") if name not in keys and name not in given]
    if missing:
        listing = ", ".join(f"--{name}" for name in missing)
        raise ConfigError(f"missing {listing}: give it on the command line or as a key of the preset")
    return load_preset(preset, **keys, method=method)


def _print_result(result: "TrainResult", as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps(asdict(result), default=str))
        return
    typer.echo(f"trained on {result.rows} rows in {result.steps} steps ({result.skipped} rows left out)")
    shown = ("loss", "rewards/margins", "rewards/accuracies", "accuracy", "eval/loss", "reward", "eval/reward")
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
    if plan.responses is None:
        typer.echo(f"tokens: {plan.tokens}, of them learnt: {plan.completion_tokens}; longest: {plan.longest_tokens}")
    else:
        typer.echo(f"prompt tokens: {plan.tokens}; longest: {plan.longest_tokens}")
        typer.echo(f"responses to sample and judge: {plan.responses}")
    typer.echo(f"optimiser steps: {plan.steps}")
    if plan.trainable_parameters is not None:
        typer.echo(f"trainable parameters: {plan.trainable_parameters:,}")
