"""Weights, gradients and optimizer states spread over the processes of a run, by torch's fully_shard (FSDP2).

Each decoder layer is gathered when it computes and freed after; what is outside of them (embeddings, head) is gathered
for the whole forward. It is asked for by the launcher: `accelerate launch` with train/accelerate/fsdp2.yaml, or
ACCELERATE_USE_FSDP=true FSDP_VERSION=2 before torchrun. accelerate's own preparation is not used: it leaves models on the
CPU whole without a word, and wraps adapters otherwise than whole models. Every process reads the whole model before it is
sharded, so fsdp_cpu_ram_efficient_loading saves nothing here.
"""

import contextlib
import functools
import importlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from rlaif.errors import TrainError
from rlaif.training.config import TrainConfig

SWITCH = "ACCELERATE_USE_FSDP"
ACCELERATES_VERSION = "1"
"""Of FSDP, where none is named."""


@dataclass(frozen=True)
class Sharding:
    """free_after_forward: a layer's weights are gathered again for the backward. offload: shards wait in the memory of
    the CPU. layers: names of the classes that are gathered one by one; empty: what the model names."""

    free_after_forward: bool
    offload: bool
    layers: tuple[str, ...] = ()


def is_on(name: str, default: str = "") -> bool:
    """Whether the launcher switched this on in the environment."""
    return os.environ.get(name, default).lower() in ("1", "true", "yes")


@functools.cache
def requested() -> Sharding | None:
    """What the launcher asked for; None for whole weights in every process. Then accelerate no longer sees the request.

    Raises TrainError for what is not done here, naming what to say instead.
    """
    if not is_on(SWITCH):
        return None
    unlike = [
        f"{name.lower()}: {os.environ.get(name, ACCELERATES_VERSION)} is not possible: {why}"
        for name, allowed, why in (
            ("FSDP_VERSION", "2", "say fsdp_version: 2"),
            ("FSDP_AUTO_WRAP_POLICY", "transformer_based_wrap", "layers are wrapped; say TRANSFORMER_BASED_WRAP"),
            ("FSDP_STATE_DICT_TYPE", "full_state_dict", "checkpoints hold whole weights; say FULL_STATE_DICT"),
            ("FSDP_ACTIVATION_CHECKPOINTING", "false", "use the key gradient_checkpointing of the run"),
            ("FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD", "false", "leave it out"),
            ("FSDP_IGNORED_MODULES", "", "leave it out"),
        )
        if os.environ.get(name, ACCELERATES_VERSION if name == "FSDP_VERSION" else allowed).lower() != allowed
    ]
    if unlike:
        raise TrainError("accelerate's configuration: " + "; ".join(unlike))
    os.environ.pop(SWITCH)
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return None
    layers = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    return Sharding(
        free_after_forward=is_on("FSDP_RESHARD_AFTER_FORWARD", "true"),
        offload=is_on("FSDP_OFFLOAD_PARAMS"),
        layers=tuple(name.strip() for name in layers.split(",") if name.strip()),
    )


def check_possible(config: TrainConfig) -> None:
    """Raises TrainError if the launcher asked for weights to be spread in a way that this run can not have."""
    zero3 = zero_stage() == 3
    if zero3 or requested() is not None:
        if config.quantize != "none":
            raise TrainError("quantize: weights of few bits can not be spread over devices; use DDP, or leave it out")
        if config.compile:
            raise TrainError("compile: layers whose weights are spread over devices can not be compiled; leave it out")
    if zero3 and config.method == "tdpo":
        raise TrainError("tdpo: ZeRO-3 can not give the reference's whole distribution; use FSDP2 or ZeRO-2")
    if zero3 and (config.reference_kind == "copy" or getattr(config, "reference_model", None) is not None):
        raise TrainError("ZeRO-3 spreads one model only, and this run's reference is a second one; use FSDP2 or ZeRO-2")


def zero_stage() -> int:
    """The stage of DeepSpeed's ZeRO that the launcher asked for; 0 for none."""
    if not is_on("ACCELERATE_USE_DEEPSPEED"):
        return 0
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path != "none":
        try:
            settings = json.loads(Path(path).read_text(encoding="utf-8"))
            return int(settings.get("zero_optimization", {}).get("stage", 0))
        except (OSError, ValueError, AttributeError) as error:
            raise TrainError(f"{path}: not a configuration of DeepSpeed: {error}") from None
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))


def shard(model: Any, sharding: Sharding, device: torch.device) -> None:
    """Spreads a model over all processes, in place; its shards lie on `device` (or wait on the CPU)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    keys: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": sharding.free_after_forward,
        "offload_policy": CPUOffloadPolicy() if sharding.offload else OffloadPolicy(),
    }
    names = set(sharding.layers or getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise TrainError(
            f"no layers to shard: {', '.join(sorted(names)) or 'the model names none'}; name the class of the decoder "
            "layers as fsdp_transformer_layer_cls_to_wrap in accelerate's configuration"
        )
    for layer in layers:
        fully_shard(layer, **keys)
    fully_shard(model, **keys)


def is_sharded(model: Any) -> bool:
    """Whether a model's weights are spread over the processes."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def is_spread(model: Any) -> bool:
    """The same, or by DeepSpeed's ZeRO-3."""
    return is_sharded(model) or any(hasattr(weight, "ds_id") for weight in model.parameters())


def whole(value: Tensor) -> Tensor:
    """A tensor gathered from its shards, if it is sharded: all processes must ask for it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if hasattr(value, "ds_id"):
        with zero_gathered([value]):
            return value.detach().clone()
    return value


def zero_gathered(weights: Iterable[Tensor]) -> Any:
    """Within it the weights that ZeRO-3 spread are whole in every process."""
    spread = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not spread:
        return contextlib.nullcontext()
    partitioning: Any = importlib.import_module("deepspeed.runtime.zero.partition_parameters")
    return partitioning.GatheredParameters(spread)


def whole_weights(model: Any) -> dict[str, Tensor]:
    """All weights of a model that is spread over processes, or of an adapter only those trained, by their names, gathered
    in the memory of the CPU. All processes must ask for them."""
    trained_only = hasattr(model, "peft_config")
    return {
        name: whole(weight).detach().cpu()
        for name, weight in model.named_parameters()
        if weight.requires_grad or not trained_only
    } | {name: buffer.cpu() for name, buffer in _saved_buffers(model)}


def _saved_buffers(model: Any) -> list[tuple[str, Tensor]]:
    if hasattr(model, "peft_config"):
        return []
    names = set(dict(model.named_parameters(remove_duplicate=False)))
    kept = set(model.state_dict()) - names
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]


def load_weights(model: Any, folder: Path) -> None:
    """Gives a sharded model the weights of a checkpoint that `save_pretrained` wrote, of the adapter or of all."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(str(path))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            key = name.replace(".default.", ".") if hasattr(model, "peft_config") else name
            if weight.requires_grad:
                weight.copy_(sharded_like(found[key], weight))


def sharded_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, the same in every process, with the device, dtype and shards of another."""
    value = value.to(device=other.device, dtype=other.dtype)
    if not isinstance(other, DTensor):
        return value
    return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)


def optimizer_state(model: Any, optimizer: Any) -> dict[str, Any]:
    """The whole state of the optimizer of a sharded model, in the memory of the CPU. All processes must ask for it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=options)
    return state


def load_optimizer_state(model: Any, optimizer: Any, state: dict[str, Any]) -> None:
    """Gives the optimizer of a sharded model the state that `optimizer_state` gave."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True))
