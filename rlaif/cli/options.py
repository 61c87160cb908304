"""Options that several commands share, with one wording."""

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
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


class StopName(StrEnum):
    all = "all"
    cannot_lose = "cannot-lose"
    posterior = "posterior"


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
JudgeName = Annotated[
    str, typer.Option("--judge", "-j", help="Judge or ensemble: a shipped name (rlaif ls judges) or a YAML file.")
]
JudgingModels = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="Model that judges, instead of the file's; several make a panel."),
]
Votes = Annotated[
    int, typer.Option("--votes", min=1, help="Votes per judge and comparison, their orders alternating: 2 show both.")
]
StopProbability = Annotated[
    float | None, typer.Option("--stop-probability", help="For --stop posterior; 0.95 unless the file says.")
]
GoldLimit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Only so many pairs, drawn evenly from subsets and gold orders.")
]
Temperature = Annotated[float, typer.Option("--temperature", "-t", min=0, help="0 takes the likeliest token.")]
TopP = Annotated[float, typer.Option("--top-p", help="Nucleus: keep the likeliest tokens up to this probability.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of one answer.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the sampling.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; load and call nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start again, even if the output exists.")]


@dataclass(frozen=True)
class EngineOptions:
    """Through what the models of a command answer: one option of the command line for each field."""

    engine: Engine = EngineName.auto
    base_url: BaseUrl = None
    api_key_env: ApiKeyEnv = "OPENAI_API_KEY"
    concurrency: Concurrency = None
    max_requests: MaxRequests = None
    batch_size: BatchSize = 32
    dtype: DType = "auto"
    max_model_len: MaxModelLen = None

    def configs(self, models: Sequence[str]) -> "tuple[EngineConfig, ...]":
        """One engine configuration per model name, all with these options. Raises ConfigError."""
        from rlaif.config import validate
        from rlaif.engines import EngineConfig
        from rlaif.errors import ConfigError

        given = [field.name for field in fields(self) if getattr(self, field.name) not in (field.default, [])]
        if not models and given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(
                f"{flags}: belongs to a model given on the command line; name it too, or set it in the judge's file"
            )
        shared = {field.name: getattr(self, field.name) for field in fields(self)}
        shared |= {"engine": self.engine.value, "base_url": tuple(self.base_url or ())}
        return tuple(validate({"model": model, **shared}, EngineConfig, "command line") for model in models)


def with_engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of EngineOptions as options of its own, in the place of its parameter `through`."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        through = EngineOptions(**{field.name: given.pop(field.name) for field in fields(EngineOptions)})
        command(**given, through=through)

    own = inspect.signature(command).parameters
    added = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(EngineOptions)
    ]
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name in own
        for parameter in (added if name == "through" else [own[name]])
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output, for scripts."""
    print(json.dumps(value, ensure_ascii=False, default=_plain, allow_nan=False))


def print_table(rows: dict[str, Any]) -> None:
    """Keys and values, aligned, on standard output."""
    width = max(len(key) for key in rows)
    for key, value in rows.items():
        print(f"{key:<{width}}  {value}")


def print_plan(would: dict[str, Any], as_json: bool) -> None:
    """What models would be asked: the counts, below one whole request of each judge, or one whole conversation."""
    if as_json:
        print_json(would)
    else:
        print(would.pop("example"), end="\n\n")
        print_table(would)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else repr(value)
