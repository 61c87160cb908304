"""Attention masks for prompt trees, in the shapes transformers' models take ready-made masks."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlaif.training import flex_attention, tree_attention
from rlaif.training.batches import PADDING, Batch

KNOWN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class AttentionPlan:
    """How a model's layers attend, and so which masks its forward is given.

    layers: the kinds of layers; window: the sliding window in tokens; additive: masks must be numbers to add to the
    scores (eager attention) instead of booleans; in_blocks: what trees do not see of each other is skipped, so that many
    make one long row (tree_attention.py); flex: by flex attention (flex_attention.py); plain_because: why prompt trees
    can not be used, None if they can.
    """

    layers: tuple[str, ...] = ("full_attention",)
    window: int | None = None
    additive: bool = False
    in_blocks: bool = False
    flex: bool = False
    plain_because: str | None = None

    @property
    def is_plain(self) -> bool:
        return self.plain_because is not None


def attention_plan(config: Any) -> AttentionPlan:
    """The plan for a model's configuration; models whose layers are not all softmax attention get plain rows."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    types = getattr(text, "layer_types", None)
    if types is None and _is_recurrent(text):
        return AttentionPlan(plain_because=f"{text.model_type} has layers that are not attention")
    layers = tuple(sorted(set(types or ["sliding_attention" if window else "full_attention"])))
    name = config._attn_implementation
    flex = name == flex_attention.NAME
    in_blocks = flex or name == tree_attention.NAME
    plan = AttentionPlan(layers=layers, window=window, additive=name == "eager", in_blocks=in_blocks, flex=flex)
    unknown = set(layers) - KNOWN_LAYERS
    if unknown:
        reason = f"{text.model_type} has layers of the kind {', '.join(sorted(unknown))}"
        return dataclasses.replace(plan, plain_because=reason)
    if not in_blocks and name not in ("sdpa", "eager"):
        reason = f"attention '{name}' takes no ready-made masks"
        return dataclasses.replace(plan, plain_because=reason)
    return plan


def use_dense_attention(model: Any) -> AttentionPlan:
    """Gives a model the attention that takes dense masks, unless it has it already; returns its plan."""
    if flex_attention.is_soft_capped(model.config):
        model.set_attn_implementation("eager")  # SDPA would leave the cap out
    elif model.config._attn_implementation not in ("sdpa", "eager"):
        model.set_attn_implementation("sdpa")
    return attention_plan(model.config)


def _is_recurrent(config: Any) -> bool:
    hints = ("ssm_cfg", "state_size", "mamba_d_state", "time_step_rank", "layers_block_type", "block_types", "rwkv")
    return any(getattr(config, name, None) is not None for name in hints)


def model_inputs(batch: Batch, plan: AttentionPlan, dtype: torch.dtype) -> dict[str, Any]:
    """The keywords of a model's forward for a micro-batch. dtype: of the scores, for additive masks.

    On the CPU masks are always additive: SDPA would turn booleans into numbers anew in every layer (6 % of a step).
    """
    inputs: dict[str, Any] = {"input_ids": batch.input_ids}
    if batch.is_plain:
        inputs["attention_mask"] = (batch.tree != PADDING).long()
        return inputs
    inputs["position_ids"] = batch.position_ids
    if plan.in_blocks and not plan.flex:
        inputs["attention_mask"] = tree_attention.segments(batch)
        return inputs
    masks = _block_masks(batch, plan) if plan.flex else _dense_masks(batch, plan, dtype)
    inputs["attention_mask"] = masks if len(masks) > 1 else next(iter(masks.values()))
    return inputs


def _block_masks(batch: Batch, plan: AttentionPlan) -> dict[str, Any]:
    """The block mask of each kind of layer."""
    windows = {kind: None if kind == "full_attention" else plan.window for kind in plan.layers}
    return {kind: flex_attention.block_mask(batch, window) for kind, window in windows.items()}


def _dense_masks(batch: Batch, plan: AttentionPlan, dtype: torch.dtype) -> dict[str, Tensor]:
    """The mask of each kind of layer, (R, 1, L, L)."""
    seen = tree_mask(batch)
    masks = {kind: seen if kind == "full_attention" else seen & _near(batch, plan.window) for kind in plan.layers}
    if plan.additive or batch.input_ids.device.type == "cpu":
        masks = {kind: _additive(mask, dtype) for kind, mask in masks.items()}
    return masks


def tree_mask(batch: Batch) -> Tensor:
    """True where a position (third axis) sees another (fourth axis), shape (R, 1, L, L): same tree, not later, and in
    the prompt or in the same branch."""
    tree, branch = batch.tree, batch.branch
    length = tree.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=tree.device).tril()
    same_tree = tree[:, :, None] == tree[:, None, :]
    on_path = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return (same_tree & on_path & causal)[:, None]


def _near(batch: Batch, window: int | None) -> Tensor:
    """True where the distance along the path is less than the window, shape (R, 1, L, L). Padding sees itself."""
    positions = batch.position_ids
    if window is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=positions.device)
    return (positions[:, :, None] - positions[:, None, :] < window)[:, None]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
