"""The logistic loss of a preference whose label may be flipped: what DPO, CPO, SimPO and AOT have in common."""

from torch import Tensor
from torch.nn.functional import logsigmoid


def logistic(logit: Tensor, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """The loss of each pair, from the log-odds x that the first completion wins; same shape as logit.

        loss = -(1 - e) log sigmoid(x) - e log sigmoid(-x)

    e = label_smoothing is the probability that a label is flipped, in [0, 0.5): one number, or one of each pair (B,).
    Known cases: x = 0 gives ln 2 for every e; the loss is least at x = ln((1 - e) / e), its entropy; e = 0 is the
    negative log-likelihood of Bradley and Terry. Mitchell 2023, "A note on DPO with noisy preferences", equation 3.
    """
    return -(1 - label_smoothing) * logsigmoid(logit) - label_smoothing * logsigmoid(-logit)
