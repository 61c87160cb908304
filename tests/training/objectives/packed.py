"""Packed tokens to feed the online objectives with, and the padded matrices that slow oracles go through."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlaif.training.objectives import policy_gradient as pg
from rlaif.training.objectives.policy_gradient import Kind, Level, StepSize, Unit

F64 = torch.float64


@dataclass(frozen=True)
class Tokens:
    """Rows of sampled tokens: everything (N,), rows one after the other."""

    row: Tensor
    logps: Tensor
    old: Tensor
    reference: Tensor
    advantages: Tensor
    lengths: tuple[int, ...]

    @property
    def n_rows(self) -> int:
        return len(self.lengths)

    def rows(self, chosen: list[int]) -> "Tokens":
        """Some rows, in that order, numbered anew."""
        where = torch.cat([(self.row == row).nonzero()[:, 0] for row in chosen])
        lengths = tuple(self.lengths[row] for row in chosen)
        return Tokens(rows_of(lengths), *(getattr(self, name)[where] for name in VALUES), lengths)

    def with_logps(self, logps: Tensor) -> "Tokens":
        return replace(self, logps=logps)


VALUES = ("logps", "old", "reference", "advantages")


def rows_of(lengths: tuple[int, ...] | list[int]) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def random_tokens(lengths: tuple[int, ...], seed: int = 0, spread: float = 0.4) -> Tokens:
    """Ratios on both sides of every clip, and advantages of both signs, one for each row."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    logps = -torch.rand(n, generator=generator, dtype=F64) * 3 - 0.01
    old, reference = (logps + spread * torch.randn(n, generator=generator, dtype=F64) for _ in range(2))
    advantages = torch.randn(len(lengths), generator=generator, dtype=F64)[rows_of(lengths)]
    return Tokens(rows_of(lengths), logps, old, reference, advantages, lengths)


def loss_of(
    tokens: Tokens,
    kind: Kind = "clip",
    *,
    unit: Unit = "token",
    level: Level = "token",
    beta: float = 0.0,
    bias_correction: bool = False,
    step: StepSize | None = None,
    **settings: float | None,
) -> Tensor:
    """A step's loss (or a micro-batch's share, given the size of the step), as a trainer would put it together."""
    step = step or step_of(tokens)
    log_ratio = pg.log_ratio(tokens.logps, tokens.old, tokens.row, tokens.n_rows, level)
    losses = pg.surrogate(tokens.logps, log_ratio, tokens.advantages, kind, **settings)
    if beta:
        ratio = log_ratio if bias_correction else None
        losses = losses + beta * pg.kl_estimate(tokens.logps, tokens.reference, "k3", log_ratio_N=ratio)
    weights = pg.token_weights(tokens.row, tokens.n_rows, unit, step, dtype=losses.dtype)
    return (losses * weights).sum()


def step_of(tokens: Tokens, max_tokens: int = 16) -> StepSize:
    n = sum(tokens.lengths)
    return StepSize(rows=tokens.n_rows, tokens=n, rollout_tokens=n, max_tokens=max_tokens)
