"""The configuration of a training run: presets in train/*.yaml, flags of `rlaif train`, or TrainConfig in Python."""

import math
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, JsonValue, model_validator

from rlaif import resources
from rlaif.config import Config, read_yaml, validate
from rlaif.errors import ConfigError, did_you_mean

Method = Literal["dpo", "sft"]
METHODS: tuple[Method, ...] = get_args(Method)
Truncation = Literal["drop", "truncate-prompt-left", "raise"]
Reference = Literal["auto", "adapter-off", "cached"]

LEARNING_RATES: dict[tuple[Method, bool], float] = {
    ("dpo", False): 1e-5,
    ("dpo", True): 1e-6,
    ("sft", False): 2e-4,
    ("sft", True): 2e-5,
}
"""learning_rate: auto, by method and whether all weights are trained."""


class LoraSettings(Config):
    """The low-rank adapter that is trained."""

    r: int = Field(default=16, ge=1)
    """Rank of the adapter's matrices."""
    alpha: float = Field(default=32, gt=0)
    """The adapter's output is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input while training."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which layers get an adapter: 'all-linear' (all but the language-model head) or a list of module names."""


class TrainConfig(Config):
    """One training run."""

    method: Method = "dpo"
    """What is learnt: dpo (from preference pairs) or sft (from answers)."""
    model: str
    """The policy to start from: a model folder, hub name, GGUF file, or the folder of an earlier adapter."""
    data: Path
    """JSONL file to learn from: preference pairs for dpo; pairs (chosen), responses, prompt + completion or messages
    for sft."""
    output: Path
    """The run folder. The same command continues a killed run in it."""
    learning_rate: float | Literal["auto"] = "auto"
    """Peak learning rate. auto: dpo 1e-5 with LoRA and 1e-6 with full; sft 2e-4 with LoRA and 2e-5 with full."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the data."""
    batch_size: int = Field(default=16, ge=1)
    """Rows (pairs, or answers) per optimiser step."""
    max_length: int = Field(default=2048, ge=2)
    """Most tokens of a prompt with one completion."""
    truncation: Truncation = "drop"
    """What happens to longer rows: drop (listed in skipped.jsonl), truncate-prompt-left (completions are never cut),
    or raise (stop with an error)."""
    loss: Literal["sigmoid"] = "sigmoid"
    """The loss of dpo: sigmoid is the paper's; with label_smoothing it is conservative DPO."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly dpo holds the policy to the reference: larger stays closer."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The probability that a preference is the wrong way round (conservative DPO); 0 is plain dpo."""
    full: bool = False
    """Train all weights instead of a LoRA adapter."""
    lora: LoraSettings = LoraSettings()
    """The adapter's shape; not used with full."""
    reference: Reference = "auto"
    """Where dpo's reference log-probs come from: adapter-off (the model without its adapter, at every step), cached
    (one pass before training), or auto (cached with full or more than one epoch, else adapter-off)."""
    micro_batch_tokens: int | Literal["auto"] = Field(default="auto")
    """Most tokens in memory at once; larger is faster on a GPU until memory is full. auto: 16384 on CUDA, 2048 on the
    CPU. Changes nothing in the result but rounding."""
    seed: int = Field(default=0, ge=0)
    """Of the order of the rows, the adapter's first weights and dropout."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Number format of the model's weights. auto: bfloat16 on CUDA, float32 on the CPU. With full, bfloat16 is used
    for the computation and the weights stay float32."""
    save_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints; a killed run continues from the last one."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints are kept."""
    logging_steps: int = Field(default=1, ge=1)
    """Steps between lines of metrics.jsonl, each the mean since the line before."""
    gradient_checkpointing: bool = False
    """Compute activations twice to save memory."""
    trainer: dict[str, JsonValue] = Field(default_factory=dict)
    """Any other key of transformers.TrainingArguments, passed through (warmup_steps, lr_scheduler_type, optim, ...)."""

    @model_validator(mode="after")
    def _possible(self) -> "TrainConfig":
        if isinstance(self.learning_rate, float) and not self.learning_rate > 0:
            raise ValueError("learning_rate must be greater than 0")
        if isinstance(self.micro_batch_tokens, int) and self.micro_batch_tokens < 1:
            raise ValueError("micro_batch_tokens must be at least 1")
        if self.full and self.reference == "adapter-off":
            raise ValueError(
                "reference: adapter-off is impossible with full: there is no adapter to switch off; "
                "use reference: cached, or train a LoRA adapter"
            )
        if self.method == "sft" and self.label_smoothing:
            raise ValueError("label_smoothing belongs to dpo (wrong preferences); sft has none; leave it out")
        return self

    @property
    def peak_learning_rate(self) -> float:
        return LEARNING_RATES[self.method, self.full] if self.learning_rate == "auto" else self.learning_rate

    def total_steps(self, n_rows: int) -> int:
        """The optimiser steps of a run over n_rows."""
        limit = self.trainer.get("max_steps")
        if isinstance(limit, int) and limit > 0:
            return limit
        return math.ceil(self.epochs * math.ceil(n_rows / self.batch_size))

    @property
    def reference_kind(self) -> Literal["none", "adapter-off", "cached"]:
        """Where the reference comes from once `auto` is decided; none for methods without one."""
        if self.method == "sft":
            return "none"
        if self.reference == "auto":
            return "cached" if self.full or self.epochs > 1 else "adapter-off"
        return self.reference


def load_preset(name: str, **overrides: Any) -> TrainConfig:
    """The preset `name` (shipped, or a path) with the given keys replaced; None leaves a key as the preset has it.

    Mappings such as lora and trainer are merged key by key. Raises ConfigError naming every wrong key and value.
    """
    path = resources.find("train", name)
    data = read_yaml(path)
    for key, value in overrides.items():
        if value is None:
            continue
        old = data.get(key)
        data[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    given = [key for key, value in overrides.items() if value is not None]
    return validate(data, TrainConfig, f"{path.name} with {', '.join(given)} as given" if given else str(path))


def check_method(name: str) -> Method:
    """`name` as a method. Raises ConfigError naming the nearest one."""
    for method in METHODS:
        if name == method:
            return method
    raise ConfigError(f"unknown method '{name}'{did_you_mean(name, METHODS)}; methods: {', '.join(METHODS)}")
