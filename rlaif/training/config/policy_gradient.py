"""Methods by policy gradients: GRPO and its relatives, PPO and SPO."""

from typing import Literal

from pydantic import Field, model_validator

from rlaif.training.config.base import ReferenceKind
from rlaif.training.config.online import OnlineConfig

Advantage = Literal["group-normalized", "group-mean", "leave-one-out", "whitened", "group-whitened", "length-weighted"]
Surrogate = Literal["clip", "cispo", "sapo", "none"]
Normalization = Literal["token", "sequence", "batch", "constant"]
KlKind = Literal["k1", "k2", "k3"]


class PolicyGradientConfig(OnlineConfig):
    """GRPO and its relatives: each response's advantage over the others weighs the gradient of its log-prob."""

    advantage: Advantage = "group-normalized"
    """What a reward is compared with: group-normalized (mean and standard deviation of the prompt's responses), group-mean (no
    standard deviation: Dr. GRPO, arXiv 2503.20783), leave-one-out (the mean of the others: RLOO, arXiv 2402.14740), whitened
    (mean and standard deviation of the batch: REINFORCE++, arXiv 2501.03262), group-whitened (the group's mean, then the
    batch's standard deviation: REINFORCE++ with baseline), length-weighted (the group's mean weighted by length: OPO, arXiv
    2505.23585)."""
    per_reward: bool = False
    """Normalise each reward in its group before the weighted sum, and the sum over the rollout, so that none drowns the others
    by its scale (GDPO, arXiv 2601.05242)."""
    surrogate: Surrogate = "clip"
    """How a step is kept near the policy that answered: clip (PPO), cispo (the ratio is capped and not differentiated, arXiv
    2506.13585), sapo (soft gates, arXiv 2511.20347), none (plain REINFORCE)."""
    ratio: Literal["token", "sequence"] = "token"
    """Of each token, or one for each response from the mean over its tokens (GSPO, arXiv 2507.18071, where clip_low 3e-4
    and clip_high 4e-4 are usual)."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """Ratios below 1 - clip_low are clipped."""
    clip_high: float = Field(default=0.2, gt=0)
    """Ratios above 1 + clip_high are clipped (0.28 in DAPO)."""
    ratio_cap: float | None = Field(default=None, gt=1)
    """Ratios of bad responses are capped here too (two-sided clipping, the delta of INTELLECT-2, arXiv 2505.07291)."""
    dual_clip: float | None = Field(default=None, gt=1)
    """The loss of a bad response is at most this many times its advantage (arXiv 1912.09729)."""
    cispo_cap: float = Field(default=5.0, gt=0)
    """For cispo: ratios are capped at this value itself (not at 1 + it)."""
    sapo_temperatures: tuple[float, float] = (1.0, 1.05)
    """For sapo: of the gates of good and of bad responses."""
    normalization: Normalization = "batch"
    """What the loss of a step is divided by: token (all its tokens), sequence (each response's own, then the number of
    responses: the first GRPO, arXiv 2402.03300), batch (as token, but all steps of a rollout by their mean number: DAPO),
    constant (responses times max_tokens: Dr. GRPO)."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence from the reference; 0 needs no reference."""
    kl: KlKind = "k3"
    """Its estimate for each token: k1 (log-ratio), k2 (half its square), k3 (unbiased, never negative)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where it goes: a term of the loss, or taken off the rewards before advantages."""
    kl_ratio: bool = False
    """Weigh the KL term by the ratio, which keeps it unbiased in later steps of a rollout."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """For whitened: of later tokens' KL and reward."""

    @model_validator(mode="after")
    def _possible_groups(self) -> "PolicyGradientConfig":
        alone = self.advantage == "whitened" or self.stands_alone
        if self.group_size == 1 and not alone:
            raise ValueError(
                f"advantage: {self.advantage} compares the responses to one prompt, and group_size is 1; raise it (4 to 16 is "
                "usual), or use advantage: whitened"
            )
        if self.compares_rollout and self.group_size * self.prompts_per_rollout < 2:
            raise ValueError(
                f"advantage: {self.advantage} compares the responses of a rollout, and there is one; raise batch_size"
            )
        if self.reference == "none" and self.beta:
            raise ValueError(
                "reference: none leaves nothing to hold the policy to; set beta: 0, or use reference: auto"
            )
        if self.per_reward and self.advantage != "group-normalized":
            raise ValueError("per_reward normalises in groups; use advantage: group-normalized")
        if self.kl_in == "reward" and self.kl_ratio:
            raise ValueError("kl_ratio weighs a term of the loss; use kl_in: loss, or leave it out")
        if self.dynamic_sampling and alone:
            raise ValueError(
                f"dynamic_sampling drops groups of one reward; advantage: {self.advantage} learns from them too"
            )
        return self

    @property
    def stands_alone(self) -> bool:
        """Whether the method compares a response with something else than others of its rollout."""
        return False

    @property
    def idle_kl(self) -> bool:
        """Whether the KL term has no gradient in the mean: the expected gradient of a log-prob is 0."""
        return self.kl == "k1" and self.kl_in == "loss" and not self.kl_ratio

    @property
    def compares_rollout(self) -> bool:
        """Whether the responses of a rollout are compared with each other, whatever their prompts."""
        return self.advantage == "whitened"

    @property
    def reference_kind(self) -> ReferenceKind:
        if not self.beta and self.stop_kl is None:
            return "none"
        return super().reference_kind


