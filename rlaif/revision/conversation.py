"""The rounds of one response: what is asked next follows from what was answered, and nothing else."""

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from rlaif.engines import CHANGES_ANSWERS, EngineConfig
from rlaif.engines.base import Failure, Request
from rlaif.generation import model_identity
from rlaif.judges.defences import escape_control_tokens, own_control_tokens, shown_data, unescape_control_tokens
from rlaif.judges.reading.thinking import visible_text
from rlaif.prompts import Template, conversation_text
from rlaif.revision.constitution import Constitution, Principle, draw_principles
from rlaif.revision.reading import Reading, read_critique, read_revision
from rlaif.types import (
    Message,
    Messages,
    Response,
    Revision,
    RevisionRound,
    Sampling,
    Turn,
    TurnKind,
    content_hash,
)

FAILURES: tuple[Failure, ...] = get_args(Failure)


@dataclass(frozen=True)
class Reviser:
    """A model that revises, and by what."""

    constitution: Constitution
    engine: EngineConfig
    sampling: Sampling
    """Of critiques and revisions; its seed draws the principles too."""
    rounds: int

    @cached_property
    def model_identity(self) -> str:
        return model_identity(self.engine)

    @property
    def answers_as(self) -> str:
        """The model that a revision is said to be of, so that it is not taken for an answer of the model alone."""
        return f"{self.engine.model}+{self.constitution.name}"

    @cached_property
    def own_tokens(self) -> tuple[str, ...]:
        return own_control_tokens(self.engine.model)

    def principles(self, response: Response) -> tuple[Principle, ...]:
        """Of each round of a response."""
        known = self.constitution.config.principles
        return draw_principles(known, self.rounds, seed=self.sampling.seed, response_id=response.id)


@dataclass(frozen=True)
class Question:
    """One thing that is asked of the model."""

    response: Response
    round: int
    principle: Principle
    kind: TurnKind
    request: Request


Asking = Generator[Question, Turn | Failure, Revision]
"""Yields a question, takes its answer or why there is none, and at the end gives what came of the response."""


def revising(reviser: Reviser, response: Response) -> Asking:
    """The rounds of a response. Each starts from the last good answer; one that can not be asked is the last."""
    answer = answer_of(response)
    rounds: list[RevisionRound] = []
    for number, principle in enumerate(reviser.principles(response), start=1):
        done = yield from _round(reviser, response, number, principle, answer)
        rounds.append(done)
        answer = done.text if done.text is not None else answer
        if done.reason in FAILURES:
            break
    return _revision(reviser, response, tuple(rounds))


def answer_of(response: Response) -> str:
    """What a response answers, its thinking set aside."""
    return visible_text(response.text) or response.text


def _round(
    reviser: Reviser, response: Response, number: int, principle: Principle, answer: str
) -> Generator[Question, Turn | Failure, RevisionRound]:
    asked = critique_messages(reviser, response, principle, answer)
    critique = yield _question(reviser, response, number, principle, "critique", asked)
    done = RevisionRound(round=number, principle=principle.name)
    if not isinstance(critique, Turn):
        return done.model_copy(update={"reason": critique})
    text, reason = read_critique(critique.raw)
    done = done.model_copy(update={"critique": critique, "reason": reason})
    if text is None:
        return done
    asked = revision_messages(reviser, response, principle, answer, asked, text)
    revision = yield _question(reviser, response, number, principle, "revision", asked)
    if not isinstance(revision, Turn):
        return done.model_copy(update={"reason": revision})
    text, reason = _read(reviser, response, revision, answer, text, asked)
    return done.model_copy(update={"revision": revision, "text": text, "reason": reason})


def critique_messages(reviser: Reviser, response: Response, principle: Principle, answer: str) -> Messages:
    """The conversation up to the critique: what others wrote is quoted in it, as data."""
    config = reviser.constitution.config
    system = [Message(role="system", content=config.system)] if config.system else []
    values = _values(reviser, response, answer) | {"principle": principle.name, "request": principle.critique}
    return (*system, _user(reviser.constitution.critique, values, response))


