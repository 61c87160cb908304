"""Squared losses: IPO (Azar et al. 2023, arXiv 2310.12036) and SPPO (Wu et al. 2024, arXiv 2405.00675)."""

from torch import Tensor

from rlaif.training.objectives.pairs import Pairs


def ipo(pairs: Pairs, *, beta: float, average: bool = True, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """IPO, equation 17 (beta is tau there): the margin is drawn to 1 / (2 beta), not to infinity. Shape (B,).

        loss = (1 - e) (D - c)^2 + e (D + c)^2,  c = 1 / (2 beta)

    e = label_smoothing in [0, 0.5) is the probability that a label is flipped, one for all or one of each pair (B,):
    the expected loss over flips, which is (D - (1 - 2 e) c)^2 + 4 e (1 - e) c^2, so doubt lowers the target.
    Known cases: e = 0 is the paper; policy = reference gives c^2 for every e.

    Departure: with average, D is the difference of the log-ratios per token, so that the loss does not grow with the
    length; the paper's authors confirm that their results are of this form. average=False takes the sums of
    equation 17.
    """
    margin = pairs.mean_margin if average else pairs.margin
    target = 1 / (2 * beta)
    return (1 - label_smoothing) * (margin - target) ** 2 + label_smoothing * (margin + target) ** 2


def sppo_hard(pairs: Pairs, *, beta: float) -> Tensor:
    """SPPO with hard labels, equation 4.7 with win probabilities 1 and 0. Shape (B,).

        loss = (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2

    beta is 1 / eta of the paper (0.001). Known case: policy = reference gives 1 / (2 beta^2). Departure: the paper's
    probabilities are those of a preference model; here the chosen completion has won for certain.
    """
    target = 1 / (2 * beta)
    return (pairs.chosen_logratio - target) ** 2 + (pairs.rejected_logratio + target) ** 2
