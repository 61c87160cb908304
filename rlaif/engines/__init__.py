"""Who answers a prompt: one seam (base.py), one module per engine, and `make_engine` to choose one."""

import importlib.util
import re
from typing import Any, Literal

from pydantic import Field, model_validator

from rlaif.config import Config, validate
from rlaif.engines.base import Engine
from rlaif.errors import ConfigError

EngineKind = Literal["auto", "vllm", "transformers", "openai"]
Task = Literal["generate", "score"]
CHANGES_ANSWERS = {"model", "engine", "constraint", "extra_body", "dtype", "max_model_len", "engine_args"}
"""The keys of an engine's configuration that can change what a model answers."""


class EngineSettings(Config):
    """Through what a model answers; the model itself is named beside it."""

    engine: EngineKind = "auto"
    """auto: openai if a base_url is given, vllm where there is CUDA and vLLM, else transformers in process."""
    base_url: tuple[str, ...] = ()
    """OpenAI-compatible endpoints, ending in /v1; several share the load."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key. The key itself is never written anywhere."""
    concurrency: int | None = Field(default=None, ge=1)
    """Requests in flight; by default 16 for an endpoint and 256 for vLLM."""
    max_requests: int | None = Field(default=None, ge=1)
    """Stop, with everything saved, after so many requests of this model to its endpoint."""
    timeout_seconds: float = Field(default=600, gt=0)
    """How long one request to an endpoint may take."""
    max_retries: int = Field(default=6, ge=0)
    """How often a request is tried again after 429, 5xx, a timeout or a lost connection."""
    constraint: Literal["auto", "structured_outputs", "none"] = "auto"
    """How an endpoint is asked to keep to given choices; auto tries vLLM's structured_outputs, and what is refused or ignored
    is said; with structured_outputs that ends the run."""
    extra_body: dict[str, Any] = {}
    """Further fields for every request to an endpoint."""
    dtype: str = "auto"
    """Of a local model: bfloat16 on CUDA and float32 on the CPU unless given."""
    batch_size: int = Field(default=32, ge=1)
    """Samples decoded, or answers scored, together by the transformers engine."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Context length of vLLM, in tokens; by default the model's own."""
    engine_args: dict[str, Any] = {}
    """Further arguments for vLLM's engine."""

    @model_validator(mode="before")
    @classmethod
    def _one_url(cls, data: Any) -> Any:
        if isinstance(data, dict) and "api_key" in data:
            raise ValueError(
                "a key must not stand in a file: put it into an environment variable and name it in api_key_env"
            )
        if isinstance(data, dict) and isinstance(data.get("base_url"), str):
            data = {**data, "base_url": (data["base_url"],)}
        if isinstance(data, dict):
            _refuse_secrets(data)
        return data

    def config(self, model: str) -> "EngineConfig":
        """The engine for a model with these settings."""
        return validate({**self.model_dump(), "model": model}, EngineConfig, f"the engine of {model}")


class EngineConfig(EngineSettings):
    """Which model answers, and through what."""

    model: str
    """A model folder, hub name, GGUF file or LoRA adapter folder; for an endpoint, the name it serves."""

    @property
    def resolved_engine(self) -> Literal["vllm", "transformers", "openai"]:
        """The engine that 'auto' stands for on this machine."""
        if self.engine != "auto":
            return self.engine
        if self.base_url:
            return "openai"
        if importlib.util.find_spec("vllm") is not None and _has_cuda():
            return "vllm"
        return "transformers"


def make_engine(config: EngineConfig, task: Task = "generate") -> Engine:
    """The engine for a configuration, not yet opened. Raises ConfigError for impossible combinations.

    task: whether its model is a language model, for `complete_many`, or a reward model, for `score_many`.
    """
    if task == "score":
        return _make_scorer(config)
    kind = config.resolved_engine
    if config.base_url and kind != "openai":
        raise ConfigError(f"--base-url belongs to the engine 'openai', not to '{kind}'; drop one of the two")
    if kind == "openai":
        from rlaif.engines.openai import OpenAIEngine

        return OpenAIEngine(
            config.model,
            base_urls=config.base_url,
            api_key_env=config.api_key_env,
            concurrency=config.concurrency or 16,
            timeout_seconds=config.timeout_seconds,
            max_retries=config.max_retries,
            max_requests=config.max_requests,
            constraint=config.constraint,
            extra_body=config.extra_body,
        )
    if config.max_requests is not None:
        raise ConfigError(f"--max-requests bounds paid endpoints; the engine '{kind}' runs on this machine: drop it")
    if kind == "vllm":
        from rlaif.engines.vllm import VllmEngine

        return VllmEngine(
            config.model,
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            concurrency=config.concurrency or 256,
            engine_args=config.engine_args,
        )
    from rlaif.engines.transformers import TransformersEngine

    return TransformersEngine(config.model, dtype=config.dtype, batch_size=config.batch_size)


def _make_scorer(config: EngineConfig) -> Engine:
    """The engine for a reward model: transformers in process, whatever 'auto' is for a language model here."""
    if config.base_url or config.engine not in ("auto", "transformers"):
        kind = "openai" if config.base_url else config.engine
        raise ConfigError(
            f"{config.model}: the engine '{kind}' can not score answers with a reward model; leave out engine and "
            "base_url, and the engine 'transformers' loads it in this process, on the GPU if there is one"
        )
    if config.max_requests is not None:
        raise ConfigError("--max-requests bounds paid endpoints; a reward model runs on this machine: drop it")
    from rlaif.engines.reward import RewardEngine

    return RewardEngine(config.model, dtype=config.dtype, batch_size=config.batch_size)


def _refuse_secrets(data: dict[str, Any]) -> None:
    """Raises ValueError, which does not repeat the value, where a secret may stand in what is written to files."""
    urls = data.get("base_url") or ()
    for url in [urls] if isinstance(urls, str) else urls:
        if isinstance(url, str) and ("@" in url or "?" in url):
            raise ValueError(
                "base_url must have no user, password or query: the key comes from the environment (api_key_env)"
            )
    name = data.get("api_key_env")
    if (name is not None and not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name))) or (
        isinstance(name, str) and name.startswith(("sk_", "hf_"))
    ):
        raise ValueError("api_key_env must be the NAME of an environment variable, such as OPENAI_API_KEY, not a key")


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
