"""vLLM in this process, through its asynchronous engine: answers stream out as they finish.

On a GPU, or on the CPU with a CPU build of vLLM. Every sample is a request of its own with its own seed, so a resumed
run that asks for some indices only draws the same ones; prefix caching makes the shared prompt cheap. vLLM batches what
is in flight, and the size of a batch changes the last bits of its numbers, so equal seeds give equal answers except
where two tokens are almost equally likely.
"""

import asyncio
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import logging
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

from rlaif import chat
from rlaif.engines.base import Capabilities, Completion, Engine, Request, Sample, writes_no_text
from rlaif.engines.choices import TOP_TOKENS, choice_probabilities
from rlaif.engines.guard import ProcessGuard
from rlaif.engines.window import sliding_window
from rlaif.errors import ConfigError, DataError, EngineError, did_you_mean, missing_extra
from rlaif.models import ADAPTER_FILE, adapter_base, is_reward_model, load_tokenizer
from rlaif.types import FinishReason

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The adapter ranks that vLLM reserves room for."""

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
CPU_CACHE = {"VLLM_CPU_KVCACHE_SPACE": "2"}
"""GiB of key-value cache on the CPU; vLLM's own default takes half of the memory."""


class VllmEngine(Engine):
    """A model folder, hub name or LoRA adapter folder, run by vLLM."""

    kind = "vllm"

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        max_model_len: int | None = None,
        concurrency: int = 256,
        engine_args: dict[str, Any] | None = None,
    ) -> None:
        """
        dtype: 'auto' is vLLM's choice on a GPU and float32 on the CPU. max_model_len: the context in tokens, the
        model's own unless given. concurrency: requests handed to vLLM at a time. engine_args: further arguments of
        vLLM's AsyncEngineArgs, which go over all others.
        """
        self.model = model
        self.dtype = dtype
        self.max_model_len = max_model_len
        self.concurrency = concurrency
        self.engine_args = engine_args or {}
        self._process: VllmProcess | None = None
        self._tokenizer: Any = None
        self._adapter: Any = None
        self._stops: list[int] = []
        self._ids = itertools.count()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(choice_constraint=True, choice_probabilities=True, context_tokens=self._context())

    def _context(self) -> int | None:
        return self._process.context if self._process is not None else self.max_model_len

    async def open(self) -> None:
        device = vllm_device()
        if self.model.endswith(".gguf"):
            raise EngineError(f"{self.model}: vLLM does not read GGUF files; use the engine transformers for it")
        if is_reward_model(self.model):
            raise writes_no_text(self.model)
        base = adapter_base(self.model)
        self._tokenizer = load_tokenizer(self.model)
        self._stops = sorted(chat.stop_token_ids(self._tokenizer, _generation_config(base or self.model)))
        arguments = self._arguments(base or self.model, device, is_adapter=base is not None)
        self._process = VllmProcess(arguments)
        if base is not None:
            from vllm.lora.request import LoRARequest

            self._adapter = LoRARequest("adapter", 1, str(Path(self.model).resolve()))

    async def close(self) -> None:
        process, self._process, self._tokenizer, self._adapter = self._process, None, None, None
        if process is not None:
            process.end()

    def _arguments(self, model: str, device: str, *, is_adapter: bool) -> dict[str, Any]:
        """The arguments of AsyncEngineArgs: ours, then the user's."""
        arguments = vllm_arguments(model, self.dtype, self.max_model_len, device)
        if is_adapter:
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank_of(self.model)}
        return arguments | self.engine_args

    def complete_many(self, requests: Iterable[Request]) -> AsyncIterator[Completion]:
        return sliding_window(requests, self._complete, self.concurrency)

    async def _complete(self, request: Request) -> Completion:
        started = time.monotonic()
        try:
            ids = chat.encode(self._tokenizer, chat.render_prompt(self._tokenizer, request.messages))
        except DataError as error:
            return Completion(key=request.key, failure="rejected", detail=str(error))
        room, context = _answer_tokens(request), self._context()
        if context is not None and len(ids) + room > context:
            detail = f"{len(ids)} prompt tokens and {room} for the answer exceed the context of {context}"
            return Completion(key=request.key, failure="over-long", detail=detail, prompt_tokens=len(ids))
        try:
            samples = await asyncio.gather(*(self._sample(request, ids, index) for index in request.indices))
        except ValueError as error:
            return Completion(key=request.key, failure="rejected", detail=str(error), prompt_tokens=len(ids))
        return Completion(
            key=request.key,
            samples=tuple(samples),
            prompt_tokens=len(ids),
            latency_seconds=time.monotonic() - started,
        )

    async def _sample(self, request: Request, ids: list[int], index: int) -> Sample:
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        assert self._process is not None
        stream = self._process.llm.generate(
            {"prompt_token_ids": ids},
            self._sampling(request, index),
            f"rlaif-{next(self._ids)}",
            lora_request=self._adapter,
        )
        answer: Any = None
        try:
            async for output in stream:
                answer = output.outputs[0]
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineError(f"vLLM stopped while answering with '{self.model}': {error}") from None
        return self._read(request, index, answer)

    def _sampling(self, request: Request, index: int) -> Any:
        """Every parameter is ours: nothing is taken from the model's generation_config.json."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        sampling = request.sampling
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            max_tokens=_answer_tokens(request),
            seed=request.seed_of(index),
            stop=list(sampling.stop),
            stop_token_ids=self._stops,
            skip_special_tokens=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            logprobs=TOP_TOKENS if request.choices else None,
            structured_outputs=StructuredOutputsParams(choice=list(request.choices)) if request.choices else None,
        )

    def _read(self, request: Request, index: int, answer: Any) -> Sample:
        text = answer.text
        if isinstance(answer.stop_reason, int):  # a stop token that is not special is part of vLLM's text
            text = text.removesuffix(self._tokenizer.decode([answer.stop_reason], skip_special_tokens=True))
        probabilities = None
        if request.choices and answer.logprobs:
            first = answer.logprobs[0].values()
            probabilities = choice_probabilities(request.choices, [(c.decoded_token, c.logprob) for c in first])
        if probabilities is not None and request.sampling.temperature == 0:
            text = max(probabilities, key=probabilities.__getitem__)
        return Sample(
            index=index,
            text=text,
            finish_reason=_finish_reason(answer.finish_reason),
            completion_tokens=len(answer.token_ids),
            choice_probabilities=probabilities,
        )


def _answer_tokens(request: Request) -> int:
    """The most tokens an answer can have. A choice ends by itself, so it is never cut by max_tokens."""
    if request.choices:
        return max(len(choice.encode()) for choice in request.choices) + 1
    return request.sampling.max_tokens


def _finish_reason(reason: str | None) -> FinishReason:
    return "stop" if reason == "stop" else "length" if reason == "length" else "other"


def vllm_device() -> str:
    """The kind of device vLLM computes on, such as 'cuda' or 'cpu'. Raises EngineError if it has none."""
    if importlib.util.find_spec("vllm") is None:
        raise missing_extra("vllm", "vllm")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    try:
        from vllm.platforms import current_platform
    except (ImportError, OSError) as error:
        raise EngineError(f"vllm is installed but can not be imported: {error}") from None
    device = str(current_platform.device_type)
    if not device:
        raise EngineError(
            "vLLM found no GPU on this machine; use the engine transformers (it runs on the CPU), or an "
            "OpenAI-compatible endpoint with a base URL"
        )
    if device == "cpu":
        for name, value in CPU_CACHE.items():
            os.environ.setdefault(name, value)
    return device


def _generation_config(model: str) -> Any:
    """The model's generation_config.json, read for its end-of-turn tokens only; None if there is none."""
    from transformers import GenerationConfig

    with contextlib.suppress(OSError, ValueError):
        return GenerationConfig.from_pretrained(model)
    return None


