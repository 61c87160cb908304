"""What every method that learns from the policy's own fresh responses says: who samples them, and who rewards them."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from rlaif.config import Config
from rlaif.engines import EngineConfig
from rlaif.training.config.base import DataKind, ReferenceConfig
from rlaif.training.config.rewards import RewardSourceConfig

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
    which sleeps while the policy learns; server: a vLLM server beside it. Both are given the adapter after each step, with
    full all weights. Start the server with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, for full with
    --enable-scale-out and VLLM_SERVER_DEV_MODE=1."""
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
    methods over fresh pairs, whose loss has no such weight."""
    tolerance: float | Literal["auto"] = "auto"
    """Most that a log-prob of the server's or vLLM's may differ from the trainer's when it was given the policy, in nats; auto:
    0.01 in float32, 0.3 in bfloat16."""

    @model_validator(mode="after")
    def _whole(self) -> "RolloutConfig":
        if self.engine == "server" and not self.base_url:
            raise ValueError("rollouts.engine: server needs rollouts.base_url, as http://localhost:8000/v1")
        if self.base_url and not self.base_url.rstrip("/").endswith("/v1"):
            raise ValueError(f"rollouts.base_url is that of a vLLM server and ends in /v1; {self.base_url} does not")
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
        if engine != "transformers" and self.lora.dora and not self.full:
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
