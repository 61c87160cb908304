"""What every training run says, whatever its method. Importing this loads no torch."""

import math
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from rlaif.config import Config

Truncation = Literal["drop", "truncate-prompt-left", "raise"]
ReferenceSource = Literal["auto", "adapter-off", "cached", "copy", "none"]
ReferenceKind = Literal["none", "adapter-off", "cached", "copy"]
DataKind = Literal["pairs", "answers", "conversations", "labels", "steps", "prompts"]


class LoraSettings(Config):
    """The low-rank adapter that is trained."""

    r: int = Field(default=16, ge=1)
    """Rank of the adapter's matrices."""
    alpha: float = Field(default=32, gt=0)
    """The adapter's output is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input while training."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which layers get an adapter: 'all-linear' (all but the language-model head) or a list of module names. Of a
    mixture-of-experts model, 'all-linear' is also its routers and experts where peft knows how they are fused (Mixtral,
    Qwen3-MoE, OLMoE and others); for others the run says that they stay as they are."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) instead, which keeps large ranks stable (rsLoRA, arXiv 2312.03732)."""
    dora: bool = False
    """Learn each weight's length and direction apart (DoRA, arXiv 2402.09353); slower."""


class TrainConfig(Config):
    """One training run. Each method has a subclass with its own keys."""

    method: str
    """What is learnt; 'rlaif ls train' lists the methods."""
    model: str
    """The policy to start from: a model folder, hub name, GGUF file, or the folder of an earlier run."""
    data: Path
    """What to learn from: a file (JSONL, JSON, CSV or Parquet), or a data set of the hub as owner/name or
    owner/name:split."""
    output: Path
    """The run folder. The same command continues a killed run in it."""
    learning_rate: float | Literal["auto"] = "auto"
    """Peak learning rate. auto: the method's own for an adapter or for all weights."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the data."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per optimiser step, over all devices."""
    max_length: int = Field(default=2048, ge=2)
    """Most tokens of a prompt with one completion."""
    truncation: Truncation = "drop"
    """What happens to longer rows: drop (listed in skipped.jsonl), truncate-prompt-left (completions are never cut),
    or raise (stop with an error)."""
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Passed to the model's chat template, as enable_thinking: false."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Share of the prompts that is held out; its loss and metrics are logged as eval/..."""
    eval_steps: int = Field(default=50, ge=1)
    """Steps between evaluations on the held-out rows (and once at the end)."""
    full: bool = False
    """Train all weights instead of a LoRA adapter."""
    lora: LoraSettings = LoraSettings()
    """The adapter's shape; not used with full."""
    init_adapter: Path | None = None
    """Go on training this adapter (of the same base model) instead of a fresh one."""
    quantize: Literal["none", "4bit", "8bit"] = "none"
    """Hold the frozen base in 4 or 8 bits (QLoRA, arXiv 2305.14314); needs bitsandbytes. Of a mixture-of-experts model the
    experts stay whole."""
    router_loss: float = Field(default=0.0, ge=0)
    """Weight of the load-balancing loss of mixture-of-experts models (Switch Transformer, arXiv 2101.03961, equation 4),
    which keeps routers from sending everything to a few experts; 0.001 to 0.01 is usual. It is that of each micro-batch,
    so here micro_batch_tokens does change the result."""
    micro_batch_tokens: int | Literal["auto"] = Field(default="auto")
    """Most tokens in memory at once; larger is faster on a GPU until memory is full. auto: 16384 on CUDA, 2048 on the
    CPU. Changes nothing in the result but rounding (and router_loss)."""
    seed: int = Field(default=0, ge=0, lt=2**32)
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
    compile: bool = False
    """Compile the policy's layers with torch.compile, which takes minutes at the start; for CUDA. On the CPU it replaces
    layers and attention that are written for it by hand. With lora.dora, or adapters of fused experts, nothing is gained.
    Changes nothing in the result but rounding (and the random numbers of lora.dropout)."""
    trainer: dict[str, JsonValue] = Field(default_factory=dict)
    """Any other key of transformers.TrainingArguments, passed through (warmup_steps, lr_scheduler_type, optim, ...)."""

    data_kind: ClassVar[DataKind]
    """Which rows the method reads."""
    learning_rates: ClassVar[tuple[float, float]]
    """learning_rate: auto, for an adapter and for all weights."""

    @model_validator(mode="after")
    def _possible(self) -> "TrainConfig":
        if isinstance(self.learning_rate, float) and not self.learning_rate > 0:
            raise ValueError("learning_rate must be greater than 0")
        if isinstance(self.micro_batch_tokens, int) and self.micro_batch_tokens < 1:
            raise ValueError("micro_batch_tokens must be at least 1")
        if self.full and self.init_adapter is not None:
            raise ValueError("init_adapter is impossible with full: no adapter is trained; name its run as the model")
        if self.full and self.quantize != "none":
            raise ValueError("quantize is impossible with full: weights of few bits can not be trained; use LoRA")
        if self.dtype == "float64" and self.quantize != "none":
            raise ValueError(
                "quantize is impossible with dtype: float64: layers of few bits compute in 32 bits at most"
            )
        if self.compile and self.quantize != "none":
            raise ValueError("compile is impossible with quantize: layers of few bits are not compiled; leave one out")
        return self

    @property
    def logp_temperature(self) -> float:
        """At which temperature log-probs are those of the policy."""
        return 1.0

    @property
    def peak_learning_rate(self) -> float:
        return self.learning_rates[self.full] if self.learning_rate == "auto" else self.learning_rate

    def total_steps(self, n_rows: int) -> int:
        """The optimiser steps of a run over n_rows."""
        limit = self.trainer.get("max_steps")
        if isinstance(limit, int) and limit > 0:
            return limit
        return math.ceil(self.epochs * math.ceil(n_rows / self.batch_size))

    @property
    def reference_kind(self) -> ReferenceKind:
        """Where the reference comes from once `auto` is decided; none for methods without one."""
        return "none"


