"""Length and language checks, what a program judgment keeps, and every check on any text."""

import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rlaif.judges.config import ProgramConfig
from rlaif.judges.judge import Item
from rlaif.judges.program_judge import ProgramJudge, program_judgment
from rlaif.judges.programs import Check, examine, run_check
from rlaif.judges.programs.ifeval_instructions import INSTRUCTIONS
from rlaif.types import Message, Prompt, Response, Score

CHECK = TypeAdapter(Check)
IN_LANGUAGES = {
    "en": "The sun is shining today and the children are playing in the garden near the house.",
    "de": "Heute scheint die Sonne, und die Kinder spielen im Garten neben dem Haus.",
    "it": "Oggi splende il sole e i bambini giocano nel giardino vicino alla casa.",
    "pt": "Hoje o sol brilha e as crianças brincam no jardim ao lado da casa.",
    "fi": "Tänään aurinko paistaa ja lapset leikkivät talon vieressä olevassa puutarhassa.",
    "ru": "Сегодня светит солнце, и дети играют в саду рядом с домом.",
    "bg": "Днес слънцето грее и децата играят в градината до къщата.",
    "ar": "الشمس مشرقة اليوم والأطفال يلعبون في الحديقة القريبة من البيت.",
    "hi": "आज धूप निकली है और बच्चे घर के पास वाले बगीचे में खेल रहे हैं।",
    "kn": "ಇಂದು ಸೂರ್ಯ ಬೆಳಗುತ್ತಿದ್ದಾನೆ ಮತ್ತು ಮಕ್ಕಳು ಮನೆಯ ಹತ್ತಿರದ ತೋಟದಲ್ಲಿ ಆಡುತ್ತಿದ್ದಾರೆ.",
    "ko": "오늘은 햇빛이 비치고 아이들은 집 근처 정원에서 놀고 있습니다.",
    "zh": "今天阳光明媚，孩子们在房子附近的花园里玩耍。",
}


@pytest.mark.parametrize(
    ("check", "text", "passes"),
    [
        ({"check": "characters", "min": 3, "max": 3}, " añb\n", True),
        ({"check": "characters", "max": 3}, "abcd", False),
        ({"check": "paragraphs", "min": 2, "max": 2}, "a\nb\n\n \n\nc\n", True),
        ({"check": "paragraphs", "min": 1}, "\n \n", False),
        ({"check": "equals", "metadata": "names"}, "leiden ", True),
        ({"check": "equals", "metadata": "names"}, "Delft", False),
        ({"check": "language", "language": "en"}, "1 2 3", None),
    ],
)
def test_checks(
    make_response: Callable[..., Response], check: dict[str, object], text: str, passes: bool | None
) -> None:
    response = make_response(text, metadata={"names": ["Leyden", "Leiden"]})
    assert run_check(CHECK.validate_python(check), response) is passes


@pytest.mark.parametrize("language", IN_LANGUAGES)
def test_languages(make_response: Callable[..., Response], language: str) -> None:
    check = CHECK.validate_python({"check": "language", "language": language})
    for other, text in IN_LANGUAGES.items():
        assert run_check(check, make_response(text)) is (other == language)


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ({"check": "language", "language": "english"}, "unknown language"),
        ({"check": "words", "min": 3, "max": 2}, "nothing could pass"),
        ({"check": "regex", "pattern": "a", "seconds": 0}, "greater than 0"),
    ],
)
def test_impossible_checks_are_refused(check: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError) as error:
        CHECK.validate_python(check)
    assert says in str(error.value)


def test_a_time_out_is_told(make_response: Callable[..., Response]) -> None:
    check = CHECK.validate_python({"check": "regex", "pattern": r"^(a|aa)+$", "seconds": 0.05})
    start = time.monotonic()
    finding = examine((check,), make_response("a" * 200 + "b"))["0:regex"]
    assert finding.value is None
    assert "timed out after 0.05 s" in finding.detail
    assert time.monotonic() - start < 0.9


def judge(*checks: dict[str, object]) -> ProgramJudge:
    return ProgramJudge("p", ProgramConfig.model_validate({"kind": "program", "checks": checks, "score": "mean"}), 1.0)


def test_a_judgment_keeps_every_part_and_why(make_response: Callable[..., Response]) -> None:
    program = judge({"check": "words", "max": 1}, {"check": "contains", "text": "b"})
    judgment = program_judgment(program, Item((make_response("a b"),)))
    assert judgment.parts == {"0:words": 0.0, "1:contains": 1.0}
    assert judgment.outcome == Score(score=0.5)
    assert json.loads(judgment.raw)["0:words"] == {"passes": False, "why": "2 words, 0 to 1 allowed"}


