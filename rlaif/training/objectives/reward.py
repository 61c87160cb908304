"""Reward models: scores of whole conversations, learned from pairs.

Bradley and Terry 1952; the margin is that of Llama 2 (Touvron et al. 2023, arXiv 2307.09288, equation 2), the
centering that of Eisenstein et al. 2023 (arXiv 2312.09244).
"""

from torch import Tensor

from rlaif.training.objectives.logistic import logistic


def bradley_terry(
    chosen_B: Tensor, rejected_B: Tensor, *, margin_B: Tensor | None = None, centering: float = 0.0
) -> Tensor:
    """The loss of each pair, shape (B,), from the rewards of its completions, (B,) each.

        loss = -log sigmoid(R_w - R_l - margin) + centering (R_w + R_l)^2

    margin_B >= 0 is how much better each chosen completion is said to be. The preference fixes rewards up to a
    constant; centering >= 0 (0.01 is usual) draws their sum to 0. Known case: equal rewards give ln 2 without a
    margin and with rewards 0. No departure from the papers.
    """
    difference = chosen_B - rejected_B
    losses = logistic(difference if margin_B is None else difference - margin_B)
    return losses + centering * (chosen_B + rejected_B) ** 2 if centering else losses
