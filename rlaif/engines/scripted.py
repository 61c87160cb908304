"""A public fake engine: answers come from a function. For tests, examples and trying a pipeline without a model."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from rlaif.engines.base import Capabilities, Completion, Engine, Request, Sample


class ScriptedEngine(Engine):
    """Answers every request with `answer(request, sample index)`: a text, or a Sample, or an exception to raise."""

    kind = "scripted"

    def __init__(
        self,
        answer: Callable[[Request, int], str | Sample | Exception],
        *,
        model: str = "scripted",
        capabilities: Capabilities | None = None,
    ) -> None:
        self._answer = answer
        self.model = model
        self._capabilities = capabilities or Capabilities(
            choice_constraint=False, choice_probabilities=False, deterministic_seed=True
        )
        self.requests: list[Request] = []
        """Every request it was given, in order."""

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def complete_many(self, requests: Iterable[Request]) -> AsyncIterator[Completion]:
        for request in requests:
            await asyncio.sleep(0)
            self.requests.append(request)
            yield Completion(key=request.key, samples=tuple(self._sample(request, index) for index in request.indices))

    def _sample(self, request: Request, index: int) -> Sample:
        answer = self._answer(request, index)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Sample):
            return answer
        return Sample(index=index, text=answer, finish_reason="stop", completion_tokens=len(answer.split()))