def revision_messages(
    reviser: Reviser, response: Response, principle: Principle, answer: str, asked: Messages, critique: str
) -> Messages:
    """The same conversation, with the critique as the assistant's own turn, up to the revision."""
    said = escape_control_tokens(critique, reviser.own_tokens) if _escapes(reviser) else critique
    own = {"principle": principle.name, "request": principle.revision, "critique": said}
    values = _values(reviser, response, answer) | own
    return (
        *asked,
        Message(role="assistant", content=said),
        _user(reviser.constitution.revision, values, response),
    )


def _user(template: Template, values: dict[str, Any], response: Response) -> Message:
    return Message(role="user", content=template.render(values, row=f"prompt {response.prompt.id}"))


def _values(reviser: Reviser, response: Response, answer: str) -> dict[str, Any]:
    """What others wrote as the templates get it, with the defences."""
    config = reviser.constitution.config
    data = shown_data(
        response.prompt,
        {"response": answer},
        fences=config.fences,
        escape=config.escape_control_tokens,
        model=reviser.engine.model,
    )
    return data | {"fences": config.fences}


def _escapes(reviser: Reviser) -> bool:
    return reviser.constitution.config.escape_control_tokens


def _question(
    reviser: Reviser, response: Response, number: int, principle: Principle, kind: TurnKind, messages: Messages
) -> Question:
    """The question with a key that knows everything that could change its answer, but the address of the endpoint."""
    key = content_hash(
        reviser.model_identity,
        reviser.engine.model_dump(mode="json", include=CHANGES_ANSWERS - {"model"}),
        reviser.sampling.model_dump(),
        response.id,
        number,
        kind,
        [message.as_dict() for message in messages],
        length=24,
    )
    request = Request(key=key, messages=messages, sampling=reviser.sampling)
    return Question(response, number, principle, kind, request)


def _read(reviser: Reviser, response: Response, turn: Turn, answer: str, critique: str, asked: Messages) -> Reading:
    """The revised answer; control tokens that stood in the answer were shown escaped, and are themselves again."""
    raw = unescape_control_tokens(turn.raw, reviser.own_tokens) if _escapes(reviser) else turn.raw
    return read_revision(
        raw,
        turn.finish_reason,
        answers=(answer, answer_of(response)),
        critique=critique,
        prompt=conversation_text(response.prompt.messages),
        instructions="\n".join(message.content for message in asked if message.role != "assistant"),
    )


def _revision(reviser: Reviser, response: Response, rounds: tuple[RevisionRound, ...]) -> Revision:
    turns = [turn.id for each in rounds for turn in (each.critique, each.revision) if turn is not None]
    last = next((each for each in reversed(rounds) if each.text is not None), None)
    return Revision(
        id=content_hash(response.id, response.text, reviser.constitution.hash, turns),
        constitution=reviser.constitution.name,
        constitution_hash=reviser.constitution.hash,
        original=response,
        model=reviser.engine.model,
        sampling=reviser.sampling,
        rounds=rounds,
        revision=None if last is None else _response(reviser, response, last),
    )


def _response(reviser: Reviser, response: Response, last: RevisionRound) -> Response:
    turn, text = last.revision, last.text
    assert turn is not None
    assert text is not None
    return Response(
        id=content_hash(response.id, turn.id, text),
        prompt=response.prompt,
        sample_index=response.sample_index,
        messages=(*response.messages[:-1], Message(role="assistant", content=text)),
        model=reviser.answers_as,
        engine=turn.engine,
        sampling=reviser.sampling,
        finish_reason=turn.finish_reason,
        prompt_tokens=turn.prompt_tokens,
        completion_tokens=turn.completion_tokens,
    )