class GrpoConfig(PolicyGradientConfig):
    """GRPO."""

    method: Literal["grpo"] = "grpo"
    """Group Relative Policy Optimization (arXiv 2402.03300), with what DAPO, Dr. GRPO, GSPO and CISPO changed."""


class RlooConfig(PolicyGradientConfig):
    """RLOO."""

    method: Literal["rloo"] = "rloo"
    """REINFORCE Leave-One-Out (arXiv 2402.14740)."""
    advantage: Advantage = "leave-one-out"
    """What a reward is compared with: leave-one-out is the mean of the prompt's other responses; for the others see grpo."""
    group_size: int = Field(default=4, ge=1)
    """Responses to each prompt."""
    ratio: Literal["token", "sequence"] = "sequence"
    """Of each token, or one for each response."""
    normalization: Normalization = "sequence"
    """What the loss of a step is divided by: token, sequence, batch or constant; see grpo."""
    beta: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence from the reference; 0 needs no reference."""
    kl: KlKind = "k1"
    """Its estimate for each token: k1 (log-ratio), k2 (half its square), k3 (unbiased, never negative)."""
    kl_in: Literal["loss", "reward"] = "reward"
    """Where it goes: a term of the loss, or taken off the rewards before advantages."""


class ReinforceConfig(PolicyGradientConfig):
    """REINFORCE++."""

    method: Literal["reinforce++"] = "reinforce++"
    """REINFORCE++ (arXiv 2501.03262)."""
    advantage: Advantage = "whitened"
    """What a reward is compared with: whitened is the rollout's mean and standard deviation of the returns; group-whitened
    (with group_size above 1) takes the mean of the prompt's responses off first: REINFORCE++ with baseline."""
    group_size: int = Field(default=1, ge=1)
    """Responses to each prompt."""
    normalization: Normalization = "token"
    """What the loss of a step is divided by: token, sequence, batch or constant; see grpo."""
    beta: float = Field(default=0.01, ge=0)
    """Weight of the KL divergence from the reference; 0 needs no reference."""
    kl: KlKind = "k1"
    """Its estimate for each token: k1 (log-ratio), k2 (half its square), k3 (unbiased, never negative)."""
    kl_in: Literal["loss", "reward"] = "reward"
    """Where it goes: a term of the loss, or taken off each token's reward."""


