"""Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290) and its variants on the margin.

In every formula x = beta D, with D = r_w - r_l the margin of a pair. Losses have shape (B,).
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rlaif.training.objectives.logistic import logistic
from rlaif.training.objectives.pairs import Pairs


def sigmoid(pairs: Pairs, *, beta: float, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """DPO, equation 7; with label_smoothing, conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences").

        loss = -(1 - e) log sigmoid(x) - e log sigmoid(-x)

    beta > 0; e = label_smoothing in [0, 0.5) is the probability that a label is flipped, one for all or one of each
    pair (B,). Known case: where the policy is the reference, x = 0 and the loss is ln 2 for every beta and e.
    Without a reference (zeros), it is the reference-free variant of DPO's authors. No departure from the papers.
    """
    return logistic(beta * pairs.margin, label_smoothing)


def robust(pairs: Pairs, *, beta: float, label_smoothing: float | Tensor) -> Tensor:
    """Robust DPO (Chowdhury et al. 2024, arXiv 2403.00409): unbiased where labels are flipped with probability e.

        loss = [-(1 - e) log sigmoid(x) + e log sigmoid(-x)] / (1 - 2 e)

    e = label_smoothing in [0, 0.5), one for all or one of each pair (B,). The mean over flips of this loss is the
    loss of DPO on clean labels: (1 - e) loss(x) + e loss(-x) = -log sigmoid(x). Known cases: e = 0 is DPO; x = 0 gives
    ln 2. The loss may be negative, and has no minimum for e > 0: it falls as x grows. No departure from the paper.
    """
    x = beta * pairs.margin
    clean, flipped = -logsigmoid(x), -logsigmoid(-x)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def sigmoid_norm(pairs: Pairs, *, beta: float) -> Tensor:
    """Length-normalised DPO (Lambert et al. 2024, Tulu 3, arXiv 2411.15124): log-ratios per token.

        loss = -log sigmoid(beta (r_w / T_w - r_l / T_l))

    T are the lengths in tokens. beta is that of a mean, so larger than DPO's (Tulu 3: 5). Known cases: completions of
    one length T give DPO at beta / T; policy = reference gives ln 2. No departure from the paper.
    """
    return logistic(beta * pairs.mean_margin)


def discopop(pairs: Pairs, *, beta: float, tau: float) -> Tensor:
    """DiscoPOP (Lu et al. 2024, arXiv 2406.08414), equation 5: logistic and exponential loss, mixed by the margin.

        w = sigmoid(x / tau);  loss = (1 - w) (-log sigmoid(x)) + w exp(-x)

    tau in (0, 1], 0.05 in the paper. Known case: policy = reference gives (ln 2 + 1) / 2. No departure in value:
    w exp(-x) is exp(log sigmoid(x / tau) - x), because exp(-x) alone overflows where w makes the product vanish.
    """
    x = beta * pairs.margin
    exponential = torch.exp(logsigmoid(x / tau) - x)
    return -torch.sigmoid(-x / tau) * logsigmoid(x) + exponential


def rdpo(pairs: Pairs, *, beta: float, alpha: float) -> Tensor:
    """R-DPO (Park et al. 2024, arXiv 2403.19159): length-regularised DPO.

        loss = -log sigmoid(x + alpha (T_w - T_l))

    It follows from a reward less alpha for each token: then beta r = reward - alpha T up to a constant, and the
    reward of the pair's preference is beta r + alpha T. So a longer chosen completion needs less of a margin. T are
    lengths in tokens, alpha >= 0. Known case: equal lengths, or alpha = 0, give DPO. No departure from the paper.
    """
    return logistic(beta * pairs.margin + alpha * (pairs.chosen_tokens - pairs.rejected_tokens))


def dpop(pairs: Pairs, *, beta: float, penalty: float) -> Tensor:
    """DPO-Positive (Pal et al. 2024, Smaug, arXiv 2402.13228): the chosen completion must not become less likely.

        loss = -log sigmoid(beta (D - penalty max(0, -r_w)))

    penalty >= 0 (lambda in the paper: 50, with beta 0.3) counts in the unit of the log-ratios, inside of beta. Known
    cases: r_w >= 0, or penalty = 0, give DPO. No departure from the paper.
    """
    return logistic(beta * (pairs.margin - penalty * relu(-pairs.chosen_logratio)))


def hinge(pairs: Pairs, *, beta: float) -> Tensor:
    """SLiC's hinge (Zhao et al. 2023, arXiv 2305.10425) on DPO's margin (Liu et al. 2023, RSO, arXiv 2309.06657).

        loss = max(0, 1 - x)

    Known case: policy = reference gives 1; x >= 1 gives 0 and no gradient. Departure from SLiC: log-ratios for
    log-probs, as RSO has it, and no term that keeps the policy near the data, since the reference does.
    """
    return relu(1 - beta * pairs.margin)


def exo_pair(pairs: Pairs, *, beta: float, label_smoothing: float) -> Tensor:
    """EXO on pairs (Ji et al. 2024, arXiv 2402.00856), equation 16: the reverse KL of policy and label.

        q = sigmoid(x);  loss = q log(q / (1 - e)) + (1 - q) log((1 - q) / e)

    e = label_smoothing in (0, 0.5): at 0 the loss is infinite (the paper takes 1e-3). Known cases: x = ln((1 - e) / e)
    gives 0, its least value; policy = reference gives -ln 2 - ln(e (1 - e)) / 2. No departure from the paper.
    """
    x = beta * pairs.margin
    won = torch.sigmoid(x) * (logsigmoid(x) - math.log1p(-label_smoothing))
    lost = torch.sigmoid(-x) * (logsigmoid(-x) - math.log(label_smoothing))
    return won + lost


@torch.no_grad()
def preference_metrics(pairs: Pairs, beta: float) -> dict[str, Tensor]:
    """What is logged of each pair, each of shape (B,), without gradient.

    The reward of a completion is beta times its (transformed) log-ratio; a margin is the difference of the two, and a
    pair is accurate (1.0) where it is above 0: a tie is not.
    """
    rewards_chosen, rewards_rejected = beta * pairs.chosen_logratio, beta * pairs.rejected_logratio
    margins = rewards_chosen - rewards_rejected
    return {
        "rewards/chosen": rewards_chosen,
        "rewards/rejected": rewards_rejected,
        "rewards/accuracies": (margins > 0).to(margins.dtype),
        "rewards/margins": margins,
        "logps/chosen": pairs.chosen.detach(),
        "logps/rejected": pairs.rejected.detach(),
    }
