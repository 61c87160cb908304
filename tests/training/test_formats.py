"""Every format of training data: what its rows become for each kind of method, and what is refused or left out."""

import gzip
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import DataError
from rlaif.training.formats import Example, Kind, read_examples
from rlaif.types import Message, PreferencePair


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def write(folder: Path, *rows: Any, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(folder: Path, row: Any, kind: Kind) -> list[Example]:
    return list(read_examples(write(folder, row), kind))


def texts(turns: tuple[Message, ...]) -> list[str]:
    return [f"{turn.role}: {turn.content}" for turn in turns]


HH = {
    "chosen": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: q\n\nAssistant: yes\n\nof course",
    "rejected": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: q\n\nAssistant: no",
}
TURNS = [user("hi"), assistant("hello"), user("q")]
PAIRS = {
    "explicit": {"prompt": TURNS, "chosen": [assistant("yes")], "rejected": [assistant("no")]},
    "explicit, answers as texts": {"prompt": TURNS, "chosen": "yes", "rejected": "no"},
    "explicit, prompt repeated": {
        "prompt": TURNS,
        "chosen": [*TURNS, assistant("yes")],
        "rejected": [*TURNS, assistant("no")],
    },
    "implicit": {"chosen": [*TURNS, assistant("yes")], "rejected": [*TURNS, assistant("no")]},
    "one conversation longer": {
        "chosen": [*TURNS, assistant("yes"), user("thanks")],
        "rejected": [*TURNS, assistant("no")],
    },
    "prompt as text, answers as conversations": {
        "prompt": "q",
        "prompt_id": "1",
        "messages": [*TURNS, assistant("yes")],
        "chosen": [*TURNS, assistant("yes")],
        "rejected": [*TURNS, assistant("no")],
    },
    "dialogues as texts": {**HH, "chosen": HH["chosen"].replace("\n\nof course", "")},
    "dialogue as prompt": {"prompt": HH["rejected"].removesuffix(" no"), "chosen": " yes", "rejected": " no"},
    "instruction": {
        "instruction": "q",
        "input": "",
        "history": [["hi", "hello"]],
        "chosen": "yes",
        "rejected": "no",
    },
    "ShareGPT": {
        "conversations": [
            {"from": "human", "value": "hi"},
            {"from": "gpt", "value": "hello"},
            {"from": "human", "value": "q"},
        ],
        "chosen": {"from": "gpt", "value": "yes"},
        "rejected": {"from": "gpt", "value": "no"},
    },
}


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_every_form_of_a_pair_is_the_same_example(tmp_path: Path, row: dict[str, Any]) -> None:
    (example,) = read(tmp_path, row, "pairs")
    assert texts(example.prompt) == ["user: hi", "assistant: hello", "user: q"]
    assert [texts(turns) for turns in example.completions] == [["assistant: yes"], ["assistant: no"]]
    assert (example.id, example.cut, example.skip_reason) == ("line-1", (False, False), "")
    (answer,) = read(tmp_path, row, "answers")
    assert (answer.prompt, answer.completions) == (example.prompt, example.completions[:1])
    assert read(tmp_path, row, "conversations") == [answer]
    desirable, undesirable = read(tmp_path, row, "labels")
    assert (desirable.id, desirable.label, desirable.completions) == ("line-1/chosen", True, example.completions[:1])
    assert (undesirable.id, undesirable.label) == ("line-1/rejected", False)
    assert undesirable.completions == example.completions[1:]


def test_paragraphs_stay_in_their_turn(tmp_path: Path) -> None:
    (example,) = read(tmp_path, HH, "pairs")
    assert texts(example.completions[0]) == ["assistant: yes\n\nof course"]


def test_a_prompt_ends_before_the_first_assistant_turn_that_differs(tmp_path: Path) -> None:
    """Though the user's second turn is the same in both, it follows different answers and belongs to each."""
    chosen = [user("u1"), assistant("a1"), user("u2"), assistant("good")]
    rejected = [user("u1"), assistant("b1"), user("u2"), assistant("bad")]
    (example,) = read(tmp_path, {"chosen": chosen, "rejected": rejected}, "pairs")
    assert texts(example.prompt) == ["user: u1"]
    assert texts(example.completions[0]) == ["assistant: a1", "user: u2", "assistant: good"]
    assert texts(example.completions[1]) == ["assistant: b1", "user: u2", "assistant: bad"]


@pytest.mark.parametrize("differing", ["user", "tool"])
def test_a_completion_always_begins_with_the_assistant(tmp_path: Path, differing: str) -> None:
    def conversation(text: str) -> list[dict[str, Any]]:
        return [user("u1"), assistant("a1"), {"role": differing, "content": text}, assistant("end")]

    row = {"chosen": conversation("x"), "rejected": conversation("y")}
    (example,) = read(tmp_path, row, "pairs")
    assert texts(example.prompt) == ["user: u1"]
    assert texts(example.completions[1]) == ["assistant: a1", f"{differing}: y", "assistant: end"]


def test_a_whole_answer_that_begins_the_other_is_a_pair(tmp_path: Path) -> None:
    row = {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("a"), user("w"), assistant("b")]}
    (example,) = read(tmp_path, row, "pairs")
    assert texts(example.prompt) == ["user: q"]
    assert [len(turns) for turns in example.completions] == [1, 3]