def _rank_of(adapter: str) -> int:
    """The smallest rank vLLM offers that holds the adapter's."""
    settings = json.loads((Path(adapter) / ADAPTER_FILE).read_text(encoding="utf-8"))
    return lora_rank(int(settings.get("r", 8)), adapter)


def lora_rank(rank: int, where: str) -> int:
    """The smallest rank vLLM offers that is at least `rank`. Raises EngineError if there is none, naming where it stands."""
    fitting = [offered for offered in LORA_RANKS if offered >= rank]
    if not fitting:
        raise EngineError(f"{where}: rank {rank} is over {LORA_RANKS[-1]}, the largest adapter vLLM serves; merge it")
    return fitting[0]


def vllm_arguments(model: str, dtype: str, max_model_len: int | None, device: str) -> dict[str, Any]:
    """The arguments of AsyncEngineArgs that are ours whatever vLLM is used for."""
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": "float32" if device == "cpu" and dtype == "auto" else dtype,
        "generation_config": "vllm",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",  # after the constraint, before the temperature
    }
    if max_model_len is not None:
        arguments["max_model_len"] = max_model_len
    if device == "cpu":
        # vLLM rewinds a sample's random generator when a prompt is computed in pieces; on the CPU that is fatal.
        arguments |= {"enforce_eager": True, "enable_chunked_prefill": False}
    return arguments


class VllmProcess:
    """vLLM's asynchronous engine, `llm`, whose process lives until `end`, and no longer than this one."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        """arguments: of AsyncEngineArgs. Raises ConfigError for unknown ones, EngineError if vLLM can not start."""
        self.llm: Any = None
        self._guard = ProcessGuard()
        try:
            with self._guard:
                self.llm = _start(arguments)
        except BaseException:
            self.end()
            raise

    @property
    def context(self) -> int:
        """Most tokens of a prompt with its answer."""
        return int(self.llm.model_config.max_model_len)

    def end(self) -> None:
        llm, self.llm = self.llm, None
        try:
            if llm is not None:
                llm.shutdown()
        finally:
            self._guard.end()
        multiprocessing.active_children()  # reaps vLLM's process, which has ended


def _start(arguments: dict[str, Any]) -> Any:
    """A running AsyncLLM. Raises ConfigError for unknown arguments, EngineError if vLLM can not start."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    allowed = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in arguments:
        if name not in allowed:
            raise ConfigError(f"engine_args: vLLM has no argument '{name}'{did_you_mean(name, allowed)}")
    with _starting(str(arguments["model"])):
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


@contextlib.contextmanager
def _starting(model: str) -> Iterator[None]:
    """Turns what starting vLLM can fail with into one message; the cause in its own process is on stderr above."""
    try:
        yield
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise EngineError(f"vLLM can not start with '{model}': {' '.join(lines[:3]) or type(error).__name__}") from None
