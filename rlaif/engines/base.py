"""The seam to whatever answers a prompt or scores an answer. Policies and judges use the same one, so local and remote
look alike."""

import abc
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rlaif.errors import EngineError
from rlaif.types import FinishReason, Messages, Sampling, content_hash


class Request(BaseModel):
    """One conversation to answer, `n` times.

    With `choices`, the answer must be one of them; an engine that can, constrains it and gives the probability of each.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    messages: Messages
    sampling: Sampling
    n: int = Field(default=1, ge=1)
    sample_indices: tuple[int, ...] | None = None
    choices: tuple[str, ...] | None = None

    @property
    def indices(self) -> tuple[int, ...]:
        """The sample indices asked for: 0..n-1 unless given (a resumed run asks for the missing ones only)."""
        return self.sample_indices if self.sample_indices is not None else tuple(range(self.n))

    def seed_of(self, index: int) -> int | None:
        """The seed of one sample for engines that take seeds, None if the sampling has none.

        A positive 31-bit number from (seed, key), plus the index: consecutive, because servers that draw n samples
        from one seed count up from it, so asking for some indices only gives the same samples.
        """
        if self.sampling.seed is None:
            return None
        return int(content_hash(self.sampling.seed, self.key, length=7), 16) + index


class Sample(BaseModel):
    """One answer."""

    model_config = ConfigDict(frozen=True)

    index: int
    text: str
    finish_reason: FinishReason | None
    completion_tokens: int | None = None
    choice_probabilities: dict[str, float] | None = None
    """Of each of the request's choices, summing to 1; None if the engine could not know every one."""


Failure = Literal["over-long", "rejected", "unavailable"]


class Completion(BaseModel):
    """The answers to one request, or the reason why there is none. A failure is not an answer and not a vote."""

    model_config = ConfigDict(frozen=True)

    key: str
    samples: tuple[Sample, ...] = ()
    prompt_tokens: int | None = None
    latency_seconds: float | None = None
    failure: Failure | None = None
    detail: str = ""


class ScoreRequest(BaseModel):
    """One whole conversation; what is scored is the assistant's answer that ends it."""

    model_config = ConfigDict(frozen=True)

    key: str
    messages: Messages

    @field_validator("messages")
    @classmethod
    def _ends_with_an_answer(cls, messages: Messages) -> Messages:
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise ValueError("a conversation to score has a prompt and ends with the assistant's answer")
        return messages


class ScoreCompletion(BaseModel):
    """The reward of one conversation, or the reason why there is none. A failure is not a low reward."""

    model_config = ConfigDict(frozen=True)

    key: str
    reward: float | None = Field(default=None, allow_inf_nan=False)
    """Higher is better. It has no unit and no zero: only rewards of one model, to answers of one prompt, compare."""
    prompt_tokens: int | None = None
    """Of the whole conversation, the answer included: all that the model read."""
    latency_seconds: float | None = None
    failure: Failure | None = None
    detail: str = ""


class Capabilities(BaseModel):
    """What an engine can do, as far as it knows before the first call."""

    model_config = ConfigDict(frozen=True)

    choice_constraint: bool
    choice_probabilities: bool
    deterministic_seed: bool = False
    """A sample depends on (seed, prompt, sample index) alone, whatever else is in the batch."""
    context_tokens: int | None = None
    scores: bool = False
    """It takes `score_many`: it holds a reward model."""


class Engine(abc.ABC):
    """An asynchronous context manager: opening loads or connects, closing frees. Errors to the user are EngineError."""

    kind: str
    """transformers, vllm, openai or scripted."""
    model: str
    endpoint: str | None = None
    notices: Sequence[str] = ()
    """What the user should know of how the model answered, each once (a parameter the endpoint refused, and the like)."""

    @property
    @abc.abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abc.abstractmethod
    def complete_many(self, requests: Iterable[Request]) -> AsyncIterator[Completion]:
        """Yields one Completion per request, in the order in which they finish.

        Takes requests as it has room for them: `requests` may be longer than memory, and may grow by what was answered.
        """

    async def complete(self, request: Request) -> Completion:
        """The Completion of one request."""
        async for completion in self.complete_many([request]):
            return completion
        raise AssertionError("an engine yields one completion per request")

    def score_many(self, requests: Iterable[ScoreRequest]) -> AsyncIterator[ScoreCompletion]:
        """Yields one ScoreCompletion per request, in the order in which they finish; takes requests as `complete_many`.

        A conversation that is too long for the model is a failure and never cut. Raises EngineError, as this one does,
        if the engine holds no reward model (`capabilities.scores` is False).
        """
        raise EngineError(
            f"{self.model}: the engine {self.kind} can not score answers here; a reward model is a sequence classifier "
            "with one label (such as 'rlaif train rm' makes), opened to score by the engine transformers"
        )

    async def open(self) -> None:  # noqa: B027 - an engine without anything to open need not define it
        """Loads the model or connects. Raises EngineError."""

    async def close(self) -> None:  # noqa: B027
        """Frees the model or the connections."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def writes_no_text(model: str) -> EngineError:
    """The error for a reward model that is asked for answers."""
    return EngineError(
        f"{model}: is a reward model, which scores answers and writes none; name a language model here, and the reward "
        "model where answers are judged"
    )
