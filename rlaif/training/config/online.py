"""Methods that learn from the policy's own fresh responses, rewarded by judges while it trains."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from rlaif.config import Config
from rlaif.engines import EngineConfig
from rlaif.training.config.base import DataKind, ReferenceConfig, ReferenceKind
from rlaif.training.config.paired import DpoConfig, SimpoConfig
from rlaif.training.config.rewards import RewardSourceConfig
from rlaif.training.config.unpaired import KtoConfig

Advantage = Literal["group-normalized", "group-mean", "leave-one-out", "whitened", "group-whitened", "length-weighted"]
Surrogate = Literal["clip", "cispo", "sapo", "none"]
Normalization = Literal["token", "sequence", "batch", "constant"]
KlKind = Literal["k1", "k2", "k3"]

FOR_SAMPLING = ("top_p", "top_k", "min_p")
"""Ways to cut a distribution, which training rollouts do not take."""


IDLE_WITHOUT = {
    "overlong_cache": ("overlong", "punish"),
    "discount": ("advantage", "whitened", "gae"),
    "ratio_cap": ("surrogate", "clip"),
    "dual_clip": ("surrogate", "clip"),
    "cispo_cap": ("surrogate", "cispo"),
    "sapo_temperatures": ("surrogate", "sapo"),
    "first_samples": ("tracker", "prompt"),
    "advantage_limit": ("tracker", "global"),
    "critic_model": ("critic", "model"),
}
"""Keys that do nothing unless another has one of some values."""


class RolloutConfig(Config):
    """Who samples the responses of rollouts."""

    engine: Literal["transformers", "vllm", "server"] = "transformers"
    """transformers: the model that is trained, in this process; vllm: vLLM on the same GPU, started and ended by the run,
    which sleeps while the policy learns; server: a vLLM server beside it (start it with --enable-lora and
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True). Both are given the adapter after each step."""
    gpu_memory: float = Field(default=0.4, gt=0, lt=1)
    """For vllm: its share of the GPU's memory while it samples; the trainer keeps what it holds."""
    engine_args: dict[str, JsonValue] = Field(default_factory=dict)
    """For vllm: further arguments of vLLM's AsyncEngineArgs."""
    base_url: str | None = None
    """Of the server, ending in /v1."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds its key, if it wants one."""
    concurrency: int = Field(default=64, ge=1)
    """Prompts that the server or vLLM answers at a time."""
    ahead: bool = False
    """Sample the next rollout while this one is learnt from. Its responses are then of a policy that is one rollout older; each
    token is weighed by what the policy says of it over what the server said (truncated at 2). Server only, and not for
    online-dpo, whose loss has no such weight."""
    tolerance: float | Literal["auto"] = "auto"
    """Most that a log-prob of the server's or vLLM's may differ from the trainer's when it was given an adapter, in nats; auto:
    0.01 in float32, 0.3 in bfloat16."""

    @model_validator(mode="after")
    def _whole(self) -> "RolloutConfig":
        if self.engine == "server" and not self.base_url:
            raise ValueError("rollouts.engine: server needs rollouts.base_url, as http://localhost:8000/v1")
        if self.ahead and self.engine != "server":
            raise ValueError(
                "rollouts.ahead: what is in this process can not sample while the policy learns; use rollouts.engine: server"
            )
        fields = type(self).model_fields
        for key in ("gpu_memory", "engine_args"):
            if self.engine != "vllm" and getattr(self, key) != fields[key].get_default(call_default_factory=True):
                raise ValueError(f"rollouts.{key} belongs to rollouts.engine: vllm; set that, or leave it out")
        if self.engine != "server" and self.base_url:
            raise ValueError("rollouts.base_url belongs to rollouts.engine: server; set that, or leave it out")
        return self


def _as_list(value: Any) -> Any:
    """One reward as a list of one."""
    return [value] if isinstance(value, str | dict) else value


def _as_engine(value: Any) -> Any:
    """A model's name as an engine that runs it."""
    return {"model": value} if isinstance(value, str) else value


Rewards = Annotated[tuple[RewardSourceConfig, ...], BeforeValidator(_as_list)]


