"""Objectives that hold each completion of a pair against an anchor, not only against the other one.

NCA (Chen et al. 2024, arXiv 2402.05369), BCO (Jung et al. 2024, arXiv 2404.04656), APO (D'Oosterlinck et al. 2024,
arXiv 2408.06266). All know whether the chosen completion became more likely. u = beta r is the reward of a
completion; losses have shape (B,).
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlaif.training.objectives.pairs import Pairs


def nca_pair(pairs: Pairs, *, beta: float) -> Tensor:
    """NCA for pairs: which of two completions is data, and which is noise of the reference.

        loss = -log sigmoid(u_w) - (log sigmoid(-u_w) + log sigmoid(-u_l)) / 2

    Known case: policy = reference gives 2 ln 2. The chosen reward is bounded by its second term. The paper's loss of K
    completions at K = 2 with all reward on the chosen one; no other departure.
    """
    won, lost = beta * pairs.chosen_logratio, beta * pairs.rejected_logratio
    return -logsigmoid(won) - 0.5 * logsigmoid(-won) - 0.5 * logsigmoid(-lost)


def bco_pair(pairs: Pairs, *, beta: float, shift: float | Tensor = 0.0) -> Tensor:
    """BCO on both halves of a pair: is a reward above or below the shift?

        loss = -log sigmoid(u_w - shift) - log sigmoid(-(u_l - shift))

    shift is the running mean of all rewards in the paper, without gradient; 0 asks for the sign of the reward.
    Known case: policy = reference and shift = 0 give 2 ln 2. No departure from the paper but that the caller chooses
    the shift; unpaired data take kto.bco.
    """
    won, lost = beta * pairs.chosen_logratio - shift, beta * pairs.rejected_logratio - shift
    return -logsigmoid(won) - logsigmoid(-lost)


def apo_zero(pairs: Pairs, *, beta: float) -> Tensor:
    """APO-zero, equation 7: for chosen completions better than what the model would say. Chosen up, rejected down.

        loss = 1 - sigmoid(u_w) + sigmoid(u_l)

    Range (0, 2); known case: policy = reference gives 1. No departure from the paper.
    """
    return torch.sigmoid(-beta * pairs.chosen_logratio) + torch.sigmoid(beta * pairs.rejected_logratio)


def apo_down(pairs: Pairs, *, beta: float) -> Tensor:
    """APO-down, equation 8: for chosen completions worse than what the model would say. Both down, rejected further.

        loss = sigmoid(u_w) + 1 - sigmoid(u_w - u_l)

    Range (0, 2); known case: policy = reference gives 1. No departure from the paper.
    """
    return torch.sigmoid(beta * pairs.chosen_logratio) + torch.sigmoid(-beta * pairs.margin)
