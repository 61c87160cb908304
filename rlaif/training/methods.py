"""Methods: what a micro-batch's log-probs are worth. Each turns them into a sum of losses and sums of metrics.

Sums, not means: the trainer divides by the count over the whole optimiser step, so micro-batches change nothing.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor

from rlaif.training.batches import Batch
from rlaif.training.config import TrainConfig
from rlaif.training.objectives.dpo import dpo_loss
from rlaif.training.objectives.sft import sft_loss

Sums = dict[str, Tensor]


class MethodLoss(Protocol):
    """unit: what the loss is averaged over."""

    unit: Literal["rows", "tokens"]

    def __call__(self, batch: Batch, logps: Tensor, reference: Tensor | None) -> tuple[Tensor, Sums]:
        """The sum of the losses of a micro-batch (scalar, with gradient) and sums of metrics over its units.

        logps, reference: (N,), of the policy and of the reference.
        """
        ...


class DpoMethod:
    """DPO over pairs: a row's two completions are its chosen and its rejected one."""

    unit: Literal["rows", "tokens"] = "rows"

    def __init__(self, beta: float, label_smoothing: float) -> None:
        self.beta, self.label_smoothing = beta, label_smoothing

    def __call__(self, batch: Batch, logps: Tensor, reference: Tensor | None) -> tuple[Tensor, Sums]:
        assert reference is not None, "DPO needs a reference"
        policy_C, reference_C = batch.sums(logps), batch.sums(reference)
        chosen, rejected = batch.members[:, 0], batch.members[:, 1]
        losses, metrics = dpo_loss(
            policy_C[chosen], policy_C[rejected], reference_C[chosen], reference_C[rejected],
            beta=self.beta, label_smoothing=self.label_smoothing,
        )  # fmt: skip
        sums = {
            "rewards/chosen": metrics["rewards_chosen"].sum(),
            "rewards/rejected": metrics["rewards_rejected"].sum(),
            "rewards/accuracies": metrics["accuracies"].sum(),
            "rewards/margins": metrics["margins"].sum(),
            "logps/chosen": policy_C[chosen].detach().sum(),
            "logps/rejected": policy_C[rejected].detach().sum(),
        }
        return losses.sum(), sums


class SftMethod:
    """SFT: every completion token of every row counts the same."""

    unit: Literal["rows", "tokens"] = "tokens"

    def __call__(self, batch: Batch, logps: Tensor, reference: Tensor | None) -> tuple[Tensor, Sums]:
        losses = sft_loss(logps)
        uses = torch.bincount(batch.members.flatten(), minlength=len(batch.sources))
        return (losses * uses[batch.completion]).sum(), {}


def method_loss(config: TrainConfig) -> MethodLoss:
    """The loss of a configuration's method."""
    if config.method == "dpo":
        return DpoMethod(config.beta, config.label_smoothing)
    return SftMethod()
