"""IFEval's 25 instructions: hand-made responses for each, the data set's own arguments, and the judge file."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from rlaif.inputs import read_prompts
from rlaif.judges.ensemble import load_ensemble
from rlaif.judges.judge import Item
from rlaif.judges.program_judge import program_judgment
from rlaif.judges.programs import Check, examine, run_check
from rlaif.judges.programs.ifeval import loose_variants
from rlaif.judges.programs.ifeval_instructions import INSTRUCTIONS
from rlaif.judges.programs.tokens import capital_words, punkt_sentences
from rlaif.types import Judgment, Response, Score

CHECK = TypeAdapter(Check)
ENGLISH = "The sun is shining today and the children are playing in the garden near the house."
CASES = [  # instruction, its arguments, responses that follow it, responses that do not
    ("keywords:existence", {"keywords": ["sun", "Rain"]}, ["SUNNY and rain"], ["sun only"]),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "at least"}, ["Tea, steam"], ["tea"]),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "less than"}, ["tea"], ["tea tea"]),
    ("keywords:forbidden_words", {"forbidden_words": ["tea", "milk"]}, ["steam"], ["Tea!", "cold milk"]),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, ["eE"], ["e"]),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, ["a"], ["#"]),
    ("language:response_language", {"language": "de"}, ["Die Sonne scheint und die Kinder spielen.", "123"], [ENGLISH]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ["Some tea. More milk?"],
        ["Some tea"],
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***a***b***"], ["a", "a******b"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["one two"], ["one two three"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["a\n\n'then, b", "a\n\nThen b"],
        ["a\n\nb", "Then a", "a\n\nThen\n\nc", "a\n\n\n\nThen"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b c]"], ["[a]", "[a\n] [b]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["a\np. s. b"], ["PS b"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["a\nP.P.S b"], ["P.S. b"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n  - b"],
        ["* a", "** a\n* b", "* a\n* b\n* c"],
    ),
    ("detectable_format:constrained_response", {}, ["My answer is maybe."], ["maybe"]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** x **b**"],
        ["*a*", "* *\n*a*", "*a\n*"],
    ),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, ["**a**"], ["** **", "a"]),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION2\nb"],
        ["SECTION 1", "Section 1 Section 2"],
    ),
    ("detectable_format:json_format", {}, ['{"a": 1}', '```json\n{"a": 1}\n```'], ["{a}", 'See {"a": 1}']),
    ("detectable_format:title", {}, ["<<a title>>\ntext"], ["<< >>", "<a>", "<<a\nb>>", "<<>>"]),
    ("combination:two_responses", {}, ["a\n******\nb", "a******b******"], ["a", "a******a", "a******b******c"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, [" say hi.\nHi"], ["Hi", "Well: Say hi."]),
    ("startend:end_checker", {"end_phrase": "Good luck!"}, ['Go. "good luck!"'], ["Good luck! Bye"]),
    ("startend:quotation", {}, [' "a" '], ["a", '"', '"a" b']),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["IT'S", "NASA and A-B"],
        ["NASA", "Nasa And"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, "DIE SONNE SCHEINT UND DIE KINDER SPIELEN."]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower()], [ENGLISH, "die sonne scheint und die kinder spielen."]),
    ("punctuation:no_comma", {}, ["a b"], ["a, b"]),
]


@pytest.mark.parametrize(("instruction", "kwargs", "following", "failing"), CASES)
def test_every_instruction(
    make_response: Callable[..., Response],
    instruction: str,
    kwargs: dict[str, object],
    following: list[str],
    failing: list[str],
) -> None:
    fixed = CHECK.validate_python({"check": "ifeval", "instruction": instruction, "kwargs": kwargs})
    listed = CHECK.validate_python({"check": "ifeval"})
    metadata = {"instruction_id_list": [instruction], "kwargs": [{**kwargs, "unused": None}]}
    for text in [*following, *failing, " "]:
        wanted = text in following
        assert run_check(fixed, make_response(text)) is wanted, text
        assert run_check(listed, make_response(text, metadata=metadata)) is wanted, text


def test_every_instruction_has_a_case() -> None:
    assert len(INSTRUCTIONS) == 25
    assert {case[0] for case in CASES} == set(INSTRUCTIONS)


def test_a_keyword_is_an_expression_and_what_is_none_a_text(make_response: Callable[..., Response]) -> None:
    def has(keyword: str, text: str) -> object:
        keys = {"check": "ifeval", "instruction": "keywords:existence", "kwargs": {"keywords": [keyword]}}
        return run_check(CHECK.validate_python(keys), make_response(text))

    assert has("colou?r", "color") is True
    assert has("F(x", "f(x) is fast") is True
    assert has("F(x", "fx is fast") is False
    assert has("^(a|aa)+$", "a" * 200 + "b") is None


def test_loose_drops_asterisks_and_the_outer_lines(make_response: Callable[..., Response]) -> None:
    assert loose_variants("a\n*b*\nc") == ["a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]
    keys = {"check": "ifeval", "instruction": "startend:quotation"}
    strict, loose = CHECK.validate_python(keys), CHECK.validate_python({**keys, "loose": True})
    for text in ('Sure!\n"a"', '*"a"*', 'Here:\n"*a*"\nBye'):
        assert run_check(strict, make_response(text)) is False
        assert run_check(loose, make_response(text)) is True
    assert run_check(loose, make_response('Sure! "a"')) is False


def judge(make_response: Callable[..., Response], text: str, score: str, metadata: dict[str, object]) -> Judgment:
    program = load_ensemble("ifeval").programs[0]
    config = program.config.model_copy(update={"score": score})
    return program_judgment(type(program)("ifeval", config, 1.0), Item((make_response(text, metadata=metadata),)))


def test_the_judge_file_scores_instructions_or_prompts(make_response: Callable[..., Response]) -> None:
    metadata = {
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation", "punctuation:no_comma"],
        "kwargs": [{}, {}, {}],
    }
    judgment = judge(make_response, "no quotes", "mean", metadata)
    assert judgment.outcome == Score(score=2 / 3)
    assert judgment.parts == {
        "0:ifeval:punctuation:no_comma": 1.0,
        "0:ifeval:startend:quotation": 0.0,
        "0:ifeval:punctuation:no_comma#2": 1.0,
    }
    assert judge(make_response, "no quotes", "all", metadata).outcome == Score(score=0)
    assert judge(make_response, '"quotes"', "all", metadata).outcome == Score(score=1)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "no list 'instruction_id_list'"),
        ({"instruction_id_list": ["punctuation:no_comma"]}, "no list 'kwargs'"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [1]}, "not a list of objects"),
        ({"instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]}, "did you mean 'punctuation:no_comma'"),
        ({"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{}]}, "num_words: Field required"),
    ],
)
def test_broken_metadata_is_undecided_and_says_why(
    make_response: Callable[..., Response], metadata: dict[str, object], says: str
) -> None:
    judgment = judge(make_response, "text", "mean", metadata)
    assert judgment.outcome is None
    assert says in judgment.raw


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"instruction": "punctuation:no_coma"}, "did you mean 'punctuation:no_comma'"),
        ({"instruction": "length_constraints:number_words", "kwargs": {"num_words": 3}}, "relation"),
        ({"instruction": "punctuation:no_comma", "kwargs": {"x": 1}}, "no kwargs"),
        (
            {"instruction": "length_constraints:number_words", "kwargs": {"num_words": -1, "relation": "at least"}},
            "num_words",
        ),
        ({"kwargs": {"num_words": 3}}, "without an instruction"),
    ],
)
def test_impossible_checks_are_refused(keys: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError) as error:
        CHECK.validate_python({"check": "ifeval", **keys})
    assert says in str(error.value)


def test_all_instructions_of_the_data_set_are_decided() -> None:
    folder = os.environ.get("RLAIF_GOLD")
    if not folder:
        pytest.skip("RLAIF_GOLD names no folder of gold data")
    prompts = read_prompts(Path(folder) / "ifeval" / "input_data.jsonl").prompts
    assert len(prompts) == 541
    seen = 0
    for prompt in prompts:
        response = Response.model_validate(
            {
                "id": prompt.id,
                "prompt": prompt,
                "sample_index": 0,
                "messages": [{"role": "assistant", "content": ENGLISH}],
                "model": "m",
                "engine": "scripted",
            }
        )
        for loose in (False, True):
            found = examine((CHECK.validate_python({"check": "ifeval", "loose": loose}),), response)
            assert len(found) == len(json.loads(json.dumps(prompt.metadata["instruction_id_list"])))
            assert all(isinstance(finding.value, bool) for finding in found.values()), found
        seen += len(found)
    assert seen == 834


@pytest.mark.parametrize(
    ("text", "sentences"),  # as NLTK 3.10 with the English model counts
    [
        ("", 0),
        ("no mark", 1),
        ("One.\nTwo\nstill two", 2),
        ('He said "Go." Then left.', 2),
        ("Wait... what?", 1),
        ("Dr. Smith went to the U.S. in Jan. 2020.", 1),
        ("He left the U.S. The end.", 2),
        ("1. First item\n2. Second item", 3),
        ("What?! No.", 2),
        ("**Bold.** Plain.", 2),
        ("version 3.5 is out", 1),
    ],
)
def test_sentences_are_counted_as_punkt_does(text: str, sentences: int) -> None:
    assert punkt_sentences(text) == sentences


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("IT'S", 2),
        ("DON'T", 2),
        ("I'm", 1),
        ("A-B", 1),
        ("AND/OR", 1),
        ("(NASA)", 1),
        ("U.S.", 1),
        ("A:B", 2),
        ("1,000", 0),
    ],
)
def test_capital_words_are_counted_as_the_treebank_splits(text: str, words: int) -> None:
    assert capital_words(text) == words
