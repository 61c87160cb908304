"""What is said of responses before they are learnt from: their log-probs under the policy as it is now and under the reference,
and the critic's values."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlaif.training.batches import Batch
from rlaif.training.masks import AttentionPlan
from rlaif.training.online.learning import SampledRow
from rlaif.training.ranks import gathered
from rlaif.training.reference import LARGER, sides_of
from rlaif.training.rows import Row
from rlaif.training.steps import plan as plan_rows

Scorer = Callable[[Batch], Tensor]
"""One number for each learned token of a micro-batch, (N,): log-probs, or values."""


def row_scores(
    rows: Sequence[Row], score: Scorer, plan: AttentionPlan, budget: int, device: torch.device
) -> list[Tensor]:
    """What `score` says of each row's first completion, (T,) on the CPU, without gradient. Processes divide the rows, and each
    gets them all.

    budget: most tokens of a micro-batch in training; without gradient more fit.
    """
    if not rows:
        return []
    step = plan_rows(rows, range(len(rows)), budget * LARGER, device, plain=plan.is_plain, long_rows=plan.in_blocks)
    own: dict[int, Tensor] = {}
    with torch.no_grad():
        for batch in step.batches:
            own |= {row: sides[0] for row, sides in sides_of(score(batch).detach().cpu(), batch).items()}
    everyone = {row: logps for part in gathered(own) for row, logps in part.items()}
    return [everyone[index] for index in range(len(rows))]


def with_prior(
    rows: Sequence[SampledRow],
    policy: Scorer,
    reference: Scorer | None,
    plan: AttentionPlan,
    budget: int,
    device: torch.device,
) -> list[SampledRow]:
    """The rows with the log-probs of their tokens under the policy and, if there is one, the reference."""
    old = row_scores(rows, policy, plan, budget, device)
    refs = row_scores(rows, reference, plan, budget, device) if reference is not None else [None] * len(rows)
    return [replace(row, old=one, reference=other) for row, one, other in zip(rows, old, refs, strict=True)]


def with_values(
    rows: Sequence[SampledRow], critic: Scorer, plan: AttentionPlan, budget: int, device: torch.device
) -> list[SampledRow]:
    """The rows with the critic's values of their tokens."""
    values = row_scores(rows, critic, plan, budget, device)
    return [replace(row, values=one) for row, one in zip(rows, values, strict=True)]
