"""What a model says of a micro-batch, and the check that it is what the model's own logits say."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlaif.errors import TrainError
from rlaif.training.batches import Batch, grow_trees, plan_step
from rlaif.training.logps import Head, own_logps, own_reward
from rlaif.training.masks import AttentionPlan, model_inputs
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
) -> dict[str, Tensor]:
    """What `score_tokens` says of each learned token of a micro-batch (on the model's device), each of shape (N,)."""
    scores: dict[str, Tensor] = model(
        **model_inputs(batch, plan, _dtype(model)),
        completion_positions=batch.completion_positions,
        targets=batch.targets,
        extras=tuple(extras),
        reference=reference,
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


def batch_rewards(model: Any, batch: Batch, plan: AttentionPlan) -> Tensor:
    """A reward model's score of each completion of a micro-batch, shape (C,)."""
    rewards: Tensor = model(**model_inputs(batch, plan, _dtype(model)), completion_ends=batch.ends)["rewards"]
    return rewards


def _dtype(model: Any) -> torch.dtype:
    return next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())


def checked_plan(
    model: Any, rows: Sequence[Row], plan: AttentionPlan, device: torch.device, *, rewards: bool = False
) -> AttentionPlan:
    """`plan`, or plain rows if the model does not compute prompt trees correctly.

    The log-probs (or, of a reward model, the scores) of the two shortest trees of `rows` are compared with those from
    the model's own output. Raises TrainError if even plain rows do not agree: then the loss would not be the model's.
    """
    shortest = sorted(grow_trees(rows, range(len(rows))), key=lambda tree: tree.length)[:2]
    sample = [rows[member.row] for tree in shortest for member in tree.members][:4]
    differ = _rewards_differ if rewards else _logps_differ
    was_training = model.training
    model.eval()
    try:
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


def _logps_differ(
    model: Any, sample: Sequence[Row], plan: AttentionPlan, device: torch.device
) -> tuple[Tensor, Tensor]:
    (batch,) = plan_step(sample, range(len(sample)), 2**62, plain=plan.is_plain)
    packed = batch_logps(model, batch.to(device), plan)
    sources = batch.layout.sources
    own = [own_logps(model, sample[row].prompt, sample[row].completions[side], device) for row, side in sources]
    return packed[torch.argsort(batch.layout.completion, stable=True).to(device)], torch.cat(own)


def _rewards_differ(
    model: Any, sample: Sequence[Row], plan: AttentionPlan, device: torch.device
) -> tuple[Tensor, Tensor]:
    (batch,) = plan_step(sample, range(len(sample)), 2**62, plain=plan.is_plain, read_last=True)
    packed = batch_rewards(model, batch.to(device), plan)
    sources = batch.layout.sources
    own = [own_reward(model, sample[row].prompt, sample[row].completions[side], device) for row, side in sources]
    return packed, torch.stack(own)
