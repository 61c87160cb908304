"""Single-stream Policy Optimization (Xu and Ding 2025, arXiv 2509.13232): one response a prompt, and a tracked baseline.

A tracker holds what rewards to expect as a Beta distribution: alpha counts successes, beta failures, p = alpha / (alpha +
beta). Before new rewards are counted, old counts are multiplied by rho < 1, the smaller the further the policy has
moved: rho = 2^-(D / half_life), so that counts halve each time D grows by half_life (0.06). Rewards in [low, high] count
as successes in [0, 1]; those outside count as the nearer end, because a Beta has no negative counts.

Trackers are values: `update` gives back a new one. Rewards of all processes go into one update, so that all trackers
are the same; `state` goes into the checkpoint. They lie outside of the gradient: the loss is policy_gradient.surrogate,
with "clip" (0.2 and 0.28) in the paper and with "none" and a k3 of weight 0.02 in MiniMind.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rlaif.training.objectives.advantages import batch_normalized
from rlaif.training.objectives.policy_gradient import row_means

EXPLORATION = 0.05
"""What every prompt weighs at least in sampling, so that none is given up."""


@torch.no_grad()
def drift(logps_N: Tensor, earlier_N: Tensor, row_N: Tensor, n_rows: int) -> Tensor:
    """How far the policy has moved on each row, (B,): the mean over its tokens of |log policy now - log policy then|."""
    return row_means((logps_N - earlier_N).abs(), row_N, n_rows)


def retention(distance: float, half_life: float, lowest: float, highest: float) -> float:
    """rho, the share of old counts that is kept: 2^-(distance / half_life), held in [lowest, highest]."""
    return min(max(2 ** -(distance / half_life), lowest), highest)


@dataclass(frozen=True)
class GlobalTracker:
    """MiniMind's form: one Beta for all prompts.

    Its loss (the removed train_spo.py): the mean over rows of the mean over tokens of -A log policy + 0.02 k3.
    Departures from MiniMind: the tracker is part of the checkpoint, it is given the rewards of all processes, and
    rewards outside [low, high] count as the ends (there they could make beta negative). Kept as it is: D compares the
    mean log-prob of a step's responses with that of the step before, though their prompts differ.
    """

    alpha: float = 1.0
    beta: float = 1.0
    previous: float | None = None
    """Mean log-prob per token of the last update's responses; None before the first."""
    low: float = -3.0
    high: float = 3.0
    half_life: float = 0.06
    lowest: float = 0.5
    highest: float = 0.96
    first: float = 0.9
    """rho of the first update, which has nothing to compare with."""

    @property
    def p(self) -> float:
        """The expected reward as a share of its range, in (0, 1)."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def baseline(self) -> float:
        """The expected reward."""
        return self.low + self.p * (self.high - self.low)

    @property
    def effective(self) -> float:
        """How many rewards the expectation rests on."""
        return self.alpha + self.beta

    def advantages(self, rewards_B: Tensor, *, limit: float = 5.0) -> Tensor:
        """Rewards less the baseline, held in [-limit, limit], (B,), float64. From the tracker before its update."""
        return (rewards_B.double() - self.baseline).clamp(-limit, limit)

    def rho(self, mean_logp: float) -> float:
        """The share of old counts that the next update keeps."""
        if self.previous is None:
            return self.first
        return retention(abs(mean_logp - self.previous), self.half_life, self.lowest, self.highest)

    def update(self, rewards: Iterable[float], mean_logp: float) -> "GlobalTracker":
        """The tracker after a step: its rewards count as one observation, their mean.

        mean_logp: the mean of log policy over all tokens of the step's responses. Without rewards nothing changes.
        """
        shares = [_share(reward, self.low, self.high) for reward in rewards]
        if not shares:
            return self
        rho, success = self.rho(mean_logp), math.fsum(shares) / len(shares)
        return replace(self, alpha=rho * self.alpha + success, beta=rho * self.beta + 1 - success, previous=mean_logp)

    def state(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "GlobalTracker":
        """The tracker that gave this state."""
        return cls(**state)


@dataclass(frozen=True)
class PromptTrackers:
    """The paper's form: a Beta for each prompt, by the prompt's id.

    Departures: rewards of any range (the paper's are 0 or 1); several responses to one prompt in one update decay its
    counts once and are then all counted, in no order.
    """

    counts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """alpha and beta of each prompt that is known."""
    low: float = 0.0
    high: float = 1.0
    half_life: float = 0.06
    lowest: float = 0.875
    highest: float = 0.96

    @classmethod
    def initial(cls, samples: Mapping[str, Sequence[float]], **settings: Any) -> "PromptTrackers":
        """From the rewards of some responses of the starting policy to each prompt (the paper: 8).

            alpha = N (sum + 1/2) / (n + 1),  beta = N (n - sum + 1/2) / (n + 1),  N = 1 / (1 - lowest)

        N is 8 at 0.875: the number of observations that stay in the counts if each keeps rho = lowest. settings: the
        other fields. A prompt without samples stays unknown: (1/2, 1/2), so that its first rewards decide.
        """
        empty = cls(**settings)
        return replace(empty, counts={prompt: empty._first(rewards) for prompt, rewards in samples.items() if rewards})

    def p(self, prompt: str) -> float:
        """The expected reward of a prompt as a share of its range, in (0, 1)."""
        alpha, beta = self._counts(prompt)
        return alpha / (alpha + beta)

    def baselines(self, prompts: Sequence[str]) -> Tensor:
        """The expected reward of each response, (B,), float64, from the ids of their prompts."""
        shares = torch.tensor([self.p(prompt) for prompt in prompts], dtype=torch.float64)
        return self.low + shares * (self.high - self.low)

    def advantages(self, prompts: Sequence[str], rewards_B: Tensor) -> Tensor:
        """Rewards less their baselines, normalised over the batch, (B,), float64. From the trackers before the update.

        Equal differences, and a batch of one, give 0. The batch is the rollout of all processes.
        """
        return batch_normalized(rewards_B.double() - self.baselines(prompts).to(rewards_B.device))

    def weight(self, prompt: str) -> float:
        """What a prompt weighs when prompts are drawn: sqrt(p (1 - p)) + 0.05, most where success is a coin's toss."""
        p = self.p(prompt)
        return math.sqrt(p * (1 - p)) + EXPLORATION

    def rho(self, distance: float) -> float:
        """The share of old counts that an update keeps, from the drift since the prompt's last response."""
        return retention(distance, self.half_life, self.lowest, self.highest)

    def update(
        self, rewards: Mapping[str, Sequence[float]], drifts: Mapping[str, float] | None = None
    ) -> "PromptTrackers":
        """The trackers after a step, from the rewards of each prompt that was answered in it.

        drifts: `drift` of the policy on the prompt's last earlier response; a prompt without one has not moved as far
        as is known, and keeps `highest`. Prompts that were not answered keep their counts.
        """
        drifts = drifts or {}
        seen = {
            prompt: self._counted(prompt, values, self.rho(drifts.get(prompt, 0.0)))
            for prompt, values in rewards.items() if values
        }  # fmt: skip
        return replace(self, counts={**self.counts, **seen})

    def state(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {**asdict(self), "counts": {prompt: list(pair) for prompt, pair in self.counts.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "PromptTrackers":
        """The trackers that gave this state."""
        counts = {prompt: (alpha, beta) for prompt, (alpha, beta) in state["counts"].items()}
        return cls(**{**state, "counts": counts})

    def _counts(self, prompt: str) -> tuple[float, float]:
        return self.counts.get(prompt, (0.5, 0.5))

    def _first(self, rewards: Sequence[float]) -> tuple[float, float]:
        n, successes = len(rewards), math.fsum(_share(reward, self.low, self.high) for reward in rewards)
        scale = 1 / ((1 - self.lowest) * (n + 1))
        return scale * (successes + 0.5), scale * (n - successes + 0.5)

    def _counted(self, prompt: str, rewards: Sequence[float], rho: float) -> tuple[float, float]:
        alpha, beta = self._counts(prompt)
        successes = math.fsum(_share(reward, self.low, self.high) for reward in rewards)
        return rho * alpha + successes, rho * beta + len(rewards) - successes


def _share(reward: float, low: float, high: float) -> float:
    if math.isnan(reward):
        raise ValueError("a reward is nan: responses without a reward are left out, never passed in")
    return min(max((reward - low) / (high - low), 0.0), 1.0)