class OnlineConfig(ReferenceConfig):
    """A policy that answers prompts, is rewarded, and learns from that."""

    rewards: Rewards = ()
    """What responses are worth: a judge by its name or file, or a list of them, each a mapping with judge, weight and more.
    The reward of a response is the weighted sum."""
    judge_model: Annotated[EngineConfig | None, BeforeValidator(_as_engine)] = None
    """The model of judges whose files, and whose entries in rewards and watch, name none: its name, or a mapping with model,
    base_url and more; policy: the policy itself, as it learns (self-rewarding, arXiv 2401.10020)."""
    group_size: int = Field(default=8, ge=1)
    """Responses to each prompt."""
    max_tokens: int = Field(default=256, ge=1)
    """Most tokens of a response."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the sampling; log-probs in training are of the same tempered distribution."""
    steps_per_rollout: int = Field(default=1, ge=1)
    """Optimiser steps that the responses of one rollout are divided among: a rollout answers batch_size times as many
    prompts. From the second step on they are of an older policy, which the ratio corrects."""
    passes: int = Field(default=1, ge=1)
    """How often each rollout is learnt from."""
    overlong: Literal["keep", "filter", "punish"] = "keep"
    """What becomes of responses that were cut at max_tokens: keep, filter (they are not learnt from), or punish (the
    soft overlong punishment of DAPO, arXiv 2503.14476, equation 13, is added to the reward)."""
    overlong_cache: int = Field(default=64, ge=1)
    """For punish: so many tokens before max_tokens the punishment begins; it falls to -1 at max_tokens."""
    dynamic_sampling: int = Field(default=0, ge=0)
    """How many more times prompts are answered for a rollout, in place of those whose responses all had one reward and so
    teach nothing (DAPO, arXiv 2503.14476, equation 11); 0: they stay."""
    patience_minutes: float = Field(default=10.0, ge=0)
    """How long a judge, or the server of the rollouts, may be away before the run saves and stops with status 3."""
    rollouts: RolloutConfig = RolloutConfig()
    """Who samples the responses."""
    generate_rows: int = Field(default=64, ge=1)
    """Responses that are sampled at a time in this process."""
    sample_steps: int = Field(default=10, ge=1)
    """Steps between tables of responses with their rewards in samples.jsonl."""
    stop_kl: float | None = Field(default=None, gt=0)
    """End the run when the mean KL divergence from the reference, per token in nats, is above this."""
    watch: Rewards = ()
    """Judges that the policy is not trained on, asked about the held-out prompts only: if they fall while the reward rises,
    the run says so."""

    data_kind: ClassVar[DataKind] = "prompts"
    learning_rates: ClassVar[tuple[float, float]] = (1e-5, 1e-6)
    live_because: ClassVar[str | None] = "the responses are new in every step"

    @model_validator(mode="before")
    @classmethod
    def _whole_distribution(cls, data: Any) -> Any:
        for key in FOR_SAMPLING if isinstance(data, dict) else ():
            if key in data:
                raise ValueError(
                    f"{key} is impossible in training rollouts: it cuts tokens off that the policy's log-probs still hold "
                    "possible, so the ratio of the two would be wrong; leave it out, and use temperature"
                )
        return data

    @model_validator(mode="after")
    def _room(self) -> "OnlineConfig":
        if self.max_tokens >= self.max_length:
            raise ValueError(
                f"max_tokens ({self.max_tokens}) leaves no room for a prompt in max_length ({self.max_length}); lower it, or "
                "raise max_length"
            )
        if self.overlong == "punish" and self.overlong_cache > self.max_tokens:
            raise ValueError("overlong_cache is at most max_tokens, where the punishment is whole")
        if self.watch and not self.validation:
            raise ValueError("watch asks about held-out prompts, and there are none; set validation, as 0.05")
        return self

    @model_validator(mode="after")
    def _possible_rollouts(self) -> "OnlineConfig":
        if self.group_size > self.generate_rows:
            raise ValueError(
                f"generate_rows ({self.generate_rows}) is less than group_size ({self.group_size}): the responses to a prompt "
                "are sampled together; raise it"
            )
        engine = self.rollouts.engine
        if engine != "transformers" and self.full:
            raise ValueError(f"rollouts.engine: {engine} takes an adapter after each step; train one (leave full out)")
        if engine != "transformers" and self.lora.dora:
            raise ValueError(
                f"rollouts.engine: {engine} is impossible with lora.dora: vLLM serves no DoRA; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> "OnlineConfig":
        for key, (other, *values) in IDLE_WITHOUT.items():
            if key not in type(self).model_fields or getattr(self, other) in values:
                continue
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} belongs to {other}: {values[0]}, and {other} is {getattr(self, other)}; leave one out"
                )
        return self

    @property
    def logp_temperature(self) -> float:
        return self.temperature

    @property
    def steps_of_rollout(self) -> int:
        """Optimiser steps from one rollout to the next."""
        return self.steps_per_rollout * self.passes

    @property
    def opponents(self) -> int:
        """How many of a prompt's responses are by somebody else than the policy."""
        return 0

    @property
    def prompts_per_rollout(self) -> int:
        return self.batch_size * self.steps_per_rollout

    def responses(self, steps: int) -> int:
        """How many responses so many steps sample."""
        return -(-steps // self.steps_of_rollout) * self.prompts_per_rollout * self.group_size

    def total_steps(self, n_rows: int) -> int:
        """The optimiser steps of a run over n_rows prompts: whole rollouts, unless max_steps says otherwise."""
        limit = self.trainer.get("max_steps")
        if isinstance(limit, int) and limit > 0:
            return limit
        rollouts = -(-self.epochs * n_rows // self.prompts_per_rollout)
        return max(1, int(rollouts)) * self.steps_of_rollout


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
        if alone and self.group_size * self.prompts_per_rollout < 2:
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
    def reference_kind(self) -> ReferenceKind:
        if not self.beta and self.stop_kl is None:
            return "none"
        return super().reference_kind


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
    tokenizer; null: the model the policy starts from, and values of 0."""
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


class XpoConfig(OnlineDpoConfig):
    """XPO."""

    method: Literal["xpo"] = "xpo"  # type: ignore[assignment]
    """Exploratory Preference Optimization (arXiv 2405.21046): DPO on pairs of a response by the policy and one by the
    reference, which the policy is also taught to write less often."""
    alpha: float = Field(default=1e-5, ge=0)
    """Weight of the log-prob of the reference's response: how much the policy is drawn away from it."""
    group_size: Literal[2] = 2
    """Responses to each prompt: one by the policy, one by the reference."""

    @model_validator(mode="after")
    def _samples_here(self) -> "XpoConfig":
        _refuse_vllm(self, "the reference answers too")
        if self.reference == "none":
            raise ValueError("reference: none is impossible: xpo answers against it; use reference: auto")
        return self

    @property
    def opponents(self) -> int:
        return 1


class NashMdConfig(OnlineConfig):
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
    group_size: Literal[2] = 2
    """Responses to each prompt: one by the policy, one by the opponent."""

    @model_validator(mode="after")
    def _possible_opponent(self) -> "NashMdConfig":
        _refuse_vllm(self, "the mixture of policy and reference is sampled too")
        if self.reference == "none":
            raise ValueError("reference: none is impossible: nash-md plays against it; use reference: auto")
        if self.steps_of_rollout > 1:
            raise ValueError(
                "steps_per_rollout and passes: the gradient of nash-md is that of the policy that answered; leave both at 1, "
                "and raise batch_size"
            )
        if self.dynamic_sampling:
            raise ValueError("dynamic_sampling: nash-md learns from equal rewards too; leave it out")
        return self

    @property
    def opponents(self) -> int:
        return 1


def _refuse_vllm(config: OnlineConfig, why: str) -> None:
    engine = config.rollouts.engine
    if engine != "transformers":
        raise ValueError(
            f"rollouts.engine: {engine} is impossible with {config.method}: {why}, and vLLM is asked for the policy only; "
            "use transformers"
        )


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
