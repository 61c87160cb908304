"""Every paired objective with settings of its own, the golden numbers, and pairs to feed them with."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlaif.training.objectives import anchored, aot, dpo, ipo, orpo, rainbow, simpo, tdpo
from rlaif.training.objectives.divergence import transform
from rlaif.training.objectives.pairs import Pairs

Loss = Callable[[Pairs], Tensor]

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data/golden_objectives.json").read_text())
TENSORS = [field.name for field in fields(Pairs) if field.name != "transform"]


def make_pairs(*rows: Sequence[float], dtype: torch.dtype = torch.float64) -> Pairs:
    """Each row: chosen, rejected, reference of chosen, reference of rejected, tokens of chosen, tokens of rejected."""
    return Pairs(*torch.tensor(rows, dtype=dtype).T.contiguous())


def map_pairs(pairs: Pairs, function: Callable[[Tensor], Tensor]) -> Pairs:
    return replace(pairs, **{name: function(getattr(pairs, name)) for name in TENSORS})


def swapped(pairs: Pairs) -> Pairs:
    """Chosen and rejected change places."""
    return replace(pairs, **{name: getattr(pairs, _other(name)) for name in TENSORS})


def _other(name: str) -> str:
    return name.replace("chosen", "rejected") if "chosen" in name else name.replace("rejected", "chosen")


def with_divergence(name: Any, alpha: float = 0.5) -> Loss:
    return lambda pairs: dpo.sigmoid(replace(pairs, transform=transform(name, alpha)), beta=0.1)


def tdpo_of_lengths(loss: Callable[..., Tensor]) -> Loss:
    """TDPO with KLs that differ between the pairs, as a function of the pairs alone."""
    return lambda pairs: loss(pairs, 0.3 * pairs.chosen_tokens, 0.2 * pairs.rejected_tokens)


ROWWISE: dict[str, Loss] = {
    "sigmoid": partial(dpo.sigmoid, beta=0.3),
    "conservative": partial(dpo.sigmoid, beta=0.3, label_smoothing=0.1),
    "robust": partial(dpo.robust, beta=0.3, label_smoothing=0.1),
    "sigmoid_norm": partial(dpo.sigmoid_norm, beta=2.0),
    "discopop": partial(dpo.discopop, beta=0.3, tau=0.5),
    "rdpo": partial(dpo.rdpo, beta=0.3, alpha=0.1),
    "dpop": partial(dpo.dpop, beta=0.3, penalty=2.0),
    "hinge": partial(dpo.hinge, beta=0.3),
    "exo_pair": partial(dpo.exo_pair, beta=0.3, label_smoothing=1e-3),
    "ipo": partial(ipo.ipo, beta=0.3),
    "ipo of sums": partial(ipo.ipo, beta=0.3, average=False),
    "ipo smoothed": partial(ipo.ipo, beta=0.3, label_smoothing=0.1),
    "sppo_hard": partial(ipo.sppo_hard, beta=0.3),
    "nca_pair": partial(anchored.nca_pair, beta=0.3),
    "bco_pair": partial(anchored.bco_pair, beta=0.3, shift=0.2),
    "apo_zero": partial(anchored.apo_zero, beta=0.3),
    "apo_down": partial(anchored.apo_down, beta=0.3),
    "forward_kl": with_divergence("forward_kl"),
    "js_divergence": with_divergence("js_divergence"),
    "alpha_divergence": with_divergence("alpha_divergence", 0.5),
    "alpha_divergence above 1": with_divergence("alpha_divergence", 1.5),
    "simpo": partial(simpo.simpo, beta=2.0, gamma=0.5),
    "simpo smoothed": partial(simpo.simpo, beta=2.0, gamma=0.5, label_smoothing=0.1),
    "cpo": partial(simpo.cpo, beta=0.3),
    "cpo_hinge": partial(simpo.cpo_hinge, beta=0.3),
    "alphapo": partial(simpo.alphapo, beta=2.5, gamma=0.1, alpha=0.25),
    "alphapo below 0": partial(simpo.alphapo, beta=2.5, gamma=0.1, alpha=-0.25),
    "orpo": partial(orpo.orpo, beta=0.3),
    "tdpo1": tdpo_of_lengths(partial(tdpo.tdpo1, beta=0.3)),
    "tdpo2": tdpo_of_lengths(partial(tdpo.tdpo2, beta=0.3, alpha=0.5)),
    "rainbowpo": partial(rainbow.rainbowpo, beta=2.0, alpha=0.25, home_advantage=0.1),
}
"""Losses whose rows depend on one pair each."""

COUPLED: dict[str, Loss] = {
    "aot": partial(aot.aot, beta=0.3, label_smoothing=0.1),
    "aot_unpaired": partial(aot.aot_unpaired, beta=0.3, label_smoothing=0.1),
}
"""Losses that sort the batch."""

# Lengths, signs of both log-ratios and of the margin differ from row to row; no kink of a hinge and no tie is near.
SAMPLE = make_pairs(
    (-5.0, -9.0, -6.5, -7.0, 6, 5),
    (-8.0, -6.0, -7.0, -6.5, 5, 7),
    (-3.0, -4.0, -3.5, -5.2, 4, 4),
    (-2.5, -7.0, -1.7, -5.3, 3, 9),
)