UNUSABLE = [
    ({"chosen": [user("x")], "rejected": [user("x")]}, "share no prompt"),
    ({"chosen": [user("x"), assistant("a")], "rejected": [user("y"), assistant("b")]}, "share no prompt"),
    ({"prompt": [user("q"), assistant("So")], "chosen": "a", "rejected": "b"}, "would have to continue"),
    (
        {"prompt": "q", "chosen": [user("x"), assistant("a")], "rejected": [user("x"), assistant("b")]},
        "neither the assistant's nor the prompt's",
    ),
]


@pytest.mark.parametrize(("row", "reason"), UNUSABLE)
def test_pairs_that_can_not_be_used_say_why(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    for kind in ("pairs", "answers", "labels"):
        assert all(reason in example.skip_reason for example in read(tmp_path, row, kind))  # type: ignore[arg-type]


def test_margins_and_confidences_come_along(tmp_path: Path) -> None:
    pair = PAIRS["explicit"]
    (given,) = read(
        tmp_path, {**pair, "margin": 2, "confidence": 0.75, "score_chosen": 9, "score_rejected": 1}, "pairs"
    )
    assert (given.margin, given.confidence) == (2.0, 0.75)
    (scored,) = read(tmp_path, {**pair, "score_chosen": 8.5, "score_rejected": 6}, "pairs")
    assert (scored.margin, scored.confidence) == (2.5, None)
    (absent,) = read(tmp_path, {**pair, "margin": None, "confidence": None}, "pairs")
    assert (absent.margin, absent.confidence) == (None, None)
    labelled = read(tmp_path, {**pair, "margin": 2, "confidence": 0.75}, "labels")
    assert [(example.margin, example.confidence) for example in labelled] == [(None, 0.75)] * 2


def test_an_equal_pair_gives_no_labels(tmp_path: Path) -> None:
    for example in read(tmp_path, {"prompt": "q", "chosen": "a", "rejected": "a"}, "labels"):
        assert example.skip_reason == "chosen and rejected are the same text"


def test_our_own_pairs_and_responses_are_read(tmp_path: Path) -> None:
    pair = PreferencePair(
        id="p", prompt_id="q", chosen_id="a", rejected_id="b", prompt=(Message(role="user", content="hi"),),
        chosen=(Message(role="assistant", content="yes"),), rejected=(Message(role="assistant", content="no"),),
        margin=0.5, confidence=0.9, rejected_finish_reason="length",
    )  # fmt: skip
    (example,) = read(tmp_path, pair.model_dump(mode="json"), "pairs")
    assert (example.id, example.cut, example.margin, example.confidence) == ("p", (False, True), 0.5, 0.9)
    assert [example.cut for example in read(tmp_path, pair.model_dump(mode="json"), "labels")] == [(False,), (True,)]


def test_responses_as_generated_are_answers(tmp_path: Path, make_response: Any) -> None:
    response = make_response("yes", prompt="hi", finish_reason="length")
    (example,) = read(tmp_path, response.model_dump(mode="json"), "answers")
    assert (texts(example.prompt), texts(example.completions[0])) == (["user: hi"], ["assistant: yes"])
    assert (example.id, example.cut) == (response.id, (True,))


def completion(response: str, fine: Any, overall: Any) -> dict[str, Any]:
    """As in openbmb/UltraFeedback."""
    rating = {"Rating": "4", "Rationale": "because"}
    return {
        "annotations": {"helpfulness": rating, "honesty": rating}, "custom_system_prompt": "As an AI, ...",
        "model": "alpaca-7b", "principle": "helpfulness", "response": response, "critique": "good",
        "fine-grained_score": fine, "overall_score": overall,
    }  # fmt: skip


def ultrafeedback(*completions: Any, instruction: str = "q") -> dict[str, Any]:
    return {
        "source": "evol_instruct", "instruction": instruction, "models": ["alpaca-7b"], "completions": list(completions),
        "correct_answers": ["None"], "incorrect_answers": ["None"],
    }  # fmt: skip


FOUR = [
    completion("worst", 1.5, 10.0),
    completion("best", 4.5, 8.0),
    completion("mean", 3, 6.5),
    completion("tie", 4.5, 9),
]


def test_of_scored_completions_the_best_and_one_that_is_worse_are_a_pair(tmp_path: Path) -> None:
    """The overall_score of 10 does not count where there are ratings; the first of two best is chosen."""
    (example,) = read(tmp_path, ultrafeedback(*FOUR), "pairs")
    assert (texts(example.prompt), texts(example.completions[0])) == (["user: q"], ["assistant: best"])
    (rejected,) = example.completions[1]
    assert example.margin == {"worst": 3.0, "mean": 1.5}[rejected.content]
    assert read(tmp_path, ultrafeedback(*FOUR), "pairs") == [example]
    (answer,) = read(tmp_path, ultrafeedback(*FOUR), "answers")
    assert (answer.completions, answer.skip_reason) == (example.completions[:1], "")
    labelled = read(tmp_path, ultrafeedback(*FOUR), "labels")
    assert [(one.completions[0], one.label) for one in labelled] == [
        (example.completions[0], True),
        (example.completions[1], False),
    ]
    rows = [ultrafeedback(*FOUR, instruction=f"q{number}") for number in range(50)]
    drawn = [example.completions[1][0].content for example in read_examples(write(tmp_path, *rows), "pairs")]
    assert 10 < drawn.count("worst") < 40
    assert set(drawn) == {"worst", "mean"}


RANKED = {
    "overall score where ratings are missing": ([completion("a", None, 3), completion("b", None, 7)], ("b", "a", 4.0)),
    "only completions that have the score": (
        [completion("c", float("nan"), 1), completion("a", 2, 3), completion("b", None, 10), completion("d", 4, 7)],
        ("d", "a", 2.0),
    ),
    "another text than the chosen one": (
        [completion("Yes", 5, 9), completion("Yes", 1, 9), completion("No", 2, 9), completion("Yes", 3, 9)],
        ("Yes", "No", 3.0),
    ),
}


@pytest.mark.parametrize(("completions", "expected"), RANKED.values(), ids=RANKED)
def test_which_completions_make_the_pair(
    tmp_path: Path, completions: list[Any], expected: tuple[str, str, float]
) -> None:
    rows = [ultrafeedback(*completions, instruction=f"q{number}") for number in range(9)]
    for example in read_examples(write(tmp_path, *rows), "pairs"):
        assert (*[turns[0].content for turns in example.completions], example.margin) == expected


NO_PAIR = [
    ([completion("a", 3, 1), completion("b", 3, 2)], "all have the same score"),
    ([completion("a", 3, 1)], "fewer than two of its completions have a response and a score .fine-grained_score or "),
    ([], "fewer than two"),
    ([completion("a", "N/A", None), completion("b", 4, None)], "fewer than two"),
]


@pytest.mark.parametrize(("completions", "reason"), NO_PAIR)
@pytest.mark.parametrize("kind", ["pairs", "labels", "answers", "conversations"])
def test_completions_of_which_none_is_better_are_left_out(
    tmp_path: Path, kind: Kind, completions: list[Any], reason: str
) -> None:
    for example in read(tmp_path, ultrafeedback(*completions), kind):
        assert re.search(reason, example.skip_reason)


def test_scored_completions_in_a_table_are_the_same(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [ultrafeedback(*FOUR), ultrafeedback(completion("a", None, 3), completion("b", None, 7))]
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    from_table = [(e.prompt, e.completions, e.margin) for e in read_examples(tmp_path / "a.parquet", "pairs")]
    assert from_table == [(e.prompt, e.completions, e.margin) for e in read_examples(write(tmp_path, *rows), "pairs")]


SPOKEN = "\n\nHuman: hi\n\nAssistant: hello"
SILENT = "\n\nHuman: hi\n\nHuman: anyone?"


@pytest.mark.parametrize(("chosen", "rejected"), [(SPOKEN, SILENT), (SILENT, SPOKEN), (SILENT, SILENT)])
@pytest.mark.parametrize("kind", ["pairs", "labels", "answers", "conversations"])
def test_a_dialogue_without_an_assistant_turn_is_left_out(
    tmp_path: Path, kind: Kind, chosen: str, rejected: str
) -> None:
    path = write(tmp_path, {"chosen": chosen, "rejected": rejected}, HH)
    examples = list(read_examples(path, kind))
    silent = [example for example in examples if example.skip_reason]
    assert 0 < len(silent) == len(examples) / 2
    assert all("a dialogue without an assistant turn" in example.skip_reason for example in silent)


BYE = [user("hi"), assistant("yes"), user("bye")]
GOING_ON: list[tuple[Kind, dict[str, Any], list[bool]]] = [
    ("pairs", PAIRS["one conversation longer"], [True]),
    ("pairs", {"prompt": "hi", "chosen": [assistant("yes")], "rejected": [assistant("no"), user("bye")]}, [True]),
    ("pairs", {**HH, "rejected": HH["rejected"] + "\n\nHuman: bye"}, [True]),
    ("pairs", HH, [False]),
    ("labels", PAIRS["one conversation longer"], [True, False]),
    ("labels", {"messages": BYE, "label": False}, [True]),
    ("answers", PAIRS["one conversation longer"], [True]),
    ("answers", {"prompt": "hi", "chosen": "yes", "rejected": [assistant("no"), user("bye")]}, [False]),
    ("answers", {"messages": BYE}, [True]),
    ("answers", {"prompt": "hi", "completion": BYE[1:]}, [True]),
    ("conversations", {"messages": [*BYE, assistant("a"), user("b"), {"role": "tool", "content": "c"}]}, [True]),
    ("conversations", {"messages": BYE[:2]}, [False]),
]


@pytest.mark.parametrize(("kind", "row", "shortened"), GOING_ON)
def test_turns_after_the_last_answer_are_told(
    tmp_path: Path, kind: Kind, row: dict[str, Any], shortened: list[bool]
) -> None:
    examples = read(tmp_path, row, kind)
    assert [(example.shortened, example.skip_reason) for example in examples] == [(is_so, "") for is_so in shortened]


ANSWERS = [
    {"prompt": "hi", "completion": "yes"},
    {"prompt": [user("hi")], "completion": [assistant("yes")]},
    {"prompt": [user("hi")], "completion": [user("hi"), assistant("yes")]},
    {"messages": [user("hi"), assistant("yes")]},
    {"prompt": "hi", "prompt_id": "1", "messages": [user("hi"), assistant("yes")]},
    {"conversations": [user("hi"), assistant("yes")]},
    {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
    {"instruction": "hi", "input": "", "output": "yes"},
    {"instruction": "", "input": "hi", "output": "yes"},
    {"prompt": "hi", "completion": "yes", "label": True},
]


@pytest.mark.parametrize("row", ANSWERS)
def test_answers(tmp_path: Path, row: dict[str, Any]) -> None:
    for kind in ("answers", "conversations"):
        (example,) = read(tmp_path, row, kind)  # type: ignore[arg-type]
        assert (texts(example.prompt), [texts(c) for c in example.completions]) == (["user: hi"], [["assistant: yes"]])
        assert (example.cut, example.skip_reason, example.label) == ((False,), "", None)


def test_instructions_with_system_input_and_history(tmp_path: Path) -> None:
    row = {"instruction": "Translate", "input": "Haus", "system": "s", "history": [["q", "a"]], "output": "house"}
    (example,) = read(tmp_path, row, "answers")
    assert texts(example.prompt) == ["system: s", "user: q", "assistant: a", "user: Translate\n\nHaus"]


def test_conversations_learn_every_answer_and_answers_the_last(tmp_path: Path) -> None:
    turns = [user("u1"), assistant("a1"), user("u2"), assistant("a2"), user("bye")]
    row = {"messages": [{"role": "system", "content": "s"}, *turns]}
    (all_turns,) = read(tmp_path, row, "conversations")
    assert texts(all_turns.prompt) == ["system: s", "user: u1"]
    assert texts(all_turns.completions[0]) == ["assistant: a1", "user: u2", "assistant: a2"]
    (last,) = read(tmp_path, row, "answers")
    assert len(last.prompt) == 4
    assert texts(last.completions[0]) == ["assistant: a2"]


def test_a_greeting_belongs_to_the_prompt(tmp_path: Path) -> None:
    (example,) = read(tmp_path, {"messages": [assistant("hello"), user("q"), assistant("a")]}, "conversations")
    assert texts(example.prompt) == ["assistant: hello", "user: q"]


NOT_IMITATED = [
    ({"prompt": "hi", "completion": "bad", "label": False}, "not desirable"),
    ({"conversations": [user("hi"), assistant(" ")]}, "the answer is empty"),
    ({"prompt": "hi", "chosen": "", "rejected": "x"}, "the answer is empty"),
    ({"messages": [user("hi")]}, "no assistant turn"),
    ({"messages": [assistant("hi")]}, "no turn before the answer"),
]


@pytest.mark.parametrize(("row", "reason"), NOT_IMITATED)
def test_answers_not_worth_imitating_say_why(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    (example,) = read(tmp_path, row, "answers")
    assert reason in example.skip_reason


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "completion": "a", "label": None},
        {"instruction": "hi", "output": "a", "kto_tag": None},
        {"messages": [user("hi"), assistant("a")], "label": None},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a"}], "kto_tag": None},
    ],
)
def test_labels(tmp_path: Path, row: dict[str, Any], label: bool) -> None:
    filled = {key: label if value is None else value for key, value in row.items()}
    (example,) = read(tmp_path, {**filled, "confidence": 0.8}, "labels")
    assert (example.label, example.confidence, example.margin) == (label, 0.8, None)
    assert (texts(example.prompt), texts(example.completions[0])) == (["user: hi"], ["assistant: a"])


@pytest.mark.parametrize(("given", "label"), [(1, True), (0, False), (1.0, True)])
def test_ones_and_zeros_are_labels(tmp_path: Path, given: float, label: bool) -> None:
    (example,) = read(tmp_path, {"prompt": "hi", "completion": "a", "label": given}, "labels")
    assert example.label is label


STEP_ROW = {
    "prompt": "2+3*4?", "initial_reason_steps": "Step 1: 3*4=12.\nStep 2: ", "chosen": "2+12=14.",
    "rejected": "2+12=15.", "full_chosen": "...", "full_rejected": "...", "answer": "14",
}  # fmt: skip


def test_steps_keep_every_character_of_the_answer_so_far(tmp_path: Path) -> None:
    (example,) = read(tmp_path, STEP_ROW, "steps")
    assert texts(example.prompt) == ["user: 2+3*4?"]
    assert example.opening == "Step 1: 3*4=12.\nStep 2:"
    assert [turns[0].content for turns in example.completions] == [" 2+12=14.", " 2+12=15."]
    assert example.cut == (True, True)


def test_a_first_step_has_no_opening(tmp_path: Path) -> None:
    (example,) = read(tmp_path, {**STEP_ROW, "initial_reason_steps": ""}, "steps")
    assert (example.opening, example.cut) == ("", (True, True))


CALLS = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
]


