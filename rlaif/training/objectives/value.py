"""The critic's loss in PPO: values against returns (Schulman et al. 2017, arXiv 1707.06347)."""

import torch
from torch import Tensor


def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, *, clip: float | None = 0.2) -> Tensor:
    """The loss of each token, (N,), with gradient to values_N; its mean over the tokens is the loss.

        loss = max((v - R)^2, (v_old + clamp(v - v_old, -clip, clip) - R)^2) / 2

    values_N are the critic's now, old_values_N those at the rollout, returns_N what advantages.gae gives. clip > 0 in
    the unit of the rewards; None gives the plain square. With it, a value that has moved further than clip towards its
    return has no gradient. Known case: v = v_old, or clip = None, gives (v - R)^2 / 2. The paper has no clip: it is
    that of its authors' code (baselines' ppo2).
    """
    squares_N, held_squares_N = _squares(values_N, old_values_N, returns_N, clip)
    return torch.maximum(squares_N, held_squares_N) / 2


@torch.no_grad()
def value_clipped(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, *, clip: float) -> Tensor:
    """Which tokens' values have no gradient, because they moved further than clip and towards their return: (N,),
    booleans."""
    squares_N, held_squares_N = _squares(values_N, old_values_N, returns_N, clip)
    return held_squares_N > squares_N


@torch.no_grad()
def explained_variance(values_N: Tensor, returns_N: Tensor) -> float:
    """The share of the returns' variance that the values foretell: 1 - var(R - v) / var(R), at most 1.

    0 of a critic that says one number always, less of one that is worse. Nan where all returns are equal.
    """
    returns_N, values_N = returns_N.double(), values_N.double()
    return float(1 - (returns_N - values_N).var() / returns_N.var())


def _squares(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """The squared errors of the values, and of the values held within clip of the old ones."""
    old_values_N, returns_N = old_values_N.detach().to(values_N.dtype), returns_N.detach().to(values_N.dtype)
    squares_N = (values_N - returns_N) ** 2
    if clip is None:
        return squares_N, squares_N
    # Within the clip this is the value itself: old + (value - old) would be off by a rounding.
    held_N = torch.minimum(torch.maximum(values_N, old_values_N - clip), old_values_N + clip)
    return squares_N, (held_N - returns_N) ** 2
