"""Learning from preferences against an opponent: what XPO adds to DPO, and Nash mirror descent."""

import torch
from torch import Tensor


def exploration(reference_responses_B: Tensor, *, alpha: float) -> Tensor:
    """What XPO adds to the loss of each pair, (B,): alpha log p(the reference's response) (Xie et al. 2024, arXiv 2405.21046,
    algorithm 1).

    reference_responses_B are the policy's summed log-probs of the responses that the reference gave, with gradient. alpha >= 0;
    0 is online DPO. No departure.
    """
    return alpha * reference_responses_B


def nash_md(policy_B: Tensor, reference_B: Tensor, preference_B: Tensor, *, beta: float) -> Tensor:
    """The loss of each response of the policy, (B,), with the gradient of Nash-MD-PG (Munos et al. 2023, arXiv 2312.00886).

        -(p - 1/2 - beta (log pi - log ref)) log pi        with gradient to the last factor only

    policy_B, reference_B: summed log-probs. preference_B: p, the probability that the response is preferred to the opponent's,
    in [0, 1]; 1/2 is a baseline that changes no mean. beta >= 0. Known case: p = 1/2 and pi = ref teach nothing. No departure
    (TRL's loss weighs each token by its own log-ratio only, which is not the gradient of the divergence).
    """
    advantage_B = preference_B.to(policy_B.dtype) - 0.5 - beta * (policy_B - reference_B).detach()
    return -advantage_B * policy_B


@torch.no_grad()
def preference(own_B: Tensor, other_B: Tensor, kind: str) -> Tensor:
    """The probability that a response is preferred to the opponent's, from the rewards of both, (B,), in float64.

    order: 1 where its reward is higher, 1/2 where equal, else 0. sigmoid: of the difference (Bradley-Terry). margin: of judges
    that compared the two, whose rewards are m and -m: (1 + m) / 2, held in [0, 1].
    """
    difference_B = own_B.double() - other_B.double()
    if kind == "order":
        return (difference_B.sign() + 1) / 2
    return difference_B.sigmoid() if kind == "sigmoid" else ((1 + difference_B / 2) / 2).clamp(0, 1)
