"""One run over responses: everything that is answered goes to a journal first, and revisions are derived from it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from rlaif.engines import make_engine
from rlaif.engines.base import Completion, Engine, Failure, Request
from rlaif.journal import Journal
from rlaif.judges.feed import Feed
from rlaif.judges.responses import Responses
from rlaif.progress import progress, say_new
from rlaif.revision.conversation import Asking, Question, Reviser, revising
from rlaif.types import Response, Revision, Turn


@dataclass
class Session:
    """A model that revises, the responses, and the journal of its answers."""

    reviser: Reviser
    rows: Responses
    journal: Journal[Turn]
    limit: int | None = None
    engine: Engine | None = None
    """Instead of the one that the configuration describes."""
    reused: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    _failed: dict[str, Failure] = field(default_factory=dict)
    """Why a question was not answered, by its key."""
    _out: dict[str, tuple[Asking, Question]] = field(default_factory=dict)
    _finished: int = 0

    def responses(self) -> Iterator[Response]:
        """Those to revise, prompt by prompt."""
        yield from islice((response for group in self.rows.groups() for response in group), self.limit)

    def ask(self) -> None:
        """Fills the journal with every answer that the revisions need."""
        feed = Feed(self._requests())
        if feed:
            asyncio.run(self._ask(feed, self.engine or make_engine(self.reviser.engine)))

    async def _ask(self, feed: Feed[Request], engine: Engine) -> None:
        total = len(self.rows) if self.limit is None else min(self.limit, len(self.rows))
        with progress(f"revise by {engine.model}", total, "responses") as advance:
            async with engine:
                said = 0
                while feed:
                    async for completion in engine.complete_many(feed):
                        said = say_new(engine.notices, said, engine.model)
                        feed.push(self._take(completion, engine))
                        advance(self._take_finished())
                advance(self._take_finished())
                say_new(engine.notices, said, engine.model)

    def _requests(self) -> Iterator[Request]:
        """The first question of each response that is not answered yet; responses are taken only as the engine has room."""
        for response in self.responses():
            yield from self._go_on(revising(self.reviser, response), None)

    def _take(self, completion: Completion, engine: Engine) -> list[Request]:
        """Takes an answer in, and gives back what is asked because of it."""
        asking, question = self._out.pop(completion.key)
        if completion.failure is not None:
            self._failed[completion.key] = completion.failure
            self.failures.append(_failure(question, completion))
            return self._go_on(asking, completion.failure)
        turn = _turn(question, completion, engine, self.reviser.engine.model)
        self.journal.add(turn)
        return self._go_on(asking, turn)

    def _go_on(self, asking: Asking, answer: Turn | Failure | None) -> list[Request]:
        """The next question of a response, as a list of none or one. What is in the journal is taken from there."""
        try:
            question = asking.send(answer) if answer is not None else next(asking)
            while (known := self.journal.get(question.request.key)) is not None:
                self.reused += 1
                question = asking.send(known)
        except StopIteration:
            self._finished += 1
            return []
        self._out[question.request.key] = (asking, question)
        return [question.request]

    def _take_finished(self) -> int:
        finished, self._finished = self._finished, 0
        return finished

    def revisions(self) -> Iterator[Revision]:
        """What came of each response, from the journal alone."""
        for response in self.responses():
            yield self._derived(revising(self.reviser, response))

    def _derived(self, asking: Asking) -> Revision:
        question = next(asking)
        try:
            while True:
                key = question.request.key
                question = asking.send(self.journal.get(key) or self._failed[key])
        except StopIteration as finished:
            revision: Revision = finished.value
            return revision


def _turn(question: Question, completion: Completion, engine: Engine, model: str) -> Turn:
    (sample,) = completion.samples
    return Turn(
        id=completion.key,
        response_id=question.response.id,
        round=question.round,
        kind=question.kind,
        principle=question.principle.name,
        model=model,
        engine=engine.kind,
        endpoint=engine.endpoint,
        raw=sample.text,
        finish_reason=sample.finish_reason,
        latency_seconds=completion.latency_seconds,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=sample.completion_tokens,
    )


def _failure(question: Question, completion: Completion) -> dict[str, str]:
    return {
        "response_id": question.response.id,
        "round": str(question.round),
        "asked": question.kind,
        "reason": completion.failure or "",
        "detail": completion.detail,
    }
