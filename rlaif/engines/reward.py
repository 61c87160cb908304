"""Reward models in process, by transformers: the score of an answer from a classification head with one label.

Conversations are sorted by length and padded on the right, where nothing before can see it, so a score does not depend
on what else is in the batch. The model computes in one worker thread, so the event loop stays free.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from rlaif.chat import conversation_ids
from rlaif.engines.base import Capabilities, Completion, Engine, Request, ScoreCompletion, ScoreRequest, writes_no_text
from rlaif.engines.batching import SORTED_TOGETHER, batches, out_of_memory, padded
from rlaif.errors import DataError


@dataclass(frozen=True)
class Conversation:
    """A row of a batch."""

    key: str
    ids: list[int]


class RewardEngine(Engine):
    """A reward model: a folder, a hub name, or the folder of its LoRA adapter. It scores, and writes no text."""

    kind = "transformers"

    def __init__(self, model: str, *, dtype: str = "auto", batch_size: int = 32, max_batch_tokens: int = 16384) -> None:
        """batch_size: conversations scored together; max_batch_tokens: bound on their tokens, padding included."""
        self.model = model
        self.dtype = dtype
        self.batch_size = batch_size
        self.max_batch_tokens = max_batch_tokens
        self._lm: Any = None
        self._tokenizer: Any = None
        self._to_turn_end = False
        self._padding: int | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            choice_constraint=False, choice_probabilities=False, context_tokens=self._context(), scores=True
        )

    async def open(self) -> None:
        await asyncio.to_thread(self._load)

    async def close(self) -> None:
        self._lm = self._tokenizer = None

    def _load(self) -> None:
        from rlaif.models import load_tokenizer, load_trained_reward_model, reads_turn_end

        self._lm = load_trained_reward_model(self.model, self.dtype)
        self._tokenizer = load_tokenizer(self.model)
        self._to_turn_end = reads_turn_end(self._tokenizer)
        self._padding = self._lm.config.get_text_config().pad_token_id

    def _context(self) -> int | None:
        if self._lm is None:
            return None
        return getattr(self._lm.config.get_text_config(), "max_position_embeddings", None)

    def complete_many(self, requests: Iterable[Request]) -> AsyncIterator[Completion]:
        raise writes_no_text(self.model)

    async def score_many(self, requests: Iterable[ScoreRequest]) -> AsyncIterator[ScoreCompletion]:
        """Requests are taken and sorted SORTED_TOGETHER at a time."""
        source = iter(requests)
        while taken := list(islice(source, SORTED_TOGETHER)):
            prepared = await asyncio.to_thread(self._prepare_all, taken)
            for item in prepared:
                if isinstance(item, ScoreCompletion):
                    yield item
            for batch in self._batches([item for item in prepared if isinstance(item, Conversation)]):
                for completion in await asyncio.to_thread(self._score, batch):
                    yield completion

    def _prepare_all(self, requests: list[ScoreRequest]) -> list[Conversation | ScoreCompletion]:
        return [self._prepare(request) for request in requests]

    def _prepare(self, request: ScoreRequest) -> Conversation | ScoreCompletion:
        try:
            ids = conversation_ids(self._tokenizer, request.messages, to_turn_end=self._to_turn_end)
        except DataError as error:
            return ScoreCompletion(key=request.key, failure="rejected", detail=str(error))
        context = self._context()
        if context is not None and len(ids) > context:
            detail = f"{len(ids)} tokens of prompt and answer exceed the context of {context}"
            return ScoreCompletion(key=request.key, failure="over-long", detail=detail, prompt_tokens=len(ids))
        return Conversation(request.key, ids)

    def _batches(self, conversations: list[Conversation]) -> Iterator[list[Conversation]]:
        conversations.sort(key=lambda conversation: (-len(conversation.ids), conversation.key))
        yield from batches(
            conversations, lambda conversation: len(conversation.ids), most_rows=self.batch_size,
            most_tokens=self.max_batch_tokens,
        )  # fmt: skip

    def _score(self, batch: list[Conversation]) -> list[ScoreCompletion]:
        import torch

        started = time.perf_counter()
        with out_of_memory(f"{len(batch)} answers of up to {len(batch[0].ids)} tokens at a time; lower batch_size"):
            with torch.inference_mode():
                logits = self._lm(**self._inputs(batch), use_cache=False).logits
            rewards = logits[:, 0].double().tolist()
        seconds = time.perf_counter() - started
        return [_completion(item, reward, seconds) for item, reward in zip(batch, rewards, strict=True)]

    def _inputs(self, batch: list[Conversation]) -> dict[str, Any]:
        """Right-padded input ids and attention mask, each [conversations, longest].

        transformers scores the last token that is not the padding token. A model without one is given a token with which
        no conversation of the batch ends.
        """
        padding = self._padding
        if padding is None:
            ends = {conversation.ids[-1] for conversation in batch}
            padding = next(token for token in count() if token not in ends)
            self._lm.config.get_text_config().pad_token_id = padding
        return padded([conversation.ids for conversation in batch], padding, "right", self._lm.device)


def _completion(conversation: Conversation, reward: float, seconds: float) -> ScoreCompletion:
    tokens = len(conversation.ids)
    if not math.isfinite(reward):
        return ScoreCompletion(
            key=conversation.key, failure="rejected", detail=f"the model's score is {reward}", prompt_tokens=tokens,
            latency_seconds=seconds,
        )  # fmt: skip
    return ScoreCompletion(key=conversation.key, reward=reward, prompt_tokens=tokens, latency_seconds=seconds)
