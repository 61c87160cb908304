"""Unpaired objectives: completions that are desirable or not.

KTO (Ethayarajh et al. 2024, arXiv 2402.01306), BCO (Jung et al. 2024, arXiv 2404.04656), APO-zero (D'Oosterlinck et
al. 2024, arXiv 2408.06266). Rows have a log-ratio r = log policy - log reference of the whole completion, shape (B,),
and desirable, booleans (B,); losses have shape (B,). Weights are >= 0; a row's loss is multiplied by that of its class.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

CLASS_BALANCE_RANGE = (1.0, 4 / 3)
"""Where KTO's authors want class_balance: slightly in favour of desirable rows (the first version of the paper,
equation 8; its later version allows up to 3/2)."""


def kto(
    logratio_B: Tensor,
    desirable_B: Tensor,
    z: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO, equation 7: is a reward above or below the reference point z, with the saturation of a human's utility?

        desirable: w_D (1 - sigmoid(beta (r - z)));  undesirable: w_U (1 - sigmoid(beta (z - r)))

    z >= 0 is a scalar (or one of each row) and is used without gradient: the mean over a batch of the log-ratio of
    completions to prompts they do not belong to, at least 0, an estimate of KL(policy || reference). Known case: r = z
    gives w / 2. No departure from the paper.
    """
    u = _signed(beta * (logratio_B - z.detach()), desirable_B)
    return _weights(u, desirable_B, desirable_weight, undesirable_weight) * torch.sigmoid(-u)


def bco(
    logratio_B: Tensor,
    desirable_B: Tensor,
    delta: float | Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """BCO: a classifier of the reward beta r, shifted by delta.

        desirable: -w_D log sigmoid(beta r - delta);  undesirable: -w_U log sigmoid(-(beta r - delta))

    delta is the running mean of the rewards of both classes, without gradient. Known case: beta r = delta gives
    w ln 2. Departure: the paper's density-ratio weights of undesirable rows are not computed here.
    """
    u = _signed(beta * logratio_B - delta, desirable_B)
    return -_weights(u, desirable_B, desirable_weight, undesirable_weight) * logsigmoid(u)


def apo_zero_unpaired(
    logratio_B: Tensor,
    desirable_B: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """APO-zero, equation 7, one row at a time: KTO with its reference point at 0.

        desirable: w_D (1 - sigmoid(beta r));  undesirable: w_U sigmoid(beta r)

    Known case: policy = reference gives w / 2. Departure: the paper's loss is of pairs (anchored.apo_zero), the sum of
    these two.
    """
    zero = torch.zeros((), dtype=logratio_B.dtype, device=logratio_B.device)
    return kto(
        logratio_B, desirable_B, zero,
        beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight,
    )  # fmt: skip


def class_balance(
    n_desirable: int, n_undesirable: int, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> float:
    """The weight of all desirable rows against that of all undesirable ones: n_D w_D / (n_U w_U), equation 8 of KTO.

    Good within CLASS_BALANCE_RANGE. Both classes must have rows and a weight above 0.
    """
    return n_desirable * desirable_weight / (n_undesirable * undesirable_weight)


def _signed(u: Tensor, desirable_B: Tensor) -> Tensor:
    return torch.where(desirable_B, u, -u)


def _weights(like: Tensor, desirable_B: Tensor, desirable_weight: float, undesirable_weight: float) -> Tensor:
    return torch.where(desirable_B, like.new_tensor(desirable_weight), like.new_tensor(undesirable_weight))
