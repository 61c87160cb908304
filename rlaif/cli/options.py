"""Options that several commands share, with one wording."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rlaif.engines import EngineConfig


class EngineName(StrEnum):
    auto = "auto"
    vllm = "vllm"
    transformers = "transformers"
    openai = "openai"


Engine = Annotated[
    EngineName,
    typer.Option(
        "--engine", help="auto: an endpoint if --base-url is given, vLLM where there is CUDA, else transformers."
    ),
]
BaseUrl = Annotated[
    list[str] | None,
    typer.Option(
        "--base-url", help="OpenAI-compatible endpoint, ending in /v1; repeat to share the load.", metavar="URL"
    ),
]
ApiKeyEnv = Annotated[
    str, typer.Option("--api-key-env", help="Environment variable that holds the endpoint's key.", metavar="NAME")
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", min=1, help="Requests in flight (16 for an endpoint, 256 for vLLM).")
]
MaxRequests = Annotated[
    int | None,
    typer.Option(
        "--max-requests", min=1, help="Stop, with everything saved, after so many endpoint requests of a model."
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Samples decoded together by transformers.")]
DType = Annotated[str, typer.Option("--dtype", help="Of a local model: auto, float32, bfloat16, float16.")]
MaxModelLen = Annotated[int | None, typer.Option("--max-model-len", min=1, help="Context of vLLM, in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", "-t", min=0, help="0 takes the likeliest token.")]
TopP = Annotated[float, typer.Option("--top-p", help="Nucleus: keep the likeliest tokens up to this probability.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of one answer.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the sampling.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; load and call nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start again, even if the output exists.")]


def engine_configs(
    models: list[str],
    *,
    engine: EngineName,
    base_url: list[str] | None,
    api_key_env: str,
    concurrency: int | None,
    max_requests: int | None,
    batch_size: int = 32,
    dtype: str = "auto",
    max_model_len: int | None = None,
) -> "tuple[EngineConfig, ...]":
    """One engine configuration per model name, all with the same options."""
    from rlaif.config import validate
    from rlaif.engines import EngineConfig
    from rlaif.errors import ConfigError

    given = {
        "--engine": engine != EngineName.auto, "--base-url": bool(base_url), "--concurrency": concurrency is not None,
        "--api-key-env": api_key_env != "OPENAI_API_KEY", "--max-requests": max_requests is not None,
        "--batch-size": batch_size != 32, "--dtype": dtype != "auto", "--max-model-len": max_model_len is not None,
    }  # fmt: skip
    if not models and any(given.values()):
        flags = ", ".join(flag for flag, is_given in given.items() if is_given)
        raise ConfigError(
            f"{flags}: belongs to a model given on the command line; name it too, or set it in the judge's file"
        )
    shared = {
        "engine": engine.value,
        "base_url": tuple(base_url or ()),
        "api_key_env": api_key_env,
        "concurrency": concurrency,
        "max_requests": max_requests,
        "batch_size": batch_size,
        "dtype": dtype,
        "max_model_len": max_model_len,
    }
    return tuple(validate({"model": model, **shared}, EngineConfig, "command line") for model in models)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output, for scripts."""
    print(json.dumps(value, ensure_ascii=False, default=_plain, allow_nan=False))


def print_table(rows: dict[str, Any]) -> None:
    """Keys and values, aligned, on standard output."""
    width = max(len(key) for key in rows)
    for key, value in rows.items():
        print(f"{key:<{width}}  {value}")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else repr(value)
