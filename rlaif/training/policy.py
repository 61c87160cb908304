"""The policy: the model that is trained, ready with its patched forward and its adapter."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlaif.errors import EngineError, TrainError
from rlaif.models import adapter_base, default_device, load_model, resolve_dtype
from rlaif.progress import say
from rlaif.training.config import TrainConfig
from rlaif.training.fused_lora import fuse_lora
from rlaif.training.logps import patch_forward
from rlaif.training.masks import AttentionPlan, attention_plan


@dataclass(frozen=True)
class Policy:
    """model: with the patched forward, and an adapter unless all weights are trained.

    base: the model the adapter names. autocast: compute in bfloat16 over float32 weights.
    """

    model: Any
    plan: AttentionPlan
    base: str
    autocast: bool


def load_policy(config: TrainConfig) -> Policy:
    """The policy of a run as training starts.

    Starting from an adapter, the merged model is saved in the run folder, so that the new adapter names a base that
    exists. Raises TrainError for what can not be trained, EngineError for what can not be loaded.
    """
    device = default_device()
    dtype = resolve_dtype(config.dtype, device)
    autocast = config.full and dtype == "bfloat16"
    check_base(config.model)
    model = load_model(config.model, "float32" if autocast else dtype, device)
    if model.config._attn_implementation not in ("sdpa", "eager"):
        model.set_attn_implementation("sdpa")
    base = _base_name(config, model)
    _switch_dropout_off(model)
    patch_forward(model)
    plan = attention_plan(model.config)
    if config.full:
        model.requires_grad_(True)
    else:
        model = _with_adapter(config, model, base)
    return Policy(model, plan, base, autocast)


def check_base(name: str) -> None:
    """Raises EngineError if `name` is an adapter whose base model is a folder that is missing."""
    base = adapter_base(name)
    if base is not None and Path(base).is_absolute() and not Path(base).exists():
        raise EngineError(
            f"{name}: the adapter belongs to the base model {base}, which is not there; put it back, or set "
            f"base_model_name_or_path in {Path(name) / 'adapter_config.json'} to where it is now"
        )


def _base_name(config: TrainConfig, model: Any) -> str:
    """The name by which the new adapter will find its base: absolute where it is a path."""
    if config.full or adapter_base(config.model) is None:
        return str(Path(config.model).resolve()) if Path(config.model).exists() else config.model
    folder = config.output.resolve() / "base"
    if not folder.is_dir():
        say(
            f"{config.model} is an adapter: it is merged into its base, saved as {folder}, and a fresh adapter is "
            "trained on that"
        )
        from rlaif.models import load_tokenizer

        temporary = folder.with_name("base.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        load_tokenizer(config.model).save_pretrained(temporary)
        os.replace(temporary, folder)
    return str(folder)


def _switch_dropout_off(model: Any) -> None:
    """The base's own dropout would make the policy differ from its reference by chance."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def _with_adapter(config: TrainConfig, model: Any, base: str) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    modules = config.lora.target_modules
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        base_model_name_or_path=base,
    )
    set_seed(config.seed)
    head = model.get_output_embeddings()
    try:
        policy = get_peft_model(model, settings)
    except ValueError as error:
        raise TrainError(f"lora.target_modules: {error}") from None
    if model.get_output_embeddings() is not head:
        raise TrainError(
            "lora.target_modules names the language-model head, and log-probs are computed from a plain one; "
            "leave it out ('all-linear' does)"
        )
    policy.peft_config["default"].base_model_name_or_path = base
    fuse_lora(policy)
    return policy
