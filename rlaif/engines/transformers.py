"""The embedded engine: transformers in process, the default where there is no GPU.

Prompts are sorted by length and batched; the model computes in one worker thread, so the event loop stays free. Every
sample draws from its own random stream, seeded by (seed, request key, sample index): what else is in the batch, or was
answered before a restart, does not change it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rlaif.chat import encode, render_prompt, stop_token_ids
from rlaif.engines.base import Capabilities, Completion, Engine, Request, Sample
from rlaif.engines.batching import SORTED_TOGETHER, batches, out_of_memory, padded
from rlaif.errors import DataError, EngineError
from rlaif.types import FinishReason, Sampling, content_hash


@dataclass(frozen=True)
class Row:
    """One sample to draw: a row of a batch."""

    request: Request
    index: int
    prompt_ids: list[int]
    choice_ids: tuple[int, ...] | None

    @property
    def stream_seed(self) -> int:
        return int(content_hash(self.request.sampling.seed, self.request.key, self.index, length=15), 16)


@dataclass(frozen=True)
class Answer:
    sample: Sample
    row: Row
    seconds: float


class TransformersEngine(Engine):
    """A model folder, hub name, GGUF file or LoRA adapter folder, run by transformers in this process."""

    kind = "transformers"

    def __init__(self, model: str, *, dtype: str = "auto", batch_size: int = 32, max_batch_tokens: int = 16384) -> None:
        """
        batch_size: samples decoded together; max_batch_tokens: bound on (samples x (prompt + answer) tokens) together.
        """
        self.model = model
        self.dtype = dtype
        self.batch_size = batch_size
        self.max_batch_tokens = max_batch_tokens
        self._lm: Any = None
        self._tokenizer: Any = None
        self._stops: set[int] = set()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            choice_constraint=True, choice_probabilities=True, deterministic_seed=True, context_tokens=self._context()
        )

    async def open(self) -> None:
        await asyncio.to_thread(self._load)

    async def close(self) -> None:
        self._lm = self._tokenizer = None

    def _load(self) -> None:
        from rlaif.models import load_model, load_tokenizer

        self._tokenizer = load_tokenizer(self.model)
        self._lm = load_model(self.model, self.dtype)
        self._stops = stop_token_ids(self._tokenizer, self._lm.generation_config)

    def _context(self) -> int | None:
        return getattr(self._lm.config, "max_position_embeddings", None) if self._lm is not None else None

    async def complete_many(self, requests: Iterable[Request]) -> AsyncIterator[Completion]:
        """Requests are taken and sorted SORTED_TOGETHER at a time."""
        source = iter(requests)
        while taken := list(islice(source, SORTED_TOGETHER)):
            async for completion in self._complete_sorted(taken):
                yield completion

    async def _complete_sorted(self, requests: list[Request]) -> AsyncIterator[Completion]:
        rows: list[Row] = []
        for request in requests:
            prepared = await asyncio.to_thread(self._prepare, request)
            if isinstance(prepared, Completion):
                yield prepared
            else:
                rows.extend(prepared)
        waiting: dict[str, list[Answer]] = {}
        for batch in self._batches(rows):
            for answer in await asyncio.to_thread(self._answer, batch):
                answers = waiting.setdefault(answer.row.request.key, [])
                answers.append(answer)
                if len(answers) == len(answer.row.request.indices):
                    yield _completion(waiting.pop(answer.row.request.key))

    def _prepare(self, request: Request) -> list[Row] | Completion:
        try:
            prompt_ids = encode(self._tokenizer, render_prompt(self._tokenizer, request.messages))
        except DataError as error:
            return Completion(key=request.key, failure="rejected", detail=str(error))
        choice_ids = self._choice_ids(request.choices) if request.choices else None
        answer_tokens = 1 if choice_ids else request.sampling.max_tokens
        context = self._context()
        if context is not None and len(prompt_ids) + answer_tokens > context:
            detail = (
                f"{len(prompt_ids)} prompt tokens and {answer_tokens} for the answer exceed the context of {context}"
            )
            return Completion(key=request.key, failure="over-long", detail=detail, prompt_tokens=len(prompt_ids))
        return [Row(request, index, prompt_ids, choice_ids) for index in request.indices]

    def _choice_ids(self, choices: tuple[str, ...]) -> tuple[int, ...]:
        firsts = tuple(encode(self._tokenizer, choice)[0] for choice in choices)
        if len(set(firsts)) != len(firsts):
            raise EngineError(
                f"{self.model}: the choices {', '.join(choices)} do not differ in their first token, so one token can "
                "not tell them apart; use other labels, or read the verdict from text (reading: text)"
            )
        return firsts

    def _batches(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Rows of one kind and sampling, alike in length, longest first (so running out of memory shows at once)."""
        groups: dict[tuple[bool, Sampling], list[Row]] = {}
        for row in rows:
            groups.setdefault((row.choice_ids is not None, row.request.sampling), []).append(row)
        for (is_choice, sampling), members in groups.items():
            members.sort(key=lambda row: (-len(row.prompt_ids), row.request.key, row.index))
            answer = 0 if is_choice else sampling.max_tokens
            yield from batches(
                members, lambda row, answer=answer: len(row.prompt_ids) + answer,  # type: ignore[misc]
                most_rows=self.batch_size, most_tokens=self.max_batch_tokens,
            )  # fmt: skip

    def _answer(self, batch: list[Row]) -> list[Answer]:
        started = time.perf_counter()
        with out_of_memory(f"{self.batch_size} samples at a time; lower --batch-size or --max-tokens"):
            samples = self._choose(batch) if batch[0].choice_ids is not None else self._generate(batch)
        seconds = time.perf_counter() - started
        return [Answer(sample, row, seconds) for row, sample in zip(batch, samples, strict=True)]

    def _inputs(self, batch: list[Row]) -> dict[str, Any]:
        """Left-padded input ids and attention mask, each [rows, longest prompt]."""
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else min(self._stops, default=0)
        return padded([row.prompt_ids for row in batch], pad, "left", self._lm.device)

    def _choose(self, batch: list[Row]) -> list[Sample]:
        """One prefill: the probability of each choice, renormalised over the choices, from the next-token logits."""
        import torch

        inputs = self._inputs(batch)
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = self._lm(**inputs, position_ids=positions, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        samples = []
        for row, row_logits in zip(batch, logits, strict=True):
            assert row.choice_ids is not None
            assert row.request.choices is not None
            probabilities = row_logits[list(row.choice_ids)].double().softmax(-1).tolist()
            by_choice = dict(zip(row.request.choices, probabilities, strict=True))
            text = _draw_choice(by_choice, row)
            samples.append(
                Sample(
                    index=row.index,
                    text=text,
                    finish_reason="stop",
                    completion_tokens=1,
                    choice_probabilities=by_choice,
                )
            )
        return samples

    def _generate(self, batch: list[Row]) -> list[Sample]:
        import torch
        from transformers import GenerationConfig

        from rlaif.engines.sampling import SeededSampling

        sampling = batch[0].request.sampling
        inputs = self._inputs(batch)
        stops = sorted(self._stops)
        # A fresh configuration: what the model's generation_config.json says of temperature or top-k is not applied.
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=stops,
            pad_token_id=stops[0] if stops else 0,
            stop_strings=list(sampling.stop) or None,
        )
        processors = []
        if sampling.temperature > 0:
            processors.append(SeededSampling([row.stream_seed for row in batch], sampling.temperature, sampling.top_p))
        with torch.inference_mode():
            output = self._lm.generate(
                **inputs,
                generation_config=config,
                logits_processor=processors,
                tokenizer=self._tokenizer if sampling.stop else None,
            )
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._sample(row, ids) for row, ids in zip(batch, answers, strict=True)]

    def _sample(self, row: Row, ids: list[int]) -> Sample:
        end = next((i for i, token in enumerate(ids) if token in self._stops), None)
        finish: FinishReason = "stop" if end is not None else "length"
        text = self._tokenizer.decode(ids[:end], skip_special_tokens=True)
        for stop in row.request.sampling.stop:
            if stop in text:
                text, finish = text[: text.index(stop)], "stop"
        tokens = len(ids) if end is None else end + 1
        return Sample(index=row.index, text=text.strip(), finish_reason=finish, completion_tokens=tokens)


def _draw_choice(probabilities: dict[str, float], row: Row) -> str:
    """The most probable choice at temperature 0 (the first of equals), else one drawn from the row's own stream."""
    temperature = row.request.sampling.temperature
    if temperature == 0:
        return max(probabilities, key=lambda choice: probabilities[choice])
    import numpy as np

    weights = np.array(list(probabilities.values())) ** (1 / temperature)
    draw = np.random.default_rng(row.stream_seed).random() * weights.sum()
    return list(probabilities)[int(np.searchsorted(weights.cumsum(), draw).clip(max=len(weights) - 1))]


def _completion(answers: list[Answer]) -> Completion:
    answers.sort(key=lambda answer: answer.sample.index)
    row = answers[0].row
    return Completion(
        key=row.request.key,
        samples=tuple(answer.sample for answer in answers),
        prompt_tokens=len(row.prompt_ids),
        latency_seconds=max(answer.seconds for answer in answers),
    )
