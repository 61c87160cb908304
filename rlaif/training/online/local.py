"""Rollouts by the model that is trained, in this process, with its weights as they are."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

from rlaif.training.online.decode import Decoder
from rlaif.training.online.samples import Sampled, Sampler, SampleRequest


class LocalSampler(Sampler):
    """Samples in a worker thread, batch after batch, while judges are at work on the batches before."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    async def sample(
        self, requests: Sequence[SampleRequest], known: Collection[str]
    ) -> AsyncIterator[list[tuple[SampleRequest, list[Sampled]]]]:
        """A batch of which anything is missing is sampled again as a whole: rounding hangs on what is in a batch, so
        only then is it the same as without the interruption."""
        for batch in self._decoder.batches(requests):
            if all(request.key in known for request in batch):
                continue
            answers = await asyncio.to_thread(self._decoder.sample, batch)
            yield list(zip(batch, answers, strict=True))
