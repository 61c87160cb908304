"""transformers.TrainingArguments from a TrainConfig: what passes through, and what has one place only."""

import dataclasses
import importlib.util
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
    "load_best_model_at_end": "there is no evaluation during training to choose by",
    "resume_from_checkpoint": "the same command continues a run by itself",
    "disable_tqdm": "progress goes to standard error, and is quiet when that is no terminal",
    "neftune_noise_alpha": "the noise would reach the reference too",
    "fsdp": "sharded weights are not supported yet; several processes (torchrun) hold a copy each",
    "deepspeed": "sharded weights are not supported yet; several processes (torchrun) hold a copy each",
    "push_to_hub": "upload the finished run folder, as with 'hf upload'",
    "torch_compile": "compiling is not supported yet: every micro-batch has another shape",
}
"""Keys of TrainingArguments that can not be set under trainer, and what to do instead."""
LOGGERS = {"none": "", "tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""What report_to may name, and the module each needs."""


def check_trainer_keys(config: TrainConfig) -> None:
    """Raises ConfigError naming every key under trainer that is unknown, has its own place, or needs what is missing."""
    if not config.trainer:
        return
    from transformers import TrainingArguments

    allowed = {item.name: item.default for item in dataclasses.fields(TrainingArguments) if item.init}
    problems = []
    for key, value in config.trainer.items():
        if key in OWNED:
            problems.append(f"trainer.{key} can not be set here: {OWNED[key]}")
        elif key not in allowed:
            near = did_you_mean(key, allowed - OWNED.keys())
            problems.append(f"unknown key 'trainer.{key}'{near}: not a key of transformers.TrainingArguments")
        elif _is_number(allowed[key]) and not _is_number(_from_yaml(value)):
            problems.append(f"trainer.{key}: expected a number, found {value!r}")
    loggers = config.trainer.get("report_to") or []
    for logger in [loggers] if isinstance(loggers, str) else loggers if isinstance(loggers, list) else [loggers]:
        if logger not in LOGGERS:
            problems.append(f"trainer.report_to: unknown logger {logger!r}; allowed: {', '.join(sorted(LOGGERS))}")
        elif LOGGERS[logger] and importlib.util.find_spec(LOGGERS[logger]) is None:
            problems.append(f"trainer.report_to: {logger} is not installed; install it with: pip install {logger}")
    if problems:
        raise ConfigError("\n".join(problems))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _from_yaml(value: object) -> object:
    """A number that YAML reads as a text, as 1e-8 without a dot, as the number; everything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
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
    try:
        arguments = TrainingArguments(**{**ours, **{key: _from_yaml(value) for key, value in config.trainer.items()}})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {error}") from None
    # One process drives one device; without this, transformers would wrap the model for every visible GPU.
    if arguments.device.type == "cuda":
        arguments._n_gpu = 1
    return arguments
