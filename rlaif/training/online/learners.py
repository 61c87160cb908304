"""What is made of a rollout: the rows of its steps, by method, and what a method remembers from one rollout to the next."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlaif.training.config.fresh_pairs import NashMdConfig, OnlineKtoConfig
from rlaif.training.config.online import OnlineConfig
from rlaif.training.config.policy_gradient import PolicyGradientConfig, PpoConfig, SpoConfig
from rlaif.training.methods import Method, method_of
from rlaif.training.methods.online import PolicyGradientMethod
from rlaif.training.objectives.policy_gradient import adapted_beta
from rlaif.training.objectives.spo import GlobalTracker, PromptTrackers, drift
from rlaif.training.objectives.value import explained_variance
from rlaif.training.online.answers import Group
from rlaif.training.online.learning import (
    SampledRow,
    contested_rows,
    labelled_rows,
    learnable_rows,
    mean_kl,
    pair_rows,
    shaped_rewards,
    spread,
    step_size,
    with_advantages,
    with_estimates,
)
from rlaif.training.online.measures import Sums
from rlaif.training.online.rollouts import Rollouts
from rlaif.training.rows import Completion, Row

Score = Callable[[Sequence[Row]], list[Tensor]]
"""The policy's present log-probs of rows' completions, each (T,)."""


class Learner:
    """Makes rows of groups. Subclasses give `rows`."""

    needs_prior = False
    """Whether the policy's log-probs are needed before the first step of a rollout."""

    def __init__(self, config: OnlineConfig, method: Method) -> None:
        self.config, self.method = config, method

    def start(self, rollouts: Rollouts) -> None:
        """Called once before the first rollout of a run, and again when a run is continued."""

    def rows(self, groups: Sequence[Group], prompts: Sequence[Row]) -> list[SampledRow]:
        """What can be learnt from."""
        return learnable_rows(groups, prompts, self.config)

    def ready(self, rows: list[SampledRow], score: Score) -> list[SampledRow]:
        """The same with what the loss needs. With `needs_prior` they have old log-probs (and those of a reference)."""
        return rows

    def begin_step(self, rows: Sequence[SampledRow], rollout: Sequence[SampledRow]) -> None:
        """Told the rows of the step that begins."""

    def metrics(self) -> Sums:
        """What it has to say of the rollout it made ready last."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint carries, as JSON."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes what `state` gave."""


class PolicyGradientLearner(Learner):
    """A row a response, with advantages."""

    config: PolicyGradientConfig
    method: PolicyGradientMethod

    def __init__(self, config: PolicyGradientConfig, method: Method, rollouts: Rollouts) -> None:
        super().__init__(config, method)
        self.weights = rollouts.sources.weights
        self.needs_prior = config.steps_of_rollout > 1 or (config.kl_in == "reward" and config.beta > 0)

    def ready(self, rows: list[SampledRow], score: Score) -> list[SampledRow]:
        return with_advantages(rows, self.config, list(self.weights), list(self.weights.values()))

    def begin_step(self, rows: Sequence[SampledRow], rollout: Sequence[SampledRow]) -> None:
        self.method.step = step_size(rows, rollout, self.config)


class PpoLearner(PolicyGradientLearner):
    """A row a response, its tokens compared with what a critic expected, and what the critic is to learn."""

    config: PpoConfig

    def __init__(self, config: PpoConfig, method: Method, rollouts: Rollouts) -> None:
        super().__init__(config, method, rollouts)
        self.needs_prior = True
        self._metrics: Sums = {}

    def ready(self, rows: list[SampledRow], score: Score) -> list[SampledRow]:
        config, found = self.config, with_estimates(rows, self.config, self.method.beta)
        self._metrics = {"beta": (self.method.beta, 1.0)} if config.kl_target is not None else {}
        if not found:
            return found
        values = torch.cat([row.values for row in found if row.values is not None])
        explained = explained_variance(values, torch.cat([row.returns for row in found if row.returns is not None]))
        if math.isfinite(explained):
            self._metrics["explained_variance"] = (explained, 1.0)
        if config.kl_target is not None:
            self.method.beta = adapted_beta(
                self.method.beta, mean_kl(found), config.kl_target, responses=len(found), horizon=config.kl_horizon
            )
        return found

    def metrics(self) -> Sums:
        return self._metrics

    def state(self) -> dict[str, Any]:
        return {"beta": self.method.beta}

    def load_state(self, state: dict[str, Any]) -> None:
        self.method.beta = state["beta"]


