"""Weights of pairs, of tokens and of doubtful labels: factors by which other objectives are multiplied.

WPO (Zhou et al. 2024, arXiv 2406.11827), LD-DPO (Liu et al. 2024, arXiv 2409.06411), and labels that come with a
confidence.
"""

import torch
from torch import Tensor

MAX_FLIP_PROBABILITY = 0.45
"""Below 1/2, where a label says nothing and robust DPO divides by 0: no pair weighs more than 1 / (1 - 0.9) = 10."""


@torch.no_grad()
def wpo_weight(chosen_mean: Tensor, rejected_mean: Tensor, *, cap: float | None = None) -> Tensor:
    """WPO, equation 2: the weight of each pair, shape (B,), without gradient. Likely pairs of the policy weigh more.

        weight = exp(a_w) exp(a_l),  a = mean over a completion's tokens of log p_t - log sum_v p_v^2

    The arguments are a_w and a_l, (B,), under the policy as it is now. sum_v p_v^2 is the mean probability of a token
    that the policy samples. Known cases: a pair of tokens as likely as that weighs 1; so does any pair of a policy
    that is uniform, or certain of its tokens.
    cap limits the weight: 1 in implementations that follow the paper's authors, None for the formula as printed.
    """
    weight = torch.exp(chosen_mean + rejected_mean)
    return weight if cap is None else weight.clamp(max=cap)


def ld_token_weights(position_N: Tensor, shorter_N: Tensor, alpha: float) -> Tensor:
    """LD-DPO: the weight of each completion token's log-prob, shape (N,), before they are summed to log-probs.

        weight = 1 where position < shorter, else alpha

    position counts from 0 within a completion, shorter is the length of the shorter completion of its pair, alpha in
    [0, 1]. The tail that only the longer completion has counts less, so length alone earns less of a margin. Known
    cases: alpha = 1 is DPO, alpha = 0 cuts both completions to one length. Apply it to policy and reference alike:
    then log-ratios stay 0 where they are equal.
    """
    return torch.where(position_N < shorter_N, 1.0, alpha)


def flip_probability(confidence_B: Tensor) -> Tensor:
    """The probability e that a label is flipped, (B,), from the confidence in [0, 1] that it is right.

        e = min(1 - confidence, 0.45)

    Model: the true label is the given one with probability 1 - e, else its opposite. With u the loss as labelled and
    v as if flipped, e as label_smoothing of each pair does this:

    * conservative DPO expects over flips, (1 - e) u + e v: least at beta D = ln((1 - e) / e), so doubtful pairs are
      not pushed apart for ever;
    * IPO expects likewise: its target 1 / (2 beta) becomes (1 - 2 e) / (2 beta);
    * robust DPO, ((1 - e) u - e v) / (1 - 2 e), has mean u over flips: unbiased, with more variance.

    Known cases: confidence 1 gives e = 0, the plain losses; at confidence 0.5 the label says nothing (e = 0.45, as
    close as robust DPO can come). Departure: a confidence below 0.55 is held at e = 0.45; labels are never turned.
    """
    return (1 - confidence_B).clamp(max=MAX_FLIP_PROBABILITY)


def confidence_weight(confidence_B: Tensor) -> Tensor:
    """The weight of a row of KTO, (B,), from the confidence in [0, 1] that its label is right: 1 - 2 e.

    With flip probability e = flip_probability(confidence) and equal class weights, the expected loss of a desirable
    row is that of a desirable one, 1 - s with s = sigmoid(beta (r - z)), and e times that of an undesirable one, s:

        (1 - e) (1 - s) + e s = (1 - 2 e) (1 - s) + e

    So up to a constant the loss is scaled by 1 - 2 e, and likewise for an undesirable row. Range [0.1, 1]; known case:
    confidence 1 gives 1, the plain loss.
    """
    return 1 - 2 * flip_probability(confidence_B)
