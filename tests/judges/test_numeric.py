"""Numeric answers: hand-made ones, and GSM8K's own labelled solutions."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from rlaif.judges.programs import Check, run_check
from rlaif.judges.programs.numeric import read_number
from rlaif.types import Response

CHECK = TypeAdapter(Check)


@pytest.mark.parametrize(
    ("text", "read", "number"),
    [
        ("She has 3 + 4 = 7 apples.", "auto", "7"),
        ("The answer is **1,234,567.50**.", "auto", "2469135/2"),
        ("about 1 000 people", "auto", "0"),  # a plain space does not join digits
        ("about 1\u202f000 people", "auto", "1000"),
        ("$-5 or -$5", "auto", "-5"),
        ("it falls by −3.5", "auto", "-7/2"),
        ("10-3", "auto", "3"),
        ("x2 and H2O", "auto", None),
        ("1/3", "auto", "1/3"),
        ("1 1/2 cups", "auto", "3/2"),
        (r"\frac{1}{4}", "auto", "1/4"),
        ("1/0", "auto", None),
        ("12.5%", "auto", "25/2%"),
        ("12 percent", "auto", "12%"),
        ("6.02e23", "auto", "602000000000000000000000"),
        ("1e999999999", "auto", "1"),
        (r"So \boxed{42}, not 43", "auto", "42"),
        (r"\boxed{1} then \boxed{\frac{3}{4}}.", "auto", "3/4"),
        (r"\boxed{1{,}200}", "auto", "1200"),
        (r"\boxed{unclosed 7", "auto", "7"),
        (r"\boxed{none} 7", "auto", None),
        ("no box 7", "boxed", None),
        ("3 eggs\n#### 18\nQuestion: 5 hens?", "auto", "18"),
        ("#### Step 1\nwe get 20", "auto", "20"),
        ("#### 1,000 dollars\nNote: 3", "gsm8k", "1000"),
        ("18", "gsm8k", None),
        ("#### 18\n7", "last", "7"),
        ("", "auto", None),
    ],
)
def test_reading(text: str, read: str, number: str | None) -> None:
    found = read_number(text, read)  # type: ignore[arg-type]
    assert (None if found is None else str(found)) == number


@pytest.mark.parametrize(
    ("check", "text", "passes"),
    [
        ({"number": 72}, "72.0", True),
        ({"number": 72}, "72.01", False),
        ({"number": 72, "tolerance": 0.02}, "72.01", True),
        ({"number": 1000, "relative_tolerance": 0.01}, "991", True),
        ({"number": 1000, "relative_tolerance": 0.01}, "989", False),
        ({"number": 0.1}, "1/10", True),
        ({"number": "1/3", "tolerance": 0.001}, "0.333", True),
        ({"number": 12}, "12%", True),
        ({"number": 0.12}, "12%", True),
        ({"number": "12%"}, "0.12", True),
        ({"number": "12%"}, "0.12%", False),
        ({"number": 72}, "I do not know.", False),
        ({"metadata": "answer"}, "It is 18.", True),
        ({"metadata": "count"}, "It is 5.", True),
        ({"metadata": "either"}, "It is 5.", True),
        ({"metadata": "nothing"}, "It is 5.", None),
        ({"metadata": "words"}, "It is 5.", None),
        ({"metadata": "flag"}, "1", None),
        ({"metadata": "null"}, "1", None),
    ],
)
def test_comparing(
    make_response: Callable[..., Response], check: dict[str, object], text: str, passes: bool | None
) -> None:
    metadata = {"answer": "2*9=18\n#### 18", "count": 5, "either": [4, "5.0"], "words": "x", "flag": True, "null": None}
    assert (
        run_check(CHECK.validate_python({"check": "numeric", **check}), make_response(text, metadata=metadata))
        is passes
    )


@pytest.mark.parametrize(
    "check", [{}, {"number": 1, "metadata": "a"}, {"number": "many"}, {"number": 1, "tolerance": -1}]
)
def test_impossible_checks_are_refused(check: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CHECK.validate_python({"check": "numeric", **check})


def _solutions() -> list[tuple[str, str, bool]]:
    """Of OpenAI's example solutions by four models: the gold solution, the model's, and whether it was counted right."""
    folder = os.environ.get("RLAIF_GOLD")
    if not folder:
        pytest.skip("RLAIF_GOLD names no folder of gold data")
    lines = (Path(folder) / "gsm8k" / "example_model_solutions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        (row["ground_truth"], given["solution"], given["is_correct"])
        for row in rows
        for given in row.values()
        if isinstance(given, dict)
    ]


def test_agrees_with_the_labels_of_gsm8ks_model_solutions(make_response: Callable[..., Response]) -> None:
    check = CHECK.validate_python({"check": "numeric", "metadata": "answer"})
    solutions = _solutions()
    agree = [
        run_check(check, make_response(given, metadata={"answer": gold})) is is_correct
        for gold, given, is_correct in solutions
    ]
    assert len(agree) > 5000
    assert all(agree)
