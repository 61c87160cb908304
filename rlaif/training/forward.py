"""What a model says of a micro-batch, and the check that it is what the model's own logits say."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlaif.errors import TrainError, on_one_line
from rlaif.progress import say
from rlaif.training.batches import PADDING, Batch, grow_trees, plan_step
from rlaif.training.flex_attention import BLOCK, without_kernels
from rlaif.training.logps import Head, own_logps, own_reward
from rlaif.training.masks import AttentionPlan, model_inputs, use_dense_attention
from rlaif.training.ranks import most
from rlaif.training.rows import Row

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest allowed mean absolute difference of a token's log-prob, by dtype; 0.05 for narrower ones."""


def batch_scores(
    model: Any,
    batch: Batch,
    plan: AttentionPlan,
    *,
    extras: Sequence[str] = (),
    reference: tuple[Tensor, Head] | None = None,
    routes: bool = False,
) -> dict[str, Tensor]:
    """What `score_tokens` says of each learned token of a micro-batch (on the model's device), each of shape (N,).
    routes: also the "router_loss" of a mixture-of-experts model, a scalar."""
    scores: dict[str, Tensor] = model(
        **model_inputs(batch, plan, _dtype(model)),
        completion_positions=batch.completion_positions,
        targets=batch.targets,
        extras=tuple(extras),
        reference=reference,
        routed=_read(batch) if routes else None,
    )
    return scores


def batch_logps(model: Any, batch: Batch, plan: AttentionPlan) -> Tensor:
    """The log-prob of each learned token of a micro-batch, shape (N,)."""
    return batch_scores(model, batch, plan)["logps"]


def batch_hidden(model: Any, batch: Batch, plan: AttentionPlan) -> Tensor:
    """The hidden states that predict each learned token, shape (N, H)."""
    inputs = model_inputs(batch, plan, _dtype(model))
    hidden: Tensor = model(**inputs, completion_positions=batch.completion_positions)["hidden"]
    return hidden


def batch_rewards(model: Any, batch: Batch, plan: AttentionPlan, *, routes: bool = False) -> dict[str, Tensor]:
    """A reward model's "rewards", one for each completion of a micro-batch, shape (C,). routes: as for `batch_scores`."""
    inputs = model_inputs(batch, plan, _dtype(model))
    scores: dict[str, Tensor] = model(**inputs, completion_ends=batch.ends, routed=_read(batch) if routes else None)
    return scores


def batch_values(model: Any, batch: Batch, plan: AttentionPlan) -> Tensor:
    """A reward model's score of the text before each learned token of a micro-batch, shape (N,)."""
    scores: dict[str, Tensor] = model(
        **model_inputs(batch, plan, _dtype(model)), completion_ends=batch.completion_positions
    )
    return scores["rewards"]


def _read(batch: Batch) -> Tensor:
    """True at the positions that are no padding, shape (R * L,)."""
    return batch.tree.flatten() != PADDING


def _dtype(model: Any) -> torch.dtype:
    return next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())


def checked_plan(
    model: Any, rows: Sequence[Row], plan: AttentionPlan, device: torch.device, *, rewards: bool = False
) -> AttentionPlan:
    """`plan`, or what takes its place if the model does not compute prompt trees correctly with it: dense masks for flex
    attention, and then plain rows.

    The log-probs (or, of a reward model, the scores) of the two shortest trees of `rows` are compared with those from
    the model's own output. Raises TrainError if even plain rows do not agree: then the loss would not be the model's.
    """
    shortest = sorted(grow_trees(rows, range(len(rows))), key=lambda tree: tree.length)[:2]
    sample = [rows[member.row] for tree in shortest for member in tree.members][:4]
    differ = _rewards_differ if rewards else _logps_differ
    was_training = model.training
    model.eval()
    try:
        if plan.flex:
            problem = _flex_problem(differ, model, sample, rows, plan, device)
            if most(problem is not None):
                say(f"flex attention is not used, dense masks are: {problem or 'it fails in another process'}")
                plan = use_dense_attention(model)
        if plan.is_plain or _disagreement(differ, model, sample, plan, device) is None:
            chosen = plan
        else:
            reason = "the model does not take prompt-tree masks as expected"
            chosen = dataclasses.replace(plan, plain_because=reason)
        problem = _disagreement(differ, model, sample, chosen, device) if chosen.is_plain else None
    finally:
        model.train(was_training)
    if problem is not None:
        raise TrainError(
            f"the {'scores' if rewards else 'log-probs'} of the first batch are not those of the model's own "
            f"{'forward' if rewards else 'logits'} ({problem}); this model changes them in a way that is not known here, "
            "so it can not be trained: please report its name"
        )
    return chosen


def _disagreement(
    differ: Callable[..., tuple[Tensor, Tensor]],
    model: Any, sample: Sequence[Row], plan: AttentionPlan, device: torch.device,
) -> str | None:  # fmt: skip
    """How what is computed from a batch differs from what the model itself says, or None if they agree."""
    try:
        with torch.no_grad():
            found, own = differ(model, sample, plan, device)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    gap = (found - own).abs().mean().item()
    limit = TOLERANCE.get(_dtype(model), 0.05)
    if torch.is_autocast_enabled(device.type):
        limit = 0.05
    return None if gap <= limit else f"mean difference {gap:.3g} per token, allowed {limit:.3g}"


def _flex_problem(
    differ: Callable[..., tuple[Tensor, Tensor]],
    model: Any, sample: Sequence[Row], rows: Sequence[Row], plan: AttentionPlan, device: torch.device,
) -> str | None:  # fmt: skip
    """What is wrong with flex attention for this model on this machine, or None. Also goes back through two micro-batches
    of different lengths, so that the kernels for all lengths and for the backward are compiled (and fail) now."""
    if device.type == "cuda" and (reason := without_kernels(model.config, _dtype(model))) is not None:
        return reason
    rewards = differ is _rewards_differ
    try:
        problem = _disagreement(differ, model, sample, plan, device)
        for batch in plan_step(rows, range(len(rows)), 4 * BLOCK, read_last=rewards, long_rows=True)[:2]:
            on_device = batch.to(device)
            found = batch_rewards(model, on_device, plan)["rewards"] if rewards else batch_logps(model, on_device, plan)
            if found.requires_grad:
                found.sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever compilers raise
        problem = on_one_line(error)
    model.zero_grad(set_to_none=True)
    return problem


def _logps_differ(
    model: Any, sample: Sequence[Row], plan: AttentionPlan, device: torch.device
) -> tuple[Tensor, Tensor]:
    (batch,) = plan_step(sample, range(len(sample)), 2**62, plain=plan.is_plain, long_rows=plan.in_blocks)
    packed = batch_logps(model, batch.to(device), plan)
    sources = batch.layout.sources
    own = [own_logps(model, sample[row].prompt, sample[row].completions[side], device) for row, side in sources]
    return packed[torch.argsort(batch.layout.completion, stable=True).to(device)], torch.cat(own)


def _rewards_differ(
    model: Any, sample: Sequence[Row], plan: AttentionPlan, device: torch.device
) -> tuple[Tensor, Tensor]:
    (batch,) = plan_step(
        sample, range(len(sample)), 2**62, plain=plan.is_plain, read_last=True, long_rows=plan.in_blocks
    )
    packed = batch_rewards(model, batch.to(device), plan)["rewards"]
    sources = batch.layout.sources
    own = [own_reward(model, sample[row].prompt, sample[row].completions[side], device) for row, side in sources]
    return packed, torch.stack(own)
