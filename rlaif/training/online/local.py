"""Rollouts by the model that is trained, in this process, with its weights as they are."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from rlaif.training.online.decode import Decoder
from rlaif.training.online.samples import Sampled, Sampler, SampleRequest


class LocalSampler(Sampler):
    """Samples in a worker thread, batch after batch, while judges are at work on the batches before."""

    def __init__(
        self, decoder: Decoder, opponent: Decoder | None = None, turn: AbstractContextManager[Any] | None = None
    ) -> None:
        """opponent: who gives the last responses to prompts that ask for them. turn: is held while the model computes, for
        those who use it too."""
        self._decoder, self._opponent = decoder, opponent
        self._turn = turn or nullcontext()

    async def sample(
        self, requests: Sequence[SampleRequest], known: Collection[str]
    ) -> AsyncIterator[list[tuple[SampleRequest, list[Sampled]]]]:
        """A batch of which anything is missing is sampled again as a whole: rounding hangs on what is in a batch, so
        only then is it the same as without the interruption."""
        for batch in self._decoder.batches(requests):
            if all(request.key in known for request in batch):
                continue
            answers = await asyncio.to_thread(self._in_turn, batch)
            yield list(zip(batch, answers, strict=True))

    def _in_turn(self, batch: Sequence[SampleRequest]) -> list[list[Sampled]]:
        with self._turn:
            return self._answers(batch)

    def _answers(self, batch: Sequence[SampleRequest]) -> list[list[Sampled]]:
        if self._opponent is None:
            return self._decoder.sample(batch)
        own = [replace(one, seeds=one.seeds[: len(one.seeds) - one.opponents], opponents=0) for one in batch]
        theirs = [replace(one, seeds=one.seeds[len(one.seeds) - one.opponents :]) for one in batch if one.opponents]
        found = iter(self._opponent.sample(theirs)) if theirs else iter(())
        answers = self._decoder.sample(own)
        return [[*mine, *(next(found) if one.opponents else [])] for one, mine in zip(batch, answers, strict=True)]
