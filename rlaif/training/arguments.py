"""transformers.TrainingArguments from a TrainConfig: what passes through, and what has one place only."""

import dataclasses
import importlib.util
import math
import types
import typing
from pathlib import Path
from typing import Any

from rlaif.errors import ConfigError, did_you_mean
from rlaif.training.config import TrainConfig

OWNED = {
    "output_dir": "the run folder is 'output'",
    "learning_rate": "use the key 'learning_rate' beside trainer",
    "num_train_epochs": "use the key 'epochs'",
    "per_device_train_batch_size": "use 'batch_size' (rows per optimiser step)",
    "gradient_accumulation_steps": "a step is split by tokens, not by rows: use 'batch_size' and 'micro_batch_tokens'",
    "auto_find_batch_size": "a step is split by tokens: use 'micro_batch_tokens'",
    "seed": "use the key 'seed'",
    "data_seed": "use the key 'seed'",
    "bf16": "use 'dtype'",
    "fp16": "use 'dtype'",
    "gradient_checkpointing": "use the key 'gradient_checkpointing'",
    "logging_steps": "use the key 'logging_steps'",
    "logging_strategy": "metrics are logged by steps: use 'logging_steps'",
    "logging_nan_inf_filter": "a loss that is no number stops the run",
    "include_num_input_tokens_seen": "num_tokens is always in the metrics",
    "save_steps": "use the key 'save_steps'",
    "save_strategy": "checkpoints are saved by steps: use 'save_steps'",
    "save_total_limit": "use 'keep_checkpoints'",
    "save_only_model": "a checkpoint without the optimizer could not be continued bit by bit",
    "ignore_data_skip": "a continued run would see rows twice",
    "label_smoothing_factor": "use 'label_smoothing'",
    "use_liger_kernel": "log-probs are chunked already, and the kernel would replace the forward they are computed in",
    "remove_unused_columns": "rows are tokenised before training",
    "train_sampling_strategy": "rows are packed by length within each step",
    "eval_strategy": "use 'validation' and 'eval_steps'",
    "eval_steps": "use the key 'eval_steps' beside trainer",
    "do_eval": "use 'validation' and 'eval_steps'",
    "do_predict": "evaluate the finished run with 'rlaif evaluate'",
    "load_best_model_at_end": "the result is what the last step gave; held-out rows are evaluated as eval/... in "
    "metrics.jsonl (keys 'validation' and 'eval_steps')",
    "resume_from_checkpoint": "the same command continues a run by itself",
    "disable_tqdm": "progress goes to standard error, and is quiet when that is no terminal",
    "neftune_noise_alpha": "the noise would reach the reference too",
    "fsdp": "the launcher says so: accelerate launch with 'rlaif cp accelerate fsdp2'",
    "deepspeed": "the launcher says so: accelerate launch with 'rlaif cp accelerate zero2' or zero3",
    "parallelism_config": "the launcher says how devices share the work: accelerate launch ('rlaif ls accelerate')",
    "push_to_hub": "upload the finished run folder, as with 'hf upload'",
    "torch_compile": "use the key 'compile'",
    "torch_compile_backend": "use the key 'compile'",
    "torch_compile_mode": "use the key 'compile'",
}
"""Keys of TrainingArguments that can not be set under trainer, and what to do instead."""
LOGGERS = {"none": "", "tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""What report_to may name, and the module each needs."""


def check_trainer_keys(config: TrainConfig) -> None:
    """Raises ConfigError naming every key under trainer that is unknown, has its own place, needs what is missing, or
    has a value of the wrong kind."""
    if not config.trainer:
        return
    kinds = _kinds()
    problems = []
    for key, value in config.trainer.items():
        if key in OWNED:
            problems.append(f"trainer.{key} can not be set here: {OWNED[key]}")
        elif key not in kinds:
            near = did_you_mean(key, kinds.keys() - OWNED.keys())
            problems.append(f"unknown key 'trainer.{key}'{near}: not a key of transformers.TrainingArguments")
        elif expected := _expected(key, value, kinds[key]):
            problems.append(f"trainer.{key}: expected {expected}, found {value!r}")
    loggers = config.trainer.get("report_to") or []
    for logger in [loggers] if isinstance(loggers, str) else loggers if isinstance(loggers, list) else [loggers]:
        if logger not in LOGGERS:
            problems.append(f"trainer.report_to: unknown logger {logger!r}; allowed: {', '.join(sorted(LOGGERS))}")
        elif LOGGERS[logger] and importlib.util.find_spec(LOGGERS[logger]) is None:
            problems.append(f"trainer.report_to: {logger} is not installed; install it with: pip install {logger}")
    if problems:
        raise ConfigError("\n".join(problems))


def _kinds() -> dict[str, set[type]]:
    """The keys of TrainingArguments that can be given, and which types each takes."""
    from transformers import TrainingArguments

    hints = typing.get_type_hints(TrainingArguments)
    given = [item.name for item in dataclasses.fields(TrainingArguments) if item.init]
    return {name: {typing.get_origin(kind) or kind for kind in _members(hints[name])} for name in given}


def _members(hint: Any) -> tuple[Any, ...]:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def _expected(key: str, value: object, kinds: set[type]) -> str:
    """What the key takes, if it does not take the value; else empty."""
    if value is None and types.NoneType in kinds:
        return ""
    if dict in kinds and not isinstance(value, dict | str):
        return "a mapping"
    if not kinds & {int, float}:
        return ""
    number = _from_yaml(value, kinds)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        return "a number"
    if float not in kinds and not isinstance(number, int):
        return "a whole number"
    if key == "max_steps":
        return "" if number >= 1 or number == -1 else "at least 1, or -1 for as many steps as 'epochs' makes"
    return "at least 0" if number < 0 else ""


def _from_yaml(value: object, kinds: set[type]) -> object:
    """For a key that takes numbers, one that YAML reads as a text, as 1e-8 without a dot; everything else as it is."""
    if not isinstance(value, str) or not kinds & {int, float}:
        return value
    try:
        return float(value)
    except ValueError:
        return value


def training_arguments(config: TrainConfig, checkpoints: Path, *, autocast: bool) -> Any:
    """The TrainingArguments of a run; `autocast` computes in bfloat16 over float32 weights.

    Raises ConfigError if transformers refuses a value under trainer.
    """
    import torch
    from transformers import TrainingArguments

    ours: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "learning_rate": config.peak_learning_rate,
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": 1,
        "seed": config.seed,
        "data_seed": config.seed,
        "bf16": autocast,
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if config.gradient_checkpointing else None,
        "logging_strategy": "steps",
        "logging_steps": config.logging_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": None,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
        "use_cpu": not torch.cuda.is_available(),
    }
    kinds = _kinds()
    given = {key: _from_yaml(value, kinds.get(key, set())) for key, value in config.trainer.items()}
    try:
        arguments = TrainingArguments(**{**ours, **given})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {error}") from None
    # One process drives one device; without this, transformers would wrap the model for every visible GPU.
    if arguments.device.type == "cuda":
        arguments._n_gpu = 1
    return arguments