class SpoLearner(PolicyGradientLearner):
    """One response a prompt, compared with what a tracker expects of it."""

    config: SpoConfig

    def __init__(self, config: SpoConfig, method: Method, rollouts: Rollouts) -> None:
        super().__init__(config, method, rollouts)
        self.needs_prior = True
        low, high = config.reward_range
        self.everyone = GlobalTracker(low=low, high=high)
        self.trackers = PromptTrackers(low=low, high=high)
        self.last: dict[str, tuple[list[int], list[int], list[float]]] = {}
        """Of each prompt: its ids, those of its last response, and their log-probs then."""
        self.has_begun = False
        if config.tracker == "prompt":
            rollouts.stream = rollouts.stream.weighed(lambda index: self.trackers.weight(rollouts.rows.rows[index].id))

    def start(self, rollouts: Rollouts) -> None:
        """The first responses to each prompt, by which its tracker begins."""
        if self.has_begun or self.config.tracker != "prompt":
            return
        self.has_begun = True
        if not self.config.first_samples:
            return
        trained = sorted(set(rollouts.stream.indexes))
        groups = rollouts.answer(list(enumerate(trained)), self.config.first_samples, salt="first ")
        rewards = {rollouts.rows.rows[group.index].id: group.rewards for group in groups}
        low, high = self.config.reward_range
        self.trackers = PromptTrackers.initial(rewards, low=low, high=high)

    def ready(self, rows: list[SampledRow], score: Score) -> list[SampledRow]:
        if not rows:
            return rows
        rewards_B = shaped_rewards(rows, self.config)
        if self.config.tracker == "global":
            found = spread(rows, self.everyone.advantages(rewards_B, limit=self.config.advantage_limit))
            self._update_global(rows, rewards_B)
        else:
            names = [row.prompt_id for row in rows]
            found = spread(rows, self.trackers.advantages(names, rewards_B))
            self._update_prompts(rows, names, rewards_B, score)
        return found

    def _update_global(self, rows: Sequence[SampledRow], rewards_B: Tensor) -> None:
        logps = torch.cat([row.old for row in rows if row.old is not None])
        self.everyone = self.everyone.update(rewards_B.tolist(), float(logps.double().mean()))

    def _update_prompts(
        self, rows: Sequence[SampledRow], names: Sequence[str], rewards_B: Tensor, score: Score
    ) -> None:
        drifts = self._drifts(sorted(set(names) & self.last.keys()), score)
        rewards: dict[str, list[float]] = {}
        for name, reward in zip(names, rewards_B.tolist(), strict=True):
            rewards.setdefault(name, []).append(reward)
        self.trackers = self.trackers.update(rewards, drifts)
        for name, row in zip(names, rows, strict=True):
            assert row.old is not None
            self.last[name] = (list(row.prompt), list(row.completions[0].ids), row.old.tolist())

    def _drifts(self, names: Sequence[str], score: Score) -> dict[str, float]:
        """How far the policy has moved on the last response to each prompt."""
        earlier = [self.last[name] for name in names]
        rows = [Row(name, tuple(ids), (Completion(tuple(response)),)) for name, (ids, response, _) in
                zip(names, earlier, strict=True)]  # fmt: skip
        return {
            name: float(
                drift(now.double(), torch.tensor(then).double(), torch.zeros(len(now), dtype=torch.int64), 1)[0]
            )
            for name, now, (_, _, then) in zip(names, score(rows), earlier, strict=True)
        }

    def state(self) -> dict[str, Any]:
        return {"everyone": self.everyone.state(), "trackers": self.trackers.state(), "last": self.last,
                "has_begun": self.has_begun}  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        self.everyone = GlobalTracker.from_state(state["everyone"])
        self.trackers = PromptTrackers.from_state(state["trackers"])
        self.last = {name: (ids, response, logps) for name, (ids, response, logps) in state["last"].items()}
        self.has_begun = state["has_begun"]


class PairLearner(Learner):
    """A row a prompt: its best response against its worst."""

    def rows(self, groups: Sequence[Group], prompts: Sequence[Row]) -> list[SampledRow]:
        return pair_rows(learnable_rows(groups, prompts, self.config), self.config)


class LabelLearner(Learner):
    """A row a response that is better or worse than the others to its prompt."""

    def rows(self, groups: Sequence[Group], prompts: Sequence[Row]) -> list[SampledRow]:
        return labelled_rows(learnable_rows(groups, prompts, self.config), self.config)


class NashLearner(Learner):
    """A row a response of the policy, with the probability that it is preferred to the opponent's."""

    config: NashMdConfig

    def rows(self, groups: Sequence[Group], prompts: Sequence[Row]) -> list[SampledRow]:
        return contested_rows(learnable_rows(groups, prompts, self.config), self.config)


def learner_of(config: OnlineConfig, rollouts: Rollouts, *, corrects: bool) -> Learner:
    """The learner of a configuration's method. corrects: see PolicyGradientMethod."""
    method = method_of(config)
    if isinstance(method, PolicyGradientMethod):
        method.corrects = corrects
    match config:
        case PpoConfig():
            return PpoLearner(config, method, rollouts)
        case SpoConfig():
            return SpoLearner(config, method, rollouts)
        case PolicyGradientConfig():
            return PolicyGradientLearner(config, method, rollouts)
        case NashMdConfig():
            return NashLearner(config, method)
        case OnlineKtoConfig():
            return LabelLearner(config, method)
        case _:
            return PairLearner(config, method)
