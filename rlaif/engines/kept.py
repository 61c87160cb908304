"""An engine that stays open between sessions: opened when it is first needed, closed once, at the end of a run."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import TypeVar, cast

from rlaif.engines.base import Capabilities, Completion, Engine, Request, ScoreCompletion, ScoreRequest
from rlaif.progress import say_new

A = TypeVar("A", Completion, ScoreCompletion)


class KeptOpen(Engine):
    """Hands everything on to another engine. `async with` opens that one if it is closed, and leaves it open; `shut` closes it.

    What it notices is said as it comes, once, whoever asks: its `notices` are empty. Several sessions may ask at the same
    time: a model in this process answers one of them after the other, since it computes on one device.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.kind = engine.kind
        self.model = engine.model
        self.endpoint = engine.endpoint
        self._is_open = False
        self._said = 0
        self._opening = asyncio.Lock()
        self._turn: contextlib.AbstractAsyncContextManager[object] = (
            asyncio.Lock() if engine.kind == "transformers" else contextlib.nullcontext()
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._engine.capabilities

    async def open(self) -> None:
        async with self._opening:
            if not self._is_open:
                await self._engine.open()
                self._is_open = True

    async def close(self) -> None:
        """Nothing: see `shut`."""

    async def shut(self) -> None:
        """Closes the engine, if it is open."""
        if self._is_open:
            self._is_open = False
            await self._engine.close()

    def complete_many(self, requests: Iterable[Request]) -> AsyncIterator[Completion]:
        return self._handed_on(self._engine.complete_many(requests))

    def score_many(self, requests: Iterable[ScoreRequest]) -> AsyncIterator[ScoreCompletion]:
        return self._handed_on(self._engine.score_many(requests))

    async def _handed_on(self, answers: AsyncIterator[A]) -> AsyncIterator[A]:
        async with self._turn, aclosing(cast("AsyncGenerator[A]", answers)):
            try:
                async for answer in answers:
                    self._say_new()
                    yield answer
            finally:
                self._say_new()

    def _say_new(self) -> None:
        self._said = say_new(self._engine.notices, self._said, self.model)