def test_tools_and_tool_calls_as_objects_and_as_json(tmp_path: Path) -> None:
    answered = [{"role": "tool", "content": "2"}, assistant("two")]
    plain = {"messages": [user("1+1?"), {"role": "assistant", "content": None, "tool_calls": CALLS}, *answered],
             "tools": TOOLS}  # fmt: skip
    in_turns = {
        "conversations": [
            {"role": "user", "content": "1+1?", "tools": json.dumps(TOOLS)},
            {"role": "assistant", "content": "", "tool_calls": json.dumps(CALLS)},
            *answered,
        ]
    }
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "1+1?"},
            {"from": "function_call", "value": json.dumps(CALLS[0]["function"])},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "two"},
        ],
        "tools": json.dumps(TOOLS),
    }
    text_arguments = json.loads(json.dumps(plain))
    text_arguments["messages"][1]["tool_calls"][0]["function"]["arguments"] = '{"a": 1}'
    examples = [read(tmp_path, row, "conversations")[0] for row in (plain, in_turns, sharegpt, text_arguments)]
    assert texts(examples[0].completions[0]) == ["assistant: ", "tool: 2", "assistant: two"]
    assert examples[0].completions[0][0].as_dict()["tool_calls"] == CALLS
    assert examples[0].tools == tuple(TOOLS)
    assert examples == [examples[0]] * 4


