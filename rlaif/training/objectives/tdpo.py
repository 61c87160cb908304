"""Token-level DPO (Zeng et al. 2024, arXiv 2404.11999): DPO that counts how far each token's distribution has moved.

k is the sequential KL of a completion, sum over its tokens of KL(reference_t || policy_t) over the whole vocabulary,
shape (B,) and >= 0: so scalar log-probs of the reference do not suffice. Losses have shape (B,); pairs.transform is
to be None.
"""

from torch import Tensor

from rlaif.training.objectives.logistic import logistic
from rlaif.training.objectives.pairs import Pairs


def tdpo1(pairs: Pairs, chosen_kl: Tensor, rejected_kl: Tensor, *, beta: float) -> Tensor:
    """TDPO1: the margin less the difference of the KLs, with the gradient of both.

        loss = -log sigmoid(beta (D - (k_l - k_w)))

    Known cases: policy = reference gives ln 2; equal KLs give DPO. No departure from the paper.
    """
    return logistic(beta * (pairs.margin - (rejected_kl - chosen_kl)))


def tdpo2(pairs: Pairs, chosen_kl: Tensor, rejected_kl: Tensor, *, beta: float, alpha: float) -> Tensor:
    """TDPO2: the difference weighs alpha, and the chosen completion's KL has no gradient.

        loss = -log sigmoid(beta (D - alpha (k_l - stopgrad(k_w))))

    alpha >= 0 (0.5 in the paper). With a gradient, k_w would be rewarded for growing. Known cases: alpha = 0 is DPO;
    alpha = 1 has the value (not the gradient) of TDPO1; policy = reference gives ln 2. No departure from the paper.
    """
    return logistic(beta * (pairs.margin - alpha * (rejected_kl - chosen_kl.detach())))
