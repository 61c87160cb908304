"""Prompts to responses: n samples of every model for every prompt, written as they finish, resumable."""

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rlaif.engines import EngineConfig, make_engine
from rlaif.engines.base import Completion, Engine, Request
from rlaif.errors import ConfigError, QualityGateError
from rlaif.inputs import PromptSet, read_prompts
from rlaif.models import fingerprint
from rlaif.progress import progress, say, say_new
from rlaif.records import RecordWriter, keep_old, read_records, refuse_same_file, write_records, write_text
from rlaif.types import Message, Prompt, Response, Sampling, content_hash, prompt_content_id

MAX_FAILED_SHARE = 0.05


@dataclass
class GenerateResult:
    """What `generate` gives back."""

    responses: list[Response] = field(default_factory=list)
    """All responses, those found in the output file included."""
    new: int = 0
    reused: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    """One entry per prompt without an answer: prompt_id, model, reason, detail."""
    duplicates: list[dict[str, str]] = field(default_factory=list)
    output: Path | None = None


def generate(
    prompts: str | Path | Iterable[str | Prompt],
    models: str | EngineConfig | Sequence[str | EngineConfig],
    *,
    n: int = 1,
    sampling: Sampling | None = None,
    system: str | None = None,
    output: str | Path | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    engines: Sequence[Engine] | None = None,
) -> GenerateResult:
    """n sampled responses per prompt and model.

    prompts: a file, a data set name, or texts. output: a JSONL file; what it already holds is not asked again.
    engines: already made engines, one per model, instead of those the configurations describe.
    Raises RlaifError; QualityGateError, with everything saved, if more than 5 % of the requests failed.
    """
    configs = _configs(models)
    sampling = sampling or Sampling()
    if n < 1:
        raise ConfigError(f"n is {n}; at least 1 response per prompt is needed")
    if isinstance(prompts, str | Path) and output is not None:
        refuse_same_file(prompts, output)
    found = read_prompts(prompts, system=system, limit=limit)
    path = Path(output) if output is not None else None
    result = GenerateResult(duplicates=found.duplicates, output=path)
    _tell(found)
    result.responses = _existing(path, configs, found.prompts, sampling, n, overwrite)
    result.reused = len(result.responses)
    asyncio.run(_generate(configs, engines, found.prompts, sampling, n, result, overwrite))
    if path is not None:
        write_notes(path, "duplicates.jsonl", found.duplicates)
        write_notes(path, "failed.jsonl", result.failures)
    total = len(found.prompts) * len(configs)
    if len(result.failures) > MAX_FAILED_SHARE * total:
        raise QualityGateError(
            f"{len(result.failures)} of {total} requests failed (first: {result.failures[0]['detail']}); "
            "the answered ones are saved and the same command asks for the others again"
        )
    return result


def plan(found: PromptSet, configs: Sequence[EngineConfig], n: int, sampling: Sampling) -> dict[str, int | str]:
    """What `generate` would ask for, in numbers; nothing is loaded or called."""
    characters = sum(len(message.content) for prompt in found.prompts for message in prompt.messages)
    return {
        "prompts": len(found.prompts),
        "duplicates": len(found.duplicates),
        "models": ", ".join(f"{config.model} ({config.resolved_engine})" for config in configs),
        "responses": len(found.prompts) * n * len(configs),
        "prompt tokens, about": len(configs) * characters // 4,
        "answer tokens, at most": len(found.prompts) * n * len(configs) * sampling.max_tokens,
    }


def model_identity(config: EngineConfig) -> str:
    """The model's name, with a fingerprint of its weights if they are in a local folder: a policy that was trained
    again in the same folder is another model."""
    weights = fingerprint(config.model) if config.resolved_engine != "openai" else None
    return config.model if weights is None else f"{config.model}#{weights}"


def response_id(prompt: Prompt, model: str, sampling: Sampling, index: int) -> str:
    """The same request has the same id, so a resumed run knows what it has. model: its identity."""
    return content_hash(prompt.id, prompt_content_id(prompt.messages), model, sampling.model_dump(), index)


def write_notes(output: Path, name: str, rows: list[dict[str, str]]) -> None:
    """A list beside an output file, in the folder <output>.d; an empty list leaves no file."""
    path = output.with_name(output.name + ".d") / name
    if rows:
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        path.unlink(missing_ok=True)


def _configs(models: str | EngineConfig | Sequence[str | EngineConfig]) -> list[EngineConfig]:
    listed = [models] if isinstance(models, str | EngineConfig) else list(models)
    configs = [EngineConfig(model=model) if isinstance(model, str) else model for model in listed]
    if not configs:
        raise ConfigError("no model given; name at least one (-m MODEL)")
    doubled = sorted({config.model for config in configs if [c.model for c in configs].count(config.model) > 1})
    if doubled:
        raise ConfigError(f"the model {doubled[0]} is given twice; for more responses of one model raise n")
    return configs


