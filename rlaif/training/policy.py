"""The policy: the model that is trained, ready with its patched forward and its adapter."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from rlaif.errors import EngineError, TrainError
from rlaif.models import (
    adapter_base,
    default_device,
    load_model,
    load_reward_model,
    load_tokenizer,
    resolve_dtype,
)
from rlaif.progress import say
from rlaif.training.config import TrainConfig
from rlaif.training.fused_layers import fuse_layers
from rlaif.training.fused_lora import fuse_lora
from rlaif.training.logps import INITIAL_ADAPTER, patch_forward, patch_reward_forward
from rlaif.training.masks import AttentionPlan, attention_plan
from rlaif.training.tree_attention import use_tree_attention


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
    """The policy of a run as training starts; for method rm, a reward model.

    Starting from an adapter, the merged model is saved in the run folder, so that the new adapter names a base that
    exists. Raises TrainError for what can not be trained, EngineError for what can not be loaded.
    """
    device = default_device()
    dtype = resolve_dtype(config.dtype, device)
    autocast = config.full and dtype == "bfloat16"
    weights = "float32" if autocast else dtype
    check_base(config.model)
    scores = config.method == "rm"
    base = _base_name(config)
    if base.is_merged_here:
        _save_merged(config, base.name, weights, device)
    source = base.name if base.is_merged_here else config.model
    set_seed(config.seed)  # a reward model's head is drawn at random
    if scores:
        model = load_reward_model(source, weights, device)
        patch_reward_forward(model)
    else:
        model = load_model(source, weights, device, quantize=config.quantize)
        patch_forward(model)
    _switch_dropout_off(model)
    plan = fast_plan(model)
    if config.full:
        model.requires_grad_(True)
    else:
        model = _with_adapter(config, model, base.name)
    return Policy(model, plan, base.name, autocast)


def fast_plan(model: Any) -> AttentionPlan:
    """Gives a model the fastest layers and attention it takes for prompt trees; returns how it attends."""
    if model.config._attn_implementation not in ("sdpa", "eager"):
        model.set_attn_implementation("sdpa")
    fuse_layers(model)
    plan = attention_plan(model.config)
    if plan != AttentionPlan() or next(iter(model.parameters())).device.type != "cpu":
        return plan
    use_tree_attention(model)
    return attention_plan(model.config)


def check_base(name: str) -> None:
    """Raises EngineError if `name` is an adapter whose base model is a folder that is missing."""
    base = adapter_base(name)
    if base is not None and Path(base).is_absolute() and not Path(base).exists():
        raise EngineError(
            f"{name}: the adapter belongs to the base model {base}, which is not there; put it back, or set "
            f"base_model_name_or_path in {Path(name) / 'adapter_config.json'} to where it is now"
        )


@dataclass(frozen=True)
class _Base:
    """The name by which the new adapter will find its base: absolute where it is a path."""

    name: str
    is_merged_here: bool = False


def _base_name(config: TrainConfig) -> _Base:
    needs_merging = adapter_base(config.model) is not None and (not config.full or config.method == "rm")
    if needs_merging:
        return _Base(str(config.output.resolve() / "base"), is_merged_here=True)
    return _Base(str(Path(config.model).resolve()) if Path(config.model).exists() else config.model)


def _save_merged(config: TrainConfig, folder_name: str, dtype: str, device: str) -> None:
    """Saves the adapter that the run starts from, merged into its base, in the run folder."""
    folder = Path(folder_name)
    if folder.is_dir():
        return
    say(
        f"{config.model} is an adapter: it is merged into its base, saved as {folder}, and a fresh adapter is "
        "trained on that"
    )
    temporary = folder.with_name("base.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    load_model(config.model, dtype, device).save_pretrained(temporary)
    load_tokenizer(config.model).save_pretrained(temporary)
    os.replace(temporary, folder)


def _switch_dropout_off(model: Any) -> None:
    """The base's own dropout would make the policy differ from its reference by chance."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def _with_adapter(config: TrainConfig, model: Any, base: str) -> Any:
    from peft import LoraConfig, get_peft_model

    modules = config.lora.target_modules
    settings = LoraConfig(
        task_type="SEQ_CLS" if config.method == "rm" else "CAUSAL_LM",
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        use_rslora=config.lora.rslora,
        use_dora=config.lora.dora,
        base_model_name_or_path=base,
    )
    if config.quantize != "none":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing)
    set_seed(config.seed)
    head = model.get_output_embeddings()
    try:
        policy = _initial_adapter(config, model) if config.init_adapter else get_peft_model(model, settings)
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


def _initial_adapter(config: TrainConfig, model: Any) -> Any:
    """The model with the named adapter to go on training, and a frozen copy of it, which is the reference."""
    from peft import PeftModel

    name = str(config.init_adapter)
    if adapter_base(name) is None:
        raise TrainError(f"init_adapter: {name} is not the folder of an adapter (it has no adapter_config.json)")
    try:
        policy = PeftModel.from_pretrained(model, name, is_trainable=True)
        policy.load_adapter(name, INITIAL_ADAPTER, is_trainable=False)
    except (RuntimeError, ValueError, KeyError) as error:
        first_line = str(error).splitlines()[0]
        raise TrainError(f"init_adapter: {name} does not fit the model {config.model}: {first_line}") from None
    policy.set_adapter("default")
    return policy