class ReferenceConfig(TrainConfig):
    """A method that holds the policy to a reference: the policy as training starts, or a model that is named."""

    reference: ReferenceSource = "auto"
    """Where the reference's log-probs come from: adapter-off (the model without its adapter, at every step), cached (one
    pass before training), copy (a second, frozen model in memory), or auto (cached with full or more than one epoch,
    else adapter-off; a copy where that is impossible)."""
    reference_model: str | None = None
    """Another model as the reference (it must have the same tokenizer), instead of the policy as training starts."""
    reference_cache: Path | None = None
    """Folder of cached log-probs, shared by runs with the same model and data. By default 'reference-cache' beside the
    run folder."""

    live_because: ClassVar[str | None] = None
    """Why this method's reference can not be cached, if it can not."""

    @model_validator(mode="after")
    def _possible_reference(self) -> "ReferenceConfig":
        if self.reference == "adapter-off" and self.full:
            raise ValueError(
                "reference: adapter-off is impossible with full: there is no adapter to switch off; "
                "use reference: cached, or train a LoRA adapter"
            )
        if self.reference == "adapter-off" and self.reference_model is not None:
            raise ValueError("reference: adapter-off is the policy itself; leave it out to use reference_model")
        if self.reference == "cached" and (why := self._live_because()) is not None:
            raise ValueError(f"reference: cached is impossible: {why}; use reference: auto")
        if self.reference == "none" and self.reference_model is not None:
            raise ValueError("reference: none uses no reference_model; leave one of them out")
        return self

    def _live_because(self) -> str | None:
        return self.live_because

    @property
    def reference_kind(self) -> ReferenceKind:
        if self.reference != "auto":
            return self.reference
        cacheable = self._live_because() is None
        if self.full or self.reference_model is not None:
            return "cached" if cacheable else "copy"
        return "cached" if cacheable and self.epochs > 1 else "adapter-off"