def _tell(found: PromptSet) -> None:
    if found.duplicates:
        shown = ", ".join(f"{item['where']} (as {item['first']})" for item in found.duplicates[:5])
        more = f" and {len(found.duplicates) - 5} more" if len(found.duplicates) > 5 else ""
        say(f"{len(found.duplicates)} duplicate prompts are asked once: {shown}{more}")
    if found.answers_removed:
        say(f"{found.answers_removed} conversations ended with an assistant turn, which is not part of the prompt")


def _existing(
    path: Path | None, configs: list[EngineConfig], prompts: list[Prompt], sampling: Sampling, n: int, overwrite: bool
) -> list[Response]:
    """The responses already in the output file. Raises ConfigError if they are of another command."""
    if path is None or overwrite or not path.exists():
        return []
    wanted = {
        response_id(prompt, identity, sampling, index)
        for identity in map(model_identity, configs)
        for prompt in prompts
        for index in range(n)
    }
    rows = list(read_records(path, Response, tolerate_torn_tail=True))
    stray = next((row for row in rows if row.id not in wanted), None)
    if stray is not None:
        changed = _changed(stray, configs, prompts, sampling, n)
        raise ConfigError(
            f"{path}: holds responses that this command does not ask for; changed: {changed}. "
            "Give another output (-o), or --overwrite to start again"
        )
    return _refreshed(path, rows, prompts)


def _refreshed(path: Path, rows: list[Response], prompts: list[Prompt]) -> list[Response]:
    """The rows with the metadata that their prompts have now; the file is written again where they differ."""
    by_id = {prompt.id: prompt for prompt in prompts}
    if all(row.prompt == by_id[row.prompt.id] for row in rows):
        return rows
    rows = [row.model_copy(update={"prompt": by_id[row.prompt.id]}) for row in rows]
    write_records(path, rows)
    return rows


def _changed(row: Response, configs: list[EngineConfig], prompts: list[Prompt], sampling: Sampling, n: int) -> str:
    changes = []
    if row.model not in {config.model for config in configs}:
        changes.append(f"model (there {row.model})")
    if row.sampling is not None:
        before, now = row.sampling.model_dump(), sampling.model_dump()
        changes += [f"{key} (there {before[key]}, now {now[key]})" for key in now if before[key] != now[key]]
    if row.prompt.id not in {prompt.id for prompt in prompts}:
        changes.append(f"prompts or system prompt (prompt {row.prompt.id} is not among them)")
    if row.sample_index >= n:
        changes.append(f"n (there more than {row.sample_index}, now {n})")
    return ", ".join(changes) or f"the weights of {row.model}, or the text of prompt {row.prompt.id}"


async def _generate(
    configs: list[EngineConfig],
    engines: Sequence[Engine] | None,
    prompts: list[Prompt],
    sampling: Sampling,
    n: int,
    result: GenerateResult,
    overwrite: bool,
) -> None:
    have = {response.id for response in result.responses}
    if overwrite and result.output is not None:
        keep_old(result.output)
    with ExitStack() as stack:
        writer = stack.enter_context(RecordWriter[Response](result.output)) if result.output else None
        for position, config in enumerate(configs):
            identity = model_identity(config)
            requests = list(_requests(prompts, identity, sampling, n, have))
            if not requests:
                continue
            engine = engines[position] if engines is not None else make_engine(config)
            by_key = {prompt.id: prompt for prompt in prompts}
            async with engine:
                total = sum(len(request.indices) for request in requests)
                said = 0
                with progress(f"generate {config.model}", total, "responses") as advance:
                    async for completion in engine.complete_many(requests):
                        said = say_new(engine.notices, said, engine.model)
                        rows = _responses(completion, by_key[completion.key], engine, config.model, identity, sampling)
                        for row in rows:
                            if writer is not None:
                                writer.write(row)
                            result.responses.append(row)
                        result.new += len(rows)
                        if completion.failure is not None:
                            result.failures.append(_failure(completion, config.model))
                        advance(len(rows))
                say_new(engine.notices, said, engine.model)


def _requests(prompts: list[Prompt], model: str, sampling: Sampling, n: int, have: set[str]) -> Iterator[Request]:
    for prompt in prompts:
        missing = tuple(i for i in range(n) if response_id(prompt, model, sampling, i) not in have)
        if missing:
            yield Request(
                key=prompt.id, messages=prompt.messages, sampling=sampling, n=len(missing), sample_indices=missing
            )


def _responses(
    completion: Completion, prompt: Prompt, engine: Engine, model: str, identity: str, sampling: Sampling
) -> list[Response]:
    return [
        Response(
            id=response_id(prompt, identity, sampling, sample.index),
            prompt=prompt,
            sample_index=sample.index,
            messages=(Message(role="assistant", content=sample.text),),
            model=model,
            engine=engine.kind,
            sampling=sampling,
            finish_reason=sample.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=sample.completion_tokens,
        )
        for sample in completion.samples
    ]


def _failure(completion: Completion, model: str) -> dict[str, str]:
    return {
        "prompt_id": completion.key,
        "model": model,
        "reason": completion.failure or "",
        "detail": completion.detail,
    }
