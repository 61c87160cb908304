"""Odds Ratio Preference Optimization (Hong et al. 2024, arXiv 2403.07691): no reference, one stage with SFT."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlaif.training.objectives.pairs import Pairs


def log_odds(pairs: Pairs) -> Tensor:
    """How much more likely than not the chosen completion is, against the rejected one: shape (B,). Equation 4.

        log(odds_w / odds_l),  odds = p / (1 - p),  log p = l / T the mean log-prob of a completion's tokens

    Known case: equal means give 0; swapping chosen and rejected negates it. No departure in value, but a mean log-prob
    is held one rounding error below 0, where the odds would be infinite.
    """
    return _logit(pairs.chosen_mean) - _logit(pairs.rejected_mean)


def orpo(pairs: Pairs, *, beta: float) -> Tensor:
    """The odds ratio term of ORPO, equation 7, times beta (lambda in the paper: 0.1). Shape (B,).

        loss = -beta log sigmoid(log_odds)

    The negative log-likelihood of the chosen completion, ORPO's first term, is added by the caller. Known case: equal
    means give beta ln 2. No departure from the paper.
    """
    return -beta * logsigmoid(log_odds(pairs))


def _logit(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p. expm1 keeps its digits as p nears 1, where log(1 - exp(log p)) has none left."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return logp - torch.log(-torch.expm1(logp))
