from collections.abc import Callable

import pytest
from pydantic import TypeAdapter, ValidationError

from rlaif.judges.programs import Check, count_sentences, run_check
from rlaif.types import Response

CHECK = TypeAdapter(Check)


@pytest.mark.parametrize(
    ("check", "text", "passes"),
    [
        ({"check": "words", "min": 2, "max": 3}, "one two three", True),
        ({"check": "words", "min": 2, "max": 3}, "one", False),
        ({"check": "sentences", "max": 1}, 'She said "No." twice to Mr X.', False),
        ({"check": "sentences", "max": 1}, "Tea is a drink.", True),
        ({"check": "regex", "pattern": r"^\d+$"}, "42", True),
        ({"check": "regex", "pattern": r"\bI\b", "found": False}, "As I said", False),
        ({"check": "contains", "text": "TEA"}, "green tea", True),
        ({"check": "contains", "text": "TEA", "ignore_case": False}, "green tea", False),
        ({"check": "equals", "text": "paris"}, " Paris\n", True),
        ({"check": "equals", "metadata": "answer"}, "42", True),
        ({"check": "equals", "metadata": "nothing"}, "42", None),
        ({"check": "finished"}, "x", True),
    ],
)
def test_checks(
    make_response: Callable[..., Response], check: dict[str, object], text: str, passes: bool | None
) -> None:
    response = make_response(text, metadata={"answer": 42})
    assert run_check(CHECK.validate_python(check), response) is passes


def test_an_answer_that_was_cut_is_not_finished_and_unknown_is_not_false(
    make_response: Callable[..., Response],
) -> None:
    finished = CHECK.validate_python({"check": "finished"})
    assert run_check(finished, make_response("x", finish_reason="length")) is False
    assert run_check(finished, make_response("x", finish_reason=None)) is None


def test_a_catastrophic_expression_times_out_as_unknown(make_response: Callable[..., Response]) -> None:
    slow = CHECK.validate_python({"check": "regex", "pattern": r"^(a|aa)+$"})
    assert run_check(slow, make_response("a" * 200 + "b")) is None


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        ("One", 1),
        ("One. Two!", 2),
        ('He said "Go." Then left.', 2),
        ("1. First\n2. Second", 4),
        ("Wait... what?", 2),
    ],
)
def test_sentences(text: str, sentences: int) -> None:
    assert count_sentences(text) == sentences


@pytest.mark.parametrize("check", [{"check": "regex", "pattern": "("}, {"check": "equals"}, {"check": "nope"}])
def test_impossible_checks_are_refused(check: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CHECK.validate_python(check)
