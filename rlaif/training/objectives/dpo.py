"""Direct Preference Optimization, with the label smoothing of conservative DPO.

Rafailov et al. 2023 (arXiv 2305.18290), equation 7; Mitchell 2023, "A note on DPO with noisy preferences" (cDPO).
"""

from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class PairMetrics(TypedDict):
    """Per pair, each of shape (B,), without gradient."""

    rewards_chosen: Tensor
    rewards_rejected: Tensor
    accuracies: Tensor
    margins: Tensor


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, PairMetrics]:
    """The loss of each pair, shape (B,), and its metrics.

    Arguments are log-probs of whole completions (sums over their tokens), shape (B,), of the policy and of the
    reference. With D = (chosen - reference_chosen) - (rejected - reference_rejected), e = label_smoothing in [0, 0.5):

        loss = -(1 - e) log sigmoid(beta D) - e log sigmoid(-beta D)

    Known case: where the policy is the reference, D = 0 and the loss is ln 2 for every beta and e.
    e is the probability that a label is flipped; e = 0 is DPO. No departure from the papers.
    """
    reward_chosen = beta * (chosen - reference_chosen)
    reward_rejected = beta * (rejected - reference_rejected)
    margin = reward_chosen - reward_rejected
    losses = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    with torch.no_grad():
        metrics = PairMetrics(
            rewards_chosen=reward_chosen.detach(),
            rewards_rejected=reward_rejected.detach(),
            accuracies=(margin > 0).to(margin.dtype),
            margins=margin.detach(),
        )
    return losses, metrics
