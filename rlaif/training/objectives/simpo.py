"""Paired objectives without a reference: SimPO, CPO and AlphaPO.

SimPO (Meng et al. 2024, arXiv 2405.14734), CPO (Xu et al. 2024, arXiv 2401.08417), AlphaPO (Gupta et al. 2025, arXiv
2501.03884). Losses have shape (B,). They read the policy's log-probs alone. CPO's likelihood term on the chosen
completion is not in them: the caller adds it.
"""

from torch import Tensor
from torch.nn.functional import relu

from rlaif.training.objectives.divergence import power_transform
from rlaif.training.objectives.logistic import logistic
from rlaif.training.objectives.pairs import Pairs


def simpo(pairs: Pairs, *, beta: float, gamma: float, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """SimPO, equation 6: mean log-probs, and a margin gamma that the chosen completion must be ahead.

        x = beta (l_w / T_w - l_l / T_l) - gamma;  loss = -(1 - e) log sigmoid(x) - e log sigmoid(-x)

    T are lengths in tokens; beta 2 to 10; gamma >= 0 is the margin itself, not its ratio to beta; e = label_smoothing
    in [0, 0.5), one for all or one of each pair (B,). Known case: equal means give ln(1 + e^gamma) at e = 0.
    Departure: the paper has no label smoothing.
    """
    return logistic(beta * (pairs.chosen_mean - pairs.rejected_mean) - gamma, label_smoothing)


def cpo(pairs: Pairs, *, beta: float, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """CPO's preference term, equation 3: DPO with a uniform reference.

        x = beta (l_w - l_l);  loss = -(1 - e) log sigmoid(x) - e log sigmoid(-x)

    Log-probs are sums. e as in simpo. Known cases: equal log-probs give ln 2; it is DPO where the reference gives both
    completions the same log-prob. Departure: the paper has no label smoothing.
    """
    return logistic(beta * (pairs.chosen - pairs.rejected), label_smoothing)


def cpo_hinge(pairs: Pairs, *, beta: float) -> Tensor:
    """CPO with the hinge of SLiC (arXiv 2305.10425): max(0, 1 - beta (l_w - l_l)). Equal log-probs give 1."""
    return relu(1 - beta * (pairs.chosen - pairs.rejected))


def alphapo(pairs: Pairs, *, beta: float, gamma: float, alpha: float) -> Tensor:
    """AlphaPO: SimPO whose reward is a power of the mean probability p = exp(l / T), not its logarithm.

        R = (1 - p^-alpha) / alpha;  loss = -log sigmoid(beta (R_w - R_l) - gamma)

    alpha is any number (the paper: 0.25, with beta 2.5 and gamma 0.1); alpha > 0 punishes unlikely completions more,
    alpha < 0 less. Known case: as alpha goes to 0, R goes to log p and the loss to SimPO, which alpha = 0 is; small
    alpha lose no digits. Departure: the exponent -alpha log p ends at 80, with a gradient of 0 beyond, so that two
    hopeless completions do not give nan.
    """
    won, lost = power_transform(pairs.chosen_mean, -alpha), power_transform(pairs.rejected_mean, -alpha)
    return logistic(beta * (won - lost) - gamma)
