"""f-DPO (Wang et al. 2023, arXiv 2309.16240): DPO whose distance to the reference is another f-divergence.

The reward of a completion is beta f'(t) with t = policy / reference = e^r. Reverse KL has f'(t) = log t + 1, hence
r (constants cancel in the margin), which is DPO.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]

MAX_EXPONENT = 80.0
"""e^80 is 5.5e34: in float32 and bfloat16 still far enough from infinity to be scaled and summed."""


def transform(name: Divergence, alpha: float = 0.5) -> Callable[[Tensor], Tensor] | None:
    """What a divergence makes of a log-ratio r, for Pairs.transform; None where that is r itself.

    * reverse_kl: r, so None.
    * forward_kl: 1 - e^-r, which is alpha_divergence at alpha = 0.
    * js_divergence: ln 2 + log sigmoid(r), from f'(t) = log(2 t / (1 + t)).
    * alpha_divergence: (e^((alpha - 1) r) - 1) / (alpha - 1); alpha = 1 is its limit r, so None.

    All are 0 at r = 0, have slope 1 there (Jensen-Shannon: 1/2) and rise with r. Departure: exponents end at 80, where
    the value stays and the gradient is 0, so that a margin of two huge values is not nan.
    """
    if name == "js_divergence":
        return _jensen_shannon
    power = {"reverse_kl": 0.0, "forward_kl": -1.0, "alpha_divergence": alpha - 1}[name]
    return None if power == 0 else lambda logratio: power_transform(logratio, power)


def power_transform(logarithm: Tensor, power: float) -> Tensor:
    """(t^power - 1) / power of a t given by its logarithm; log t at power 0, and near it without loss of digits.

    Exponents end at MAX_EXPONENT.
    """
    if power == 0:
        return logarithm
    return torch.expm1((power * logarithm).clamp(max=MAX_EXPONENT)) / power


def _jensen_shannon(logratio: Tensor) -> Tensor:
    return math.log(2) + logsigmoid(logratio)