def test_an_undecided_part_leaves_no_outcome_and_another_answer_is_another_judgment(
    make_response: Callable[..., Response],
) -> None:
    program = judge({"check": "words"}, {"check": "numeric", "metadata": "answer"})
    without = program_judgment(program, Item((make_response("7"),)))
    assert (without.outcome, without.reason) == (None, "undecided")
    assert without.parts == {"0:words": 1.0, "1:numeric": None}
    assert "the prompt's metadata has no 'answer'" in without.raw
    right = program_judgment(program, Item((make_response("7", metadata={"answer": 7}),)))
    assert right.outcome == Score(score=1)
    assert right.id != without.id


def test_the_packages_that_decide_are_part_of_the_judge() -> None:
    assert judge({"check": "words"}).packages == []
    assert [name.split()[0] for name in judge({"check": "ifeval"}).packages] == ["py3langid"]


KWARGS = {
    "relation": "at least",
    "capital_relation": "less than",
    "let_relation": "at least",
    "letter": "e",
    "language": "en",
    "keywords": ["a", "c++"],
    "forbidden_words": ["a", "(b"],
    "keyword": "a",
    "postscript_marker": "P.S.",
    "section_spliter": "Section",
    "prompt_to_repeat": "a",
    "end_phrase": "a",
    "first_word": "a",
    "nth_paragraph": 1,
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "number", "multipleOf": 0.1}}, "additionalProperties": False}
EVERY = [
    {"check": "words"},
    {"check": "sentences"},
    {"check": "characters"},
    {"check": "paragraphs"},
    {"check": "finished"},
    {"check": "regex", "pattern": r"\w+ \d"},
    {"check": "contains", "text": "ß"},
    {"check": "equals", "metadata": "a"},
    {"check": "numeric", "number": 1},
    {"check": "numeric", "metadata": "a"},
    *({"check": "numeric", "number": 1, "read": read} for read in ("last", "gsm8k", "boxed")),
    {"check": "json", "json_schema": SCHEMA},
    {"check": "language", "language": "en"},
    {"check": "ifeval"},
    *(
        {
            "check": "ifeval",
            "instruction": name,
            "loose": True,
            "kwargs": {key: KWARGS.get(key, 2) for key in instruction.kwargs.model_fields},
        }
        for name, instruction in INSTRUCTIONS.items()
    ),
]
CHECKS = tuple(CHECK.validate_python(check) for check in EVERY)
PIECES = st.sampled_from(
    ("***", "******", "\n\n", "\n", "*", "-", "[", "]", "<<", ">>", "```", "```json\n", "{", "}", '"', "'", ",", ".", "?", "!",
     "..", "P.S.", "####", "1", "1,000", "/", "%", "e9", "\\boxed{", "$", "\\frac{1}{2}", "Section", "A", "b", "ß", "İ", " ",
     '{"a":1}', "\u2028", "\x00", "\ud800", "🙂", "．")
)  # fmt: skip
TEXTS = st.text() | st.lists(PIECES, max_size=40).map("".join) | st.lists(PIECES, max_size=40).map(" ".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def response_of(text: str, metadata: dict[str, object]) -> Response:
    prompt = Prompt(id="p", messages=(Message(role="user", content="q"),), metadata=metadata)
    turn = Message.model_construct(role="assistant", content=text)  # a lone surrogate, too, as an endpoint may send
    return Response.model_construct(id="r", prompt=prompt, messages=(turn,), finish_reason=None)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, value=VALUES, instructions=VALUES, kwargs=VALUES)
def test_no_text_and_no_metadata_breaks_a_check(text: str, value: object, instructions: object, kwargs: object) -> None:
    metadata = {"a": value, "instruction_id_list": instructions, "kwargs": kwargs}
    for name, finding in examine(CHECKS, response_of(text, metadata)).items():
        assert finding.value is None or 0 <= finding.value <= 1, name
        assert finding.detail


@pytest.mark.parametrize(
    "piece", ["\n", "*", "[", "<<", "#", "1,", "\\boxed{", "{", "`", ".", "a ", "- \n", "'", "\\frac{1}{", "9", "9."]
)
def test_long_repetitions_take_no_long_time(piece: str) -> None:
    start = time.monotonic()
    examine(CHECKS, response_of(piece * (40_000 // len(piece)), {"a": "1"}))
    assert time.monotonic() - start < 5


def test_nothing_heavy_is_imported_with_the_package() -> None:
    code = "import rlaif.judges.programs, sys; print([m for m in ('py3langid', 'jsonschema', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
