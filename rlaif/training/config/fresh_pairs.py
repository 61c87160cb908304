"""Methods over pairs or labels that are made of fresh responses, and methods that answer against an opponent."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rlaif.training.config.base import DataKind
from rlaif.training.config.online import OnlineConfig
from rlaif.training.config.paired import DpoConfig, SimpoConfig
from rlaif.training.config.unpaired import KtoConfig


class FreshPairsConfig(OnlineConfig):
    """Methods over pairs or labelled answers, whose responses are the policy's own."""

    data_kind: ClassVar[DataKind] = "prompts"

    @model_validator(mode="after")
    def _possible_pairs(self) -> "FreshPairsConfig":
        if getattr(self, "use_confidence", False):
            raise ValueError("use_confidence: fresh pairs have no calibrated confidence; leave it out")
        if self.stop_kl is not None:
            raise ValueError(f"stop_kl: {self.method} estimates no KL divergence; leave it out")
        if self.rollouts.ahead:
            raise ValueError(
                f"rollouts.ahead: the loss of {self.method} does not correct for older responses; leave it out"
            )
        return self


class OnlineDpoConfig(FreshPairsConfig, DpoConfig):
    """Online DPO."""

    method: Literal["online-dpo"] = "online-dpo"  # type: ignore[assignment]
    """DPO on fresh pairs (arXiv 2402.04792): of the responses to a prompt, the one with the highest reward is chosen, the one
    with the lowest rejected; equal rewards make no pair."""
    group_size: int = Field(default=2, ge=2)
    """Responses to each prompt; more make pairs that differ more."""

    data_kind: ClassVar[DataKind] = "prompts"
    learning_rates: ClassVar[tuple[float, float]] = (1e-5, 5e-7)

    @model_validator(mode="after")
    def _no_second_data(self) -> "OnlineDpoConfig":
        if self.reference_sync is not None:
            raise ValueError(f"reference_sync is not there for {self.method} yet; leave it out")
        return self


class OnlineSimpoConfig(FreshPairsConfig, SimpoConfig):
    """Online SimPO."""

    method: Literal["online-simpo"] = "online-simpo"  # type: ignore[assignment]
    """SimPO (arXiv 2405.14734) on fresh pairs: the response with the highest reward is chosen, the one with the lowest
    rejected. It has no reference."""
    group_size: int = Field(default=2, ge=2)
    """Responses to each prompt; more make pairs that differ more."""
    reference: Literal["none"] = "none"
    """None: SimPO compares with nothing."""

    data_kind: ClassVar[DataKind] = "prompts"
    learning_rates: ClassVar[tuple[float, float]] = (8e-6, 8e-7)

    @model_validator(mode="after")
    def _no_reference(self) -> "OnlineSimpoConfig":
        if self.reference_cache is not None:
            raise ValueError("reference_cache: online-simpo has no reference; leave it out")
        return self


class OnlineKtoConfig(FreshPairsConfig, KtoConfig):
    """Online KTO."""

    method: Literal["online-kto"] = "online-kto"  # type: ignore[assignment]
    """KTO (arXiv 2402.01306) on fresh responses: those with a higher reward than the mean of their prompt's are desirable,
    those with a lower one undesirable; those at the mean are not learnt from."""
    group_size: int = Field(default=2, ge=2)
    """Responses to each prompt."""

    data_kind: ClassVar[DataKind] = "prompts"
    live_because: ClassVar[str | None] = "the responses are new in every step"


class OpponentConfig(OnlineConfig):
    """Methods in which the policy answers each prompt once, and somebody else once, in the same process."""

    group_size: Literal[2] = 2
    """Responses to each prompt: one by the policy, one by the opponent."""

    @model_validator(mode="after")
    def _possible_opponent(self) -> "OpponentConfig":
        engine = self.rollouts.engine
        if engine != "transformers":
            raise ValueError(
                f"rollouts.engine: {engine} is impossible with {self.method}: the opponent has the reference's weights, and "
                "vLLM is asked for the policy only; use transformers"
            )
        if self.reference == "none":
            raise ValueError(f"reference: none is impossible: {self.method} answers against it; use reference: auto")
        return self

    @property
    def opponents(self) -> int:
        return 1


class XpoConfig(OpponentConfig, OnlineDpoConfig):
    """XPO."""

    method: Literal["xpo"] = "xpo"  # type: ignore[assignment]
    """Exploratory Preference Optimization (arXiv 2405.21046): DPO on pairs of a response by the policy and one by the
    reference, which the policy is also taught to write less often."""
    alpha: float = Field(default=1e-5, ge=0)
    """Weight of the log-prob of the reference's response: how much the policy is drawn away from it."""


class NashMdConfig(OpponentConfig):
    """Nash-MD."""

    method: Literal["nash-md"] = "nash-md"
    """Nash mirror descent (arXiv 2312.00886): the policy answers against a mixture of itself and the reference, and each
    response is worth the probability that it is preferred."""
    beta: float = Field(default=0.1, ge=0)
    """Weight of the KL divergence from the reference (the paper's tau)."""
    mixture: float = Field(default=0.5, ge=0, le=1)
    """Share of the reference in the opponent, a geometric mixture of the two distributions at each token: 0 is self-play, 1
    the reference."""
    preference: Literal["order", "sigmoid", "margin"] = "order"
    """The probability that a response is preferred, from the two rewards: order (1 for the higher, 1/2 for equal ones), sigmoid
    (of their difference: for reward models, Bradley-Terry) or margin (for judges that compare: half of 1 plus the margin)."""

    @model_validator(mode="after")
    def _on_policy(self) -> "NashMdConfig":
        if self.steps_of_rollout > 1:
            raise ValueError(
                "steps_per_rollout and passes: the gradient of nash-md is that of the policy that answered; leave both at 1, "
                "and raise batch_size"
            )
        if self.dynamic_sampling:
            raise ValueError("dynamic_sampling: nash-md learns from equal rewards too; leave it out")
        return self
