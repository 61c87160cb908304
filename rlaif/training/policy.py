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
    is_reward_model,
    load_model,
    load_reward_model,
    load_tokenizer,
    resolve_dtype,
)
from rlaif.progress import say
from rlaif.training.compiled_layers import compile_layers
from rlaif.training.config import TrainConfig
from rlaif.training.flex_attention import is_soft_capped, takes_flex_attention, use_flex_attention
from rlaif.training.fused_layers import fuse_layers
from rlaif.training.fused_lora import fuse_lora
from rlaif.training.logps import INITIAL_ADAPTER, patch_forward, patch_reward_forward, set_temperature
from rlaif.training.masks import AttentionPlan, attention_plan, use_dense_attention
from rlaif.training.quantized import compute_alike
from rlaif.training.ranks import on_first, rank
from rlaif.training.sharding import is_spread, requested, shard, whole_weights
from rlaif.training.targets import check_targets, fused_experts
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
    device, sharding = default_device(), requested()
    dtype = resolve_dtype(config.dtype, device)
    autocast = config.full and dtype == "bfloat16"
    weights = "float32" if autocast else dtype
    check_base(config.model)
    scores = config.method == "rm"
    base = _base_name(config)
    if base.is_merged_here:
        on_first(lambda: _save_merged(config, base.name, weights, device))
    source = base.name if base.is_merged_here else config.model
    start = "cpu" if sharding else device  # whole, a model may be too large for one device
    set_seed(config.seed)  # a reward model's head is drawn at random
    if scores:
        model = load_reward_model(source, weights, start, quantize=config.quantize)
        patch_reward_forward(model)
    else:
        model = load_model(source, weights, start, quantize=config.quantize)
        patch_forward(model)
        set_temperature(model, config.logp_temperature)
    if compute_alike(model) and fused_experts(model):
        say(
            f"quantize: the experts of this {model.config.model_type} stay in {weights}: they are fused weights, and "
            "bitsandbytes holds linear layers in few bits"
        )
    _switch_dropout_off(model)
    plan = fast_plan(model, device, compiled=config.compile)
    if config.full:
        model.requires_grad_(True)
    else:
        model = _with_adapter(config, model, base.name)
    if config.compile:
        compile_layers(model)
    if sharding is not None:
        shard(model, sharding, torch.device(device))
    return Policy(model, plan, base.name, autocast)


def save_policy(policy: Policy, folder: Path, tokenizer: Any) -> None:
    """Writes the adapter or model, and its tokenizer. All processes must call it; the first one writes.

    A model that computed in bfloat16 over float32 weights is written in bfloat16.
    """
    keys: dict[str, Any] = {"selected_adapters": ["default"]} if hasattr(policy.model, "peft_config") else {}
    if is_spread(policy.model):
        keys["state_dict"] = whole_weights(policy.model)
    if rank() > 0:
        return
    if policy.autocast and "state_dict" in keys:
        keys["state_dict"] = _in_bfloat16(keys["state_dict"])
    elif policy.autocast:
        policy.model.to(torch.bfloat16)
    policy.model.save_pretrained(str(folder), **keys)
    tokenizer.save_pretrained(str(folder))


def save_weights(policy: Policy, folder: Path) -> None:
    """Writes the weights of a policy without adapter as they are between two steps, in the number format it computes in."""
    keys = {"state_dict": _in_bfloat16(policy.model.state_dict())} if policy.autocast else {}
    policy.model.save_pretrained(str(folder), **keys)


def _in_bfloat16(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights that are numbers with a point in bfloat16; those that are one tensor stay one."""
    cast: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for value in weights.values():
        place = (value.data_ptr(), value.shape)
        if place not in cast:
            cast[place] = value.to(torch.bfloat16) if value.is_floating_point() else value
    return {name: cast[value.data_ptr(), value.shape] for name, value in weights.items()}


def fast_plan(model: Any, device: str, *, compiled: bool = False) -> AttentionPlan:
    """Gives a model the fastest layers and attention that it takes for prompt trees on the device it will be on; returns
    how it attends. compiled: the layers are to be compiled, so on the CPU they stay as they are in the library."""
    plan = use_dense_attention(model)
    if device != "cpu":
        return flex_plan(model, plan)
    if compiled:
        return plan
    fuse_layers(model)
    if plan != AttentionPlan():
        return plan
    use_tree_attention(model)
    return attention_plan(model.config)


def flex_plan(model: Any, dense: AttentionPlan) -> AttentionPlan:
    """Gives a model flex attention if it takes it; returns how it attends. dense: how it attends without."""
    only_eager = dense.additive and not is_soft_capped(model.config)  # its kind has more to it than SDPA computes
    if dense.is_plain or only_eager or not takes_flex_attention(model):
        return dense
    use_flex_attention(model)
    return attention_plan(model.config)


def check_base(name: str) -> None:
    """Raises EngineError if `name` is an adapter whose base model is a folder that is missing."""
    base = adapter_base(name)
    if base is not None and Path(base).is_absolute() and not Path(base).exists():
        raise EngineError(
            f"{name}: the adapter belongs to the base model {base}, which is not there; put it back, or set "
            f"base_model_name_or_path in {Path(name) / 'adapter_config.json'} to where it is now"
        )


def check_same_tokens(key: str, name: str, model: str, why: str) -> None:
    """Raises TrainError if the model that a key names has other tokens than the policy. why: it must have the same."""
    if name != model and load_tokenizer(name).get_vocab() != load_tokenizer(model).get_vocab():
        raise TrainError(
            f"{key}: {name} and the policy {model} have different tokenizers, {why}; name a model of the same family"
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
    load = load_reward_model if is_reward_model(config.model) else load_model
    load(config.model, dtype, device).save_pretrained(temporary)
    load_tokenizer(config.model).save_pretrained(temporary)
    os.replace(temporary, folder)


def _switch_dropout_off(model: Any) -> None:
    """The base's own dropout, and noise before routers, would make the policy differ from its reference by chance."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "jitter_noise", "router_jitter_noise", "input_jitter_noise"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


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
    set_seed(config.seed)
    head, experts = model.get_output_embeddings(), fused_experts(model)
    try:
        policy = _initial_adapter(config, model) if config.init_adapter else get_peft_model(model, settings)
    except ValueError as error:
        raise TrainError(f"lora.target_modules: {_plainly(str(error))}") from None
    if model.get_output_embeddings() is not head:
        raise TrainError(
            "lora.target_modules names the language-model head, and log-probs are computed from a plain one; "
            "leave it out ('all-linear' does)"
        )
    if not config.init_adapter:
        check_targets(policy, experts)
    policy.peft_config["default"].base_model_name_or_path = base
    if not config.compile:
        fuse_lora(policy)
    return policy


def _plainly(error: str) -> str:
    """What peft refuses, in the words of the configuration."""
    if "ParamWrapper" not in error:
        return error
    return (
        "adapters of experts and routers take neither dropout nor dora; set lora.dropout: 0 and lora.dora: false, or name "
        f"other layers ({error})"
    )


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
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])  # a heading, then the first weight
        raise TrainError(f"init_adapter: {name} does not fit the model {config.model}: {reason}") from None
    policy.set_adapter("default")
    return policy