def test_thinking_and_keywords_for_the_template_are_kept(tmp_path: Path) -> None:
    row = {
        "conversations": [user("q"), {**assistant("a"), "reasoning_content": "hm"}],
        "chat_template_kwargs": {"enable_thinking": True},
    }
    (example,) = read(tmp_path, row, "conversations")
    assert example.completions[0][0].as_dict()["reasoning_content"] == "hm"
    assert example.chat_template_kwargs == {"enable_thinking": True}


def test_text_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (example,) = read(tmp_path, {"prompt": [{"role": "user", "content": parts}], "completion": "c"}, "answers")
    assert texts(example.prompt) == ["user: ab"]


def test_tables_give_what_json_gives(tmp_path: Path) -> None:
    import pandas

    rows = [{"prompt": "q1", "chosen": "a, b", "rejected": "c", "margin": 0.5},
            {"prompt": "q2", "chosen": "d", "rejected": "e", "margin": 1.0}]  # fmt: skip
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    expected = [(e.prompt, e.completions, e.margin) for e in read_examples(write(tmp_path, *rows), "pairs")]
    ids = {}
    for name in ("a.csv", "a.parquet", "a.json"):
        examples = list(read_examples(tmp_path / name, "pairs"))
        assert [(e.prompt, e.completions, e.margin) for e in examples] == expected
        ids[name] = [example.id for example in examples]
    assert ids == {"a.csv": ["line-2", "line-3"], "a.parquet": ["row-0", "row-1"], "a.json": ["entry-1", "entry-2"]}


