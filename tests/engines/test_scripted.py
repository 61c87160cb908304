"""The scripted engine scores conversations as it answers prompts: by a function."""

from collections.abc import Callable, Iterator

import pytest
from pydantic import ValidationError

from rlaif.engines.base import ScoreCompletion, ScoreRequest
from rlaif.engines.scripted import ScriptedEngine
from rlaif.errors import EngineError
from rlaif.types import Message


def conversation(key: str, answer: str) -> ScoreRequest:
    return ScoreRequest(
        key=key, messages=(Message(role="user", content="Hi"), Message(role="assistant", content=answer))
    )


async def scores(
    function: Callable[[ScoreRequest], float | ScoreCompletion | Exception], requests: Iterator[ScoreRequest]
) -> list[ScoreCompletion]:
    return [completion async for completion in ScriptedEngine(score=function).score_many(requests)]


async def test_scores_come_from_the_function() -> None:
    found = await scores(
        lambda r: len(r.messages[-1].content) / 2, iter([conversation("a", "x"), conversation("b", "")])
    )
    assert [(completion.key, completion.reward, completion.failure) for completion in found] == [
        ("a", 0.5, None), ("b", 0.0, None)
    ]  # fmt: skip


async def test_a_script_can_fail_one_conversation_or_stop() -> None:
    def over_long(request: ScoreRequest) -> ScoreCompletion:
        return ScoreCompletion(key=request.key, failure="over-long", detail="9000 tokens")

    [failed] = await scores(over_long, iter([conversation("a", "x")]))
    assert (failed.reward, failed.failure) == (None, "over-long")
    with pytest.raises(EngineError, match="gone"):
        await scores(lambda request: EngineError("gone"), iter([conversation("a", "x")]))


async def test_conversations_are_taken_one_by_one() -> None:
    engine = ScriptedEngine(score=lambda request: 1.0)
    async for completion in engine.score_many(conversation(str(k), "x") for k in range(5)):
        assert len(engine.score_requests) == int(completion.key) + 1


async def test_what_it_has_no_function_for_it_refuses() -> None:
    answers, scorer = ScriptedEngine(lambda request, index: "yes"), ScriptedEngine(score=lambda request: 1.0)
    assert (answers.capabilities.scores, scorer.capabilities.scores) == (False, True)
    with pytest.raises(EngineError, match="only answers"):
        [completion async for completion in answers.score_many([conversation("a", "x")])]
    with pytest.raises(EngineError, match="only scores"):
        [completion async for completion in scorer.complete_many([])]


def test_a_conversation_to_score_ends_with_an_answer_and_a_reward_is_a_number() -> None:
    question, answer = Message(role="user", content="Hi"), Message(role="assistant", content="Ho")
    for messages in ((), (question,), (answer,), (question, answer, question)):
        with pytest.raises(ValidationError, match="ends with the assistant's answer"):
            ScoreRequest(key="a", messages=messages)
    with pytest.raises(ValidationError, match="finite"):
        ScoreCompletion(key="a", reward=float("nan"))
