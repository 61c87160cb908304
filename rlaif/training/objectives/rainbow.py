"""RainbowPO (Zhao et al. 2024, arXiv 2410.04203): length normalisation with a reference mixed from two."""

from torch import Tensor

from rlaif.training.objectives.logistic import logistic
from rlaif.training.objectives.pairs import Pairs


def rainbowpo(pairs: Pairs, *, beta: float, alpha: float, home_advantage: float) -> Tensor:
    """RainbowPO: between SimPO's margin and the reference's own margin. Shape (B,).

        x = (l_w / T_w - l_l / T_l) - alpha (l_ref_w / T_w - l_ref_l / T_l) - (1 - alpha) h;  loss = -log sigmoid(beta x)

    T are lengths in tokens, alpha in [0, 1], h = home_advantage >= 0. The reference is a geometric mixture of the
    given one (alpha) and one that finds the chosen completion better by h per token (1 - alpha). Known cases:
    alpha = 1 is length-normalised DPO; alpha = 0 is SimPO with gamma = beta h.
    Departure: the paper's contextual scaling of x by the prompt ("mallows") is left out.
    """
    policy = pairs.chosen_mean - pairs.rejected_mean
    reference = pairs.reference_chosen_mean - pairs.reference_rejected_mean
    return logistic(beta * (policy - alpha * reference - (1 - alpha) * home_advantage))