def test_labels_of_a_csv_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion,label\nq,a,True\nq,b,false\n")
    assert [example.label for example in read_examples(path, "labels")] == [True, False]
    path.write_text("prompt,completion,label\nq,a,maybe\n")
    with pytest.raises(DataError, match=r"a\.csv:2: label: expected true or false .or 1 or 0., found 'maybe'"):
        list(read_examples(path, "labels"))


def test_nulls_that_a_table_fills_in_are_not_keys(tmp_path: Path) -> None:
    import pandas

    other = {"type": "function", "function": {"name": "negate", "arguments": {"b": 2}}}
    turns = [user("1+1?"), {"role": "assistant", "tool_calls": [*CALLS, other]},
             {"role": "tool", "content": "2", "name": "add"}, assistant("two")]  # fmt: skip
    row = {"messages": turns, "tools": TOOLS}
    pandas.DataFrame([row]).to_parquet(tmp_path / "a.parquet")
    (from_table,) = read_examples(tmp_path / "a.parquet", "conversations")
    (from_json,) = read(tmp_path, row, "conversations")
    assert from_table.completions == from_json.completions


BROKEN = [
    ("pairs", {"question": "x"}, r"no preference pair: found the keys question; understood are .*chosen"),
    ("pairs", {"prompt": "q", "completion": "a"}, r"no preference pair: found the keys completion, prompt"),
    ("pairs", {"chosen": "a", "rejected": "b"}, r"no preference pair: found the keys chosen, rejected"),
    ("pairs", STEP_ROW, r"no preference pair.*pair of steps"),
    ("pairs", {"instruction": "q", "completions": ["a", "b"]}, r"no preference pair.*\{instruction, completions\}"),
    ("steps", ultrafeedback(*FOUR), r"no pair of steps"),
    ("steps", PAIRS["explicit"], r"no pair of steps.*understood are \{prompt, initial_reason_steps"),
    ("labels", {"prompt": "q", "completion": "a"}, r"no labelled answer.*needs a label"),
    ("answers", {"text": "Once upon a time"}, r"no answer: .*plain language modelling on 'text' is not supported"),
    ("answers", {}, r"no answer: found the keys \(none\)"),
    ("pairs", {"prompt": "q", "chosen": 3, "rejected": "b"}, r"expected a text or a list of messages, found 3"),
    ("pairs", {"prompt": "q", "chosen": [{"role": "robot", "content": "x"}], "rejected": "b"}, r"not a message: role"),
    ("answers", {"messages": "[{"}, r"messages: broken JSON"),
    ("answers", {"messages": {"a": 1}}, r"messages: expected a list"),
    ("answers", {"instruction": ["a"], "output": "b"}, r"instruction, input: expected texts"),
    ("answers", {"instruction": "a", "output": "b", "history": ["q"]}, r"history: expected a list of \[question"),
    ("labels", {"prompt": "q", "completion": "a", "label": 2}, r"label: expected true or false .or 1 or 0., found 2"),
    ("labels", {"instruction": "q", "output": "a", "kto_tag": "yes"}, r"kto_tag: expected true or false"),
    ("pairs", {**PAIRS["explicit"], "margin": "big"}, r"margin: expected a number, found 'big'"),
    ("pairs", {**PAIRS["explicit"], "margin": float("nan")}, r"margin: expected a number, found nan"),
    ("pairs", {**PAIRS["explicit"], "confidence": True}, r"confidence: expected a number, found True"),
    ("pairs", {**PAIRS["explicit"], "confidence": 1.5}, r"confidence: expected a probability in \[0, 1\], found 1\.5"),
    ("pairs", {**PAIRS["explicit"], "images": ["x.png"]}, r"images: only text can be trained on"),
    ("pairs", {**PAIRS["explicit"], "tools": ["add"]}, r"tools: expected a list of JSON schemas"),
    ("pairs", {**PAIRS["explicit"], "chat_template_kwargs": {"tokenize": True}}, r"tokenize can not be set"),
    ("pairs", {**PAIRS["explicit"], "chat_template_kwargs": [1]}, r"chat_template_kwargs: expected an object"),
    ("answers", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, r"a part of type image; only text"),
    ("answers", {"messages": [{"role": "assistant", "tool_calls": [{"x": 1}]}]}, r"expected a function with a name"),
    ("steps", {**STEP_ROW, "chosen": [assistant("a")]}, r"each must be a text, one step"),
]


