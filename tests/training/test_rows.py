"""From the data file to token ids: what is kept, what ends a completion, what is left out and why."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.errors import DataError, TrainError
from rlaif.training.rows import Rows, read_examples, tokenize
from rlaif.types import Message, PreferencePair

STOP = 2  # <|im_end|>


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair(**changes: Any) -> dict[str, Any]:
    return {"id": "p", "prompt": [user("hi")], "chosen": [assistant("yes")], "rejected": [assistant("no")], **changes}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tokenized(tokenizer: Any, path: Path, method: Any = "dpo", max_length: int = 500, truncation: Any = "drop") -> Rows:
    return tokenize(read_examples(path, method), tokenizer, max_length, truncation)


def test_prompt_and_completion_are_the_ids_of_inference(tokenizer: Any, tmp_path: Path) -> None:
    (row,) = tokenized(tokenizer, write(tmp_path, pair())).rows
    opening = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(row.prompt) == opening
    assert list(row.prompt) == tokenizer(opening, add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode(ids) for ids in row.completions] == ["yes<|im_end|>", "no<|im_end|>"]


def test_the_last_trained_token_is_the_stop_token(tokenizer: Any, tmp_path: Path) -> None:
    (row,) = tokenized(tokenizer, write(tmp_path, pair())).rows
    assert [ids[-1] for ids in row.completions] == [STOP, STOP]


def test_a_completion_cut_for_length_has_no_stop_token(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, pair(chosen_finish_reason="length", rejected_finish_reason="stop"))
    (row,) = tokenized(tokenizer, path).rows
    assert tokenizer.decode(row.completions[0]) == "yes"
    assert tokenizer.decode(row.completions[1]) == "no<|im_end|>"


def test_a_template_that_closes_no_turn_gets_the_stop_token(tokenizer: Any, tmp_path: Path) -> None:
    from tiny import build_tokenizer

    open_ended = build_tokenizer()
    open_ended.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    (row,) = tokenized(open_ended, write(tmp_path, pair(rejected_finish_reason="length"))).rows
    assert row.completions[0][-1] == STOP
    assert STOP not in row.completions[1]


def test_identical_pairs_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    same_text = pair(id="text", rejected=[assistant("yes")])
    same_tokens = pair(id="tokens", chosen=[assistant("yes")], rejected=[{**assistant("yes"), "name": "x"}])
    rows = tokenized(tokenizer, write(tmp_path, pair(), same_text, same_tokens))
    assert [row.id for row in rows.rows] == ["p"]
    assert [(row.id, row.reason) for row in rows.skipped] == [
        ("text", "chosen and rejected are the same text"),
        ("tokens", "chosen and rejected are the same tokens"),
    ]


def test_answers_that_can_not_be_learnt_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    several = pair(id="turns", chosen=[assistant("a"), user("b"), assistant("c")])
    empty = pair(id="empty", chosen=[assistant("")], chosen_finish_reason="length")
    rows = tokenized(tokenizer, write(tmp_path, several, empty))
    assert {row.id: row.reason for row in rows.skipped} == {
        "turns": "an answer is not exactly one assistant turn",
        "empty": "an answer has no tokens",
    }


def test_a_template_where_the_prompt_is_no_prefix_is_told_per_row(tmp_path: Path) -> None:
    from tiny import build_tokenizer

    odd = build_tokenizer()
    odd.chat_template = "{{ messages | length }}:{% for m in messages %}{{ m['content'] }}{% endfor %}"
    rows = tokenized(odd, write(tmp_path, pair()))
    assert "not a prefix" in rows.skipped[0].reason


def test_truncation_strategies(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, pair(prompt=[user("x" * 50)]))
    (whole,) = tokenized(tokenizer, path).rows
    dropped = tokenized(tokenizer, path, max_length=40)
    assert dropped.rows == []
    assert dropped.skipped[0].reason == f"too long: {len(whole.prompt) + 4} tokens, max_length is 40"
    (cut,) = tokenized(tokenizer, path, max_length=40, truncation="truncate-prompt-left").rows
    assert cut.prompt == whole.prompt[-36:]
    assert cut.completions == whole.completions
    with pytest.raises(TrainError, match=r"row p: .* more than max_length 40"):
        tokenized(tokenizer, path, max_length=40, truncation="raise")


def test_a_completion_longer_than_max_length_is_never_cut(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, pair(chosen=[assistant("y" * 50)]))
    assert tokenized(tokenizer, path, max_length=40, truncation="truncate-prompt-left").rows == []


SFT_ROWS = [
    pair(),
    {"prompt": "hi", "completion": "yes"},
    {"prompt": [user("hi")], "completion": [assistant("yes")]},
    {"messages": [user("hi"), assistant("yes")]},
    {"prompt": {"id": "q", "messages": [user("hi")], "metadata": {}}, "messages": [assistant("yes")], "model": "m"},
]


@pytest.mark.parametrize("row", SFT_ROWS)
def test_sft_formats(tokenizer: Any, tmp_path: Path, row: dict[str, Any]) -> None:
    (read,) = tokenized(tokenizer, write(tmp_path, row), "sft").rows
    assert tokenizer.decode(read.prompt + read.completions[0]).endswith(
        "hi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>"
    )
    assert len(read.completions) == 1


def test_answers_that_repeat_the_prompt_are_understood(tokenizer: Any, tmp_path: Path) -> None:
    (plain,) = tokenized(tokenizer, write(tmp_path, pair())).rows
    repeated = pair(prompt="hi", chosen=[user("hi"), assistant("yes")], rejected=[user("hi"), assistant("no")])
    assert tokenized(tokenizer, write(tmp_path, repeated)).rows == [plain]


BROKEN = [
    ({"question": "x"}, r"data\.jsonl:1: no dpo row: found the keys question; understood are .*chosen"),
    (pair(chosen=3), r"data\.jsonl:1: expected a text or a list of messages, found 3"),
    (pair(chosen=[{"role": "robot", "content": "x"}]), r"data\.jsonl:1: not a message: role"),
]


@pytest.mark.parametrize(("row", "message"), BROKEN)
def test_broken_rows_name_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_examples(write(tmp_path, row), "dpo"))


def test_no_chat_template_is_refused(tmp_path: Path) -> None:
    from tiny import build_tokenizer

    bare = build_tokenizer()
    bare.chat_template = None
    with pytest.raises(TrainError, match="no chat template"):
        tokenized(bare, write(tmp_path, pair()))


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
    assert [example.id for example in read_examples(path, "dpo")] == ["p0", "p1"]
