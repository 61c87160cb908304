"""Replies as servers send them, in all their small differences."""

import json

import pytest

from rlaif.engines.replies import Answer, Fault, NotChat, Reply, read_fault, read_reply


def reply(*choices: dict[str, object], **more: object) -> dict[str, object]:
    return {"choices": list(choices), **more}


def test_answers_are_sorted_by_index_and_counted() -> None:
    first = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    second = {"index": 1, "message": {"content": "b"}, "finish_reason": "length"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    assert read_reply(reply(second, first, usage=usage)) == Reply(
        (Answer(0, "a", "stop", ()), Answer(1, "b", "length", ())), 7, 3
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "yes"}, "yes"),
        ({"content": None}, ""),
        ({"content": None, "refusal": "I will not"}, "I will not"),
        ({"content": "yes", "reasoning_content": "hm"}, "yes"),
        (
            {
                "content": [
                    {"type": "thinking", "text": "hm"},
                    {"type": "text", "text": "ye"},
                    {"type": "text", "text": "s"},
                ]
            },
            "yes",
        ),
    ],
)
def test_the_text_is_the_answer_without_reasoning(message: dict[str, object], text: str) -> None:
    [answer] = read_reply(reply({"message": message})).answers
    assert (answer.index, answer.text, answer.finish_reason) == (0, text, None)


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        (None, ()),
        ({"content": None}, ()),
        ({"content": []}, ()),
        ({"content": [{"token": "A", "logprob": -0.1, "top_logprobs": None}]}, ()),
        (
            {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": [{"token": "A", "logprob": 0}]}, {}]},
            (("A", 0.0),),
        ),
    ],
)
def test_the_candidates_of_the_first_token(logprobs: object, expected: object) -> None:
    [answer] = read_reply(reply({"message": {"content": "A"}, "logprobs": logprobs})).answers
    assert answer.first_tokens == expected


def test_unknown_counts_are_none() -> None:
    found = read_reply(reply({"message": {"content": "A"}}, usage=None))
    assert (found.prompt_tokens, found.completion_tokens) == (None, None)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"choices": []},
        {"choices": None, "error": {"message": "overloaded"}},
        {"choices": "text"},
        {"choices": [None]},
        {"choices": [{"text": "a completion, not a chat"}]},
        {"choices": [{"message": {"content": [3]}}]},
        {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": [{"token": "A"}]}]}}]},
    ],
)
def test_what_is_no_chat_completion_is_said_to_be_none(data: dict[str, object]) -> None:
    with pytest.raises(NotChat, match="a reply"):
        read_reply(data)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": "no\n such  model", "code": "c", "param": "p"}}, Fault("no such model", "c", "p")),
        ({"object": "error", "message": "too long", "code": 400, "param": None}, Fault("too long")),
        ({"error": "model 'x' not found"}, Fault("model 'x' not found")),
        ({"detail": [{"loc": ["body", "seed"]}]}, Fault('{"detail": [{"loc": ["body", "seed"]}]}')),
        (["odd"], Fault("['odd']")),
    ],
)
def test_faults_of_several_servers(body: object, expected: Fault) -> None:
    assert read_fault(400, json.dumps(body).encode()) == expected


def test_a_fault_that_is_no_json_is_shortened_to_a_line() -> None:
    assert read_fault(502, b"<html>\nBad gateway\xff") == Fault("<html> Bad gateway�")
    assert read_fault(503, b"") == Fault("HTTP 503 without a word")
    assert len(read_fault(500, b"x" * 10_000).message) < 600