@pytest.mark.parametrize(("kind", "row", "message"), BROKEN)
def test_broken_rows_name_file_and_line(tmp_path: Path, kind: Kind, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=r"data\.jsonl:1: .*" + message):
        read(tmp_path, row, kind)


WHOLE: dict[Kind, dict[str, Any]] = {
    "pairs": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "answers": {"prompt": "q", "completion": "a"},
    "conversations": {"messages": [user("q"), assistant("a")]},
    "labels": {"prompt": "q", "completion": "a", "label": True},
    "steps": STEP_ROW,
}
GAPS: list[tuple[Kind, dict[str, Any], str]] = [
    ("pairs", {"prompt": "", "chosen": "a", "rejected": "b"}, "prompt"),
    ("pairs", {"prompt": "q", "chosen": None, "rejected": "b"}, "chosen"),
    ("pairs", {"prompt": "q", "chosen": "a"}, "rejected"),
    ("pairs", {"prompt": None, "chosen": [], "rejected": None}, "prompt, chosen, rejected"),
    ("pairs", {"id": "", "other": None}, "prompt, chosen, rejected"),
    ("answers", {"prompt": [], "completion": "a"}, "prompt"),
    ("answers", {"prompt": "q", "completion": None}, "completion"),
    ("answers", {"prompt": "q", "completion": []}, "completion"),
    ("conversations", {"messages": []}, "messages"),
    ("labels", {"prompt": "q", "completion": "a", "label": None}, "label"),
    ("labels", {"prompt": "q", "completion": "a", "label": ""}, "label"),
    ("steps", {**STEP_ROW, "initial_reason_steps": None}, "initial_reason_steps"),
    ("pairs", {"instruction": "", "completions": FOUR}, "instruction"),
    ("pairs", {"instruction": "q", "completions": None}, "completions"),
]