class PpoConfig(PolicyGradientConfig):
    """PPO."""

    method: Literal["ppo"] = "ppo"
    """Proximal Policy Optimization (arXiv 1707.06347) as in RLHF (arXiv 2203.02155): a critic learns what is to be expected
    before each token, and a token is worth what then became of it beyond that."""
    advantage: Literal["gae"] = "gae"  # type: ignore[assignment]
    """What is compared: generalised advantage estimation from the critic's values (arXiv 1506.02438)."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """How far advantages look ahead before they trust the critic: 0 one token, 1 to the end."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """Of later tokens' KL and reward."""
    whiten: bool = True
    """Take the mean off the advantages of a rollout and divide them by their standard deviation."""
    critic: Literal["model", "head"] = "model"
    """model: a model of its own, which becomes a reward model in the folder 'critic' of the run; head: one linear layer on the
    policy's hidden states, whose loss moves the policy too; it costs next to no memory."""
    critic_model: str | None = None
    """For model: what it starts from, a reward model (as of 'rlaif train rm') or a language model, with the policy's
    tokenizer; null: the model the policy starts from (without init_adapter), and values of 0."""
    critic_learning_rate: float | Literal["auto"] = "auto"
    """Peak learning rate of the critic. auto: 1e-4 for an adapter or a head, 1e-5 for all weights."""
    value_weight: float = Field(default=0.1, gt=0)
    """Weight of the critic's loss, half the squared error of its values."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """A value that moved further than this since the rollout, towards its return, is not moved on; null: no bound. In the unit
    of the rewards."""
    kl_target: float | None = Field(default=None, gt=0)
    """beta is raised or lowered after each rollout so that the KL divergence from the reference, per token in nats, comes to
    this (arXiv 1909.08593, section 2.2); null: beta stays."""
    kl_horizon: int = Field(default=10_000, ge=1)
    """For kl_target: over so many responses beta changes by a fifth at most."""
    group_size: int = Field(default=1, ge=1)
    """Responses to each prompt."""
    passes: int = Field(default=2, ge=1)
    """How often each rollout is learnt from."""
    normalization: Normalization = "token"
    """What the loss of a step is divided by: token, sequence, batch or constant; see grpo."""
    beta: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence from the reference; 0 needs no reference. With kl_target, what it begins with."""
    kl: KlKind = "k1"
    """Its estimate for each token: k1 (log-ratio), k2 (half its square), k3 (unbiased, never negative)."""
    kl_in: Literal["loss", "reward"] = "reward"
    """Where it goes: a term of the loss, or taken off each token's reward."""

    @model_validator(mode="after")
    def _possible_critic(self) -> "PpoConfig":
        if self.kl_target is not None and not self.beta:
            raise ValueError("kl_target changes beta from where it begins, and that is 0; set beta, as 0.05")
        if self.kl_target is None and self.kl_horizon != type(self).model_fields["kl_horizon"].default:
            raise ValueError("kl_horizon belongs to kl_target; set that too, or leave it out")
        if isinstance(self.critic_learning_rate, float) and not self.critic_learning_rate > 0:
            raise ValueError("critic_learning_rate must be greater than 0")
        return self

    @property
    def critic_peak_learning_rate(self) -> float:
        of_critic = (1e-4, 1e-5)[self.full and self.critic == "model"]
        return of_critic if self.critic_learning_rate == "auto" else self.critic_learning_rate

    @property
    def stands_alone(self) -> bool:
        return True


class SpoConfig(PolicyGradientConfig):
    """Single-stream Policy Optimization."""

    method: Literal["spo"] = "spo"
    """Single-stream Policy Optimization (arXiv 2509.13232): one response to each prompt, compared with what is known of it."""
    tracker: Literal["prompt", "global"] = "prompt"
    """What is expected of a response: of each prompt by itself (the paper), or one number for all (MiniMind's form, which goes
    with surrogate: none, normalization: sequence, beta: 0.02 and kl_in: loss)."""
    first_samples: int = Field(default=8, ge=0)
    """For tracker: prompt, responses to each prompt by which its tracker begins; 0: its first reward decides."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Between which rewards lie; what is beyond counts as the nearer end in the tracker."""
    advantage_limit: float = Field(default=5.0, gt=0)
    """For tracker: global, advantages are held between minus this and this."""
    group_size: Literal[1] = 1
    """Responses to each prompt: one, that is the method."""
    clip_high: float = Field(default=0.28, gt=0)
    """Ratios above 1 + clip_high are clipped."""
    normalization: Normalization = "token"
    """What the loss of a step is divided by: token, sequence, batch or constant; see grpo."""
    advantage: Literal["tracked"] = "tracked"  # type: ignore[assignment]
    """What a reward is compared with: what the tracker expects; with tracker: prompt, then normalised over the rollout."""

    @model_validator(mode="after")
    def _possible_tracker(self) -> "SpoConfig":
        if self.reward_range[0] >= self.reward_range[1]:
            raise ValueError(f"reward_range begins at {self.reward_range[0]:g}, not below its end; as [0, 1]")
        if self.rollouts.ahead and self.tracker == "prompt":
            raise ValueError(
                "rollouts.ahead chooses prompts before they are tracked; leave it out, or use tracker: global"
            )
        if self.kl_in == "reward":
            raise ValueError("kl_in: reward would be tracked with the reward; use kl_in: loss")
        return self

    @property
    def stands_alone(self) -> bool:
        return True

    @property
    def compares_rollout(self) -> bool:
        return True
