"""Alignment via Optimal Transport (Melnyk et al. 2024, arXiv 2406.05882): order statistics of a batch, not its pairs.

These losses couple the whole batch: a row of the result belongs to a rank and not to a pair, its value depends on
which pairs are in the batch, and micro-batches do not add up to one batch. More pairs see more of the distribution;
with one pair, both are DPO.
"""

from torch import Tensor

from rlaif.training.objectives.logistic import logistic
from rlaif.training.objectives.pairs import Pairs


def aot(pairs: Pairs, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Paired AOT: the policy's margins shall dominate the reference's, quantile by quantile. Shape (B,), by rank.

        d = sort(l_w - l_l) - sort(l_ref_w - l_ref_l);  loss = -(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d)

    e = label_smoothing in [0, 0.5), one for all: ranks have no label of their own. Known cases: a batch of one is
    conservative DPO; policy = reference gives ln 2. It compares log-probs, so a divergence does not apply. Departure:
    of the paper's penalties, only the logistic one.
    """
    policy, reference = pairs.chosen - pairs.rejected, pairs.reference_chosen - pairs.reference_rejected
    return logistic(beta * (policy.sort().values - reference.sort().values), label_smoothing)


def aot_unpaired(pairs: Pairs, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Unpaired AOT: rewards of chosen completions shall dominate those of rejected ones. Shape (B,), by rank.

        d = sort(r_w) - sort(r_l);  loss = -(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d)

    Which completion was compared with which does not matter. Known cases and departures as for aot.
    """
    won, lost = pairs.chosen_logratio.sort().values, pairs.rejected_logratio.sort().values
    return logistic(beta * (won - lost), label_smoothing)
