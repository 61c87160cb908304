"""A public fake engine: answers and scores come from functions. For tests, examples and trying a pipeline without a model."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from rlaif.engines.base import Capabilities, Completion, Engine, Request, Sample, ScoreCompletion, ScoreRequest
from rlaif.errors import EngineError


class ScriptedEngine(Engine):
    """Answers every request with `answer(request, sample index)`: a text, or a Sample, or an exception to raise.

    Scores every conversation with `score(request)`: a reward, or a ScoreCompletion, or an exception to raise. Without the
    function for what it is asked, it refuses, as a model of the other kind does.
    """

    kind = "scripted"

    def __init__(
        self,
        answer: Callable[[Request, int], str | Sample | Exception] | None = None,
        *,
        score: Callable[[ScoreRequest], float | ScoreCompletion | Exception] | None = None,
        model: str = "scripted",
        capabilities: Capabilities | None = None,
    ) -> None:
        self._answer = answer
        self._score = score
        self.model = model
        self._capabilities = capabilities or Capabilities(
            choice_constraint=False, choice_probabilities=False, deterministic_seed=True, scores=score is not None
        )
        self.requests: list[Request] = []
        """Every request for an answer it was given, in order."""
        self.score_requests: list[ScoreRequest] = []
        """Every conversation it was given to score, in order."""

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def complete_many(self, requests: Iterable[Request]) -> AsyncIterator[Completion]:
        if self._answer is None:
            raise EngineError(f"{self.model}: this scripted engine only scores; give it an `answer` function")
        for request in requests:
            await asyncio.sleep(0)
            self.requests.append(request)
            samples = tuple(_sample(index, self._answer(request, index)) for index in request.indices)
            yield Completion(key=request.key, samples=samples)

    async def score_many(self, requests: Iterable[ScoreRequest]) -> AsyncIterator[ScoreCompletion]:
        if self._score is None:
            raise EngineError(f"{self.model}: this scripted engine only answers; give it a `score` function")
        for request in requests:
            await asyncio.sleep(0)
            self.score_requests.append(request)
            score = self._score(request)
            if isinstance(score, Exception):
                raise score
            yield score if isinstance(score, ScoreCompletion) else ScoreCompletion(key=request.key, reward=score)


def _sample(index: int, answer: str | Sample | Exception) -> Sample:
    if isinstance(answer, Exception):
        raise answer
    if isinstance(answer, Sample):
        return answer
    return Sample(index=index, text=answer, finish_reason="stop", completion_tokens=len(answer.split()))
