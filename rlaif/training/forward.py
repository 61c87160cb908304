"""Log-probs of a micro-batch under a model, and the check that they are what the model's own logits say."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlaif.errors import TrainError
from rlaif.training.batches import Batch, grow_trees, plan_step
from rlaif.training.logps import own_logps
from rlaif.training.masks import AttentionPlan, model_inputs
from rlaif.training.rows import Row

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest allowed mean absolute difference of a token's log-prob, by dtype; 0.05 for narrower ones."""


def batch_logps(model: Any, batch: Batch, plan: AttentionPlan) -> Tensor:
    """The log-prob of each completion token of a micro-batch (on the model's device), shape (N,)."""
    dtype = next(iter(model.parameters())).dtype
    logps: Tensor = model(**model_inputs(batch, plan, dtype))
    return logps


def checked_plan(model: Any, rows: Sequence[Row], plan: AttentionPlan, device: torch.device) -> AttentionPlan:
    """`plan`, or plain rows if the model does not compute prompt trees correctly.

    The log-probs of the two shortest trees of `rows` are compared with those from the model's own logits.
    Raises TrainError if even plain rows do not agree: then the loss would not be the model's.
    """
    shortest = sorted(grow_trees(rows, range(len(rows))), key=lambda tree: tree.length)[:2]
    sample = [rows[member.row] for tree in shortest for member in tree.members][:4]
    was_training = model.training
    model.eval()
    try:
        if plan.is_plain or _disagreement(model, sample, plan, device) is None:
            chosen = plan
        else:
            reason = "the model does not take prompt-tree masks as expected"
            chosen = dataclasses.replace(plan, plain_because=reason)
        problem = _disagreement(model, sample, chosen, device) if chosen.is_plain else None
    finally:
        model.train(was_training)
    if problem is not None:
        raise TrainError(
            f"the log-probs of the first batch are not those of the model's own logits ({problem}); this model scales "
            "or changes its logits in a way that is not known here, so it can not be trained: please report its name"
        )
    return chosen


def _disagreement(model: Any, sample: Sequence[Row], plan: AttentionPlan, device: torch.device) -> str | None:
    """How the packed log-probs differ from the model's own, or None if they agree."""
    (batch,) = plan_step(sample, range(len(sample)), 2**62, plain=plan.is_plain)
    try:
        with torch.no_grad():
            packed = batch_logps(model, batch.to(device), plan)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    own = torch.cat(
        [own_logps(model, list(sample[row].prompt), list(sample[row].completions[side]), device)
         for row, side in batch.sources]
    )  # fmt: skip
    order = torch.argsort(batch.completion, stable=True)
    gap = (packed[order.to(device)] - own).abs().mean().item()
    limit = TOLERANCE.get(next(iter(model.parameters())).dtype, 0.05)
    if torch.is_autocast_enabled(device.type):
        limit = 0.05
    return None if gap <= limit else f"mean difference {gap:.3g} per token, allowed {limit:.3g}"