@pytest.mark.parametrize("rows_before", [0, 1, 120])
@pytest.mark.parametrize(("kind", "row", "fields"), GAPS)
def test_a_row_with_an_empty_field_is_left_out(
    tmp_path: Path, kind: Kind, row: dict[str, Any], fields: str, rows_before: int
) -> None:
    whole = ultrafeedback(*FOUR) if "completions" in row else WHOLE[kind]
    path = write(tmp_path, *[whole] * rows_before, row, whole)
    skipped = [example for example in read_examples(path, kind) if example.skip_reason]
    assert [(example.id, example.skip_reason) for example in skipped] == [
        (f"line-{rows_before + 1}", f"empty or missing: {fields}")
    ]


def test_rows_that_are_all_empty_are_told_by_their_keys(tmp_path: Path) -> None:
    (example,) = read(tmp_path, {"prompt": "q", "chosen": None, "rejected": None}, "pairs")
    assert example.skip_reason == "empty or missing: chosen, rejected"


def test_a_row_of_another_format_is_no_row_with_an_empty_field(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE["pairs"], {"text": "Once upon a time"})
    with pytest.raises(DataError, match=r"data\.jsonl:2: no preference pair: found the keys text"):
        list(read_examples(path, "pairs"))


def test_an_empty_cell_of_a_table_is_an_empty_field(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\nq,a,b\nq,,b\n,,\n")
    reasons = [example.skip_reason for example in read_examples(path, "pairs")]
    assert reasons == ["", "empty or missing: chosen", "empty or missing: prompt, chosen, rejected"]


def test_plain_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no answers; allowed: \.jsonl \.json \.csv \.parquet"):
        list(read_examples(write(tmp_path, "x", name="a.txt"), "answers"))


def test_preference_pairs_load_with_datasets_as_a_conversational_preference_set(tmp_path: Path) -> None:
    from datasets import load_dataset

    records = [
        PreferencePair(
            id=f"p{index}", prompt_id="q", chosen_id="a", rejected_id="b",
            prompt=(Message(role="system", content="s"), Message(role="user", content="hi")),
            chosen=(Message(role="assistant", content="yes"),), rejected=(Message(role="assistant", content="no"),),
            margin=0.5 if index else None,
        )
        for index in range(2)
    ]  # fmt: skip
    path = tmp_path / "preferences.jsonl"
    path.write_text("".join(record.model_dump_json() + "\n" for record in records))
    loaded = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert {"prompt", "chosen", "rejected"} <= set(loaded.column_names)
    assert loaded[0]["prompt"] == [{"role": "system", "content": "s"}, user("hi")]
    assert loaded[1]["chosen"] == [assistant("yes")]
    assert [example.id for example in read_examples(path, "pairs")] == ["p0", "p1"]


@pytest.fixture
def hh_file(tmp_path: Path) -> Path:
    """The 2,312 published test dialogues on harmlessness."""
    folder = os.environ.get("RLAIF_GOLD")
    if not folder:
        pytest.skip("RLAIF_GOLD names no folder of gold data")
    path = tmp_path / "hh.jsonl"
    path.write_bytes(gzip.decompress((Path(folder) / "hh_rlhf" / "harmless-base_test.jsonl.gz").read_bytes()))
    return path


def test_every_published_dialogue_is_a_pair_cut_at_the_last_shared_assistant(hh_file: Path) -> None:
    """The prompt, written as a dialogue again, is the common beginning of both texts up to its last "Assistant:"."""
    lines = [json.loads(line) for line in hh_file.read_text().splitlines()]
    examples = list(read_examples(hh_file, "pairs"))
    assert len(examples) == len(lines) == 2312
    assert not any(example.skip_reason for example in examples)
    names = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}
    for line, example in zip(lines, examples, strict=True):
        pairs = zip(line["chosen"], line["rejected"], strict=False)
        shared = "".join(a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        expected = shared[: shared.rindex("\n\nAssistant:")] if line["chosen"] != line["rejected"] else None
        written = "".join(f"{names[turn.role]}{turn.content}" for turn in example.prompt)
        if expected is not None:
            assert "".join(written.split()) == "".join(expected.split())
