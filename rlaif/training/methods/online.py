"""The policy-gradient methods: GRPO and its relatives."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from rlaif.training.config.policy_gradient import PolicyGradientConfig, PpoConfig
from rlaif.training.methods.base import Counts, Method, Metrics, Scored
from rlaif.training.objectives.policy_gradient import (
    StepSize,
    clipped,
    importance_weight,
    kl_estimate,
    log_ratio,
    surrogate,
    token_weights,
)
from rlaif.training.objectives.value import value_clipped, value_loss

if TYPE_CHECKING:
    from rlaif.training.online.learning import SampledRow

SAMPLING_CAP = 2.0
"""Of the weight that corrects for a sampler whose log-probs are not the trainer's (TRL's default)."""


class PolicyGradientMethod(Method):
    """The surrogate of each token by its advantage, and a KL term."""

    extras: tuple[str, ...] = ("entropy",)

    def __init__(self, config: PolicyGradientConfig) -> None:
        self.config = config
        self.corrects = False
        """Whether each token is weighed by what the trainer says of it over what the sampler said, up to SAMPLING_CAP."""
        self.beta = config.beta
        """Weight of the KL divergence: some learners change it."""
        self.step = StepSize(rows=1, tokens=1)
        """Of the step under way: set before it begins."""

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        config = self.config
        rows = cast("Sequence[SampledRow]", scored.rows)
        token_M, row_M = scored.layout.row_tokens()
        logps_M = scored.logps[token_M]
        old_M = _tokens(rows, "old", logps_M) if rows[0].old is not None else logps_M.detach()
        log_ratio_M = log_ratio(logps_M, old_M, row_M, len(rows), level=config.ratio)
        advantages_M = _tokens(rows, "advantages", logps_M)
        losses_M = self._surrogate(logps_M, log_ratio_M, advantages_M)
        sampled_M = _tokens(rows, "sampled", logps_M)
        correction_M = importance_weight(old_M, sampled_M, cap=SAMPLING_CAP)
        if self.corrects:
            losses_M = losses_M * correction_M
        low_M, high_M = clipped(
            log_ratio_M, advantages_M, config.surrogate, epsilon_low=config.clip_low, epsilon_high=config.clip_high,
            ratio_cap=config.ratio_cap, dual_clip=config.dual_clip, cispo_cap=config.cispo_cap,
        )  # fmt: skip
        values = {
            "approx_kl": (logps_M.detach() - old_M) ** 2 / 2,
            "entropy": scored.outputs["entropy"][token_M],
            "clip_ratio/low_mean": low_M,
            "clip_ratio/high_mean": high_M,
            "clip_ratio/region_mean": low_M | high_M,
            "sampling/sampling_logp_difference/mean": (old_M - sampled_M).abs(),
            "sampling/importance_sampling_ratio/mean": correction_M,
        }
        if scored.reference is not None:
            reference_M = scored.reference[token_M]
            values["kl"] = kl_estimate(logps_M.detach(), reference_M, config.kl)
            if config.kl_in == "loss" and self.beta:
                weigh = log_ratio_M if config.kl_ratio else None
                losses_M = losses_M + self.beta * kl_estimate(logps_M, reference_M, config.kl, log_ratio_N=weigh)
        weights_M = token_weights(row_M, len(rows), config.normalization, self.step, dtype=losses_M.dtype)
        metrics: Metrics = {name: _over(value) for name, value in values.items()}
        return (losses_M * weights_M).sum(), metrics

    def _surrogate(self, logps_M: Tensor, log_ratio_M: Tensor, advantages_M: Tensor) -> Tensor:
        config = self.config
        good, bad = config.sapo_temperatures
        return surrogate(
            logps_M, log_ratio_M, advantages_M, config.surrogate, epsilon_low=config.clip_low,
            epsilon_high=config.clip_high, ratio_cap=config.ratio_cap, dual_clip=config.dual_clip,
            cispo_cap=config.cispo_cap, tau_positive=good, tau_negative=bad,
        )  # fmt: skip


class PpoMethod(PolicyGradientMethod):
    """The same, and the critic's squared error."""

    config: PpoConfig

    def __init__(self, config: PpoConfig) -> None:
        super().__init__(config)
        self.extras = ("entropy", "hidden") if config.critic == "head" else ("entropy",)

    def loss(self, scored: Scored, counts: Counts) -> tuple[Tensor, Metrics]:
        total, metrics = super().loss(scored, counts)
        config, rows = self.config, cast("Sequence[SampledRow]", scored.rows)
        token_M, row_M = scored.layout.row_tokens()
        values_M = scored.outputs["values"][token_M]
        old_M, returns_M = _tokens(rows, "values", values_M), _tokens(rows, "returns", values_M)
        losses_M = value_loss(values_M, old_M, returns_M, clip=config.value_clip)
        weights_M = token_weights(row_M, len(rows), config.normalization, self.step, dtype=losses_M.dtype)
        share = len(row_M) / self.step.tokens  # of the step, whose loss this is a part of
        shown = {"policy_loss": (total.detach().double(), share), "value_loss": _over(losses_M)}
        shown |= {"values": _over(values_M), "returns": _over(returns_M)}
        if config.value_clip is not None:
            shown["value_clip_ratio"] = _over(value_clipped(values_M, old_M, returns_M, clip=config.value_clip))
        return total + config.value_weight * (losses_M * weights_M).sum(), metrics | shown


def _over(values_M: Tensor) -> tuple[Tensor, float]:
    """The sum over tokens, and their number."""
    return values_M.detach().double().sum(), float(len(values_M))


def _tokens(rows: "Sequence[SampledRow]", name: str, like: Tensor) -> Tensor:
    """What the rows of a micro-batch bring, over their tokens, (M,)."""
    found: list[Any] = [getattr(row, name) for row in rows]
    return torch.cat(found).to(like.device, like.dtype)
