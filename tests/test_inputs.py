import json
from pathlib import Path

import pytest
from datasets.exceptions import DatasetNotFoundError

from rlaif.errors import DataError
from rlaif.inputs import is_data_set, read_prompts


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def texts(source: object, **options: object) -> list[str]:
    return [prompt.messages[-1].content for prompt in read_prompts(source, **options).prompts]  # type: ignore[arg-type]


def test_every_kind_of_file_gives_the_same_prompts(tmp_path: Path) -> None:
    import pandas

    rows = [{"prompt": "What is tea?"}, {"prompt": "Say: a, b"}]
    files = [
        write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n\n" for row in rows)),
        write(tmp_path / "a.json", json.dumps([rows[0], "Say: a, b"])),
        write(tmp_path / "a.csv", 'prompt\nWhat is tea?\n"Say: a, b"\n'),
        write(tmp_path / "a.txt", "What is tea?\n\nSay: a, b\n"),
    ]
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    ids = {tuple(prompt.id for prompt in read_prompts(path).prompts) for path in [*files, tmp_path / "a.parquet"]}
    assert len(ids) == 1
    assert texts(files[0]) == ["What is tea?", "Say: a, b"]
    assert texts(["What is tea?", "Say: a, b"]) == texts(files[0])


def test_conversations_instructions_and_sharegpt_turns_are_read(tmp_path: Path) -> None:
    rows = [
        {
            "id": 7,
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "a"}],
            "metadata": {"k": 1},
            "tag": "x",
        },
        {"instruction": "Translate", "input": "Haus"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "the answer"}]},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = read_prompts(path)
    first, second, third = found.prompts
    assert (first.id, first.metadata) == ("7", {"k": 1, "tag": "x"})
    assert [message.role for message in first.messages] == ["system", "user"]
    assert second.messages[0].content == "Translate\n\nHaus"
    assert [message.content for message in third.messages] == ["q"]
    assert found.answers_removed == 1


def test_duplicates_are_listed_with_where_they_stand(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "same\nother\nsame\n")
    found = read_prompts(path)
    assert [prompt.messages[0].content for prompt in found.prompts] == ["same", "other"]
    assert found.duplicates == [{"where": f"{path}:3", "id": found.prompts[0].id, "first": f"{path}:1"}]


def test_a_system_prompt_is_added_where_there_is_none_and_changes_the_id() -> None:
    plain, with_system = read_prompts(["a"]).prompts[0], read_prompts(["a"], system="s").prompts[0]
    assert [message.role for message in with_system.messages] == ["system", "user"]
    assert plain.id != with_system.id
    assert read_prompts([with_system], system="other").prompts[0] == with_system


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": \n', "a.jsonl:2: broken JSON"),
        ("a.jsonl", '{"prompt": "a"}\n{"promt": "b"}\n', "a.jsonl:2: no prompt in it; the row has promt"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}\n', "a.jsonl:1: messages: not a message with role and content"),
        ("a.jsonl", '{"prompt": "  "}\n', "a.jsonl:1: a prompt must end with a non-empty user"),
        ("a.jsonl", '{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n', "the id '1' is used by another prompt"),
        ("a.jsonl", "", "no prompts in it"),
        ("a.json", '{"prompt": "a"}', "expected a JSON list"),
        ("a.doc", "x", "unknown kind of file '.doc'; allowed: .jsonl .json .csv .parquet .txt"),
    ],
)
def test_bad_input_is_told_with_file_line_and_what_is_allowed(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(DataError) as error:
        read_prompts(write(tmp_path / name, text))
    assert told in str(error.value)


def test_a_saved_data_set_is_read_from_its_folder(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([{"prompt": "What is tea?"}])
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "several")
    for name in ("one", "several", "several:train"):
        assert texts(str(tmp_path / name)) == ["What is tea?"]
    with pytest.raises(DataError, match=r"several:dev: has no split 'dev'; its splits: train, test"):
        read_prompts(f"{tmp_path}/several:dev")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ConnectionError("Couldn't reach 'o/n' on the Hub"),
            "the hub can not be reached .Couldn't reach 'o/n' on the Hub.",
        ),
        (
            DatasetNotFoundError("Dataset 'o/n' doesn't exist"),
            "neither a file here nor a data set .Dataset 'o/n' doesn't",
        ),
        (ValueError('Unknown split "x"'), 'can not be loaded .Unknown split "x".; a split is named after a colon'),
    ],
)
def test_why_a_data_set_can_not_be_had_is_told(error: Exception, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(DataError, match=f"^o/n:x: .*{told}"):
        read_prompts("o/n:x")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("trl-lib/ultrafeedback_binarized", True),
        ("HuggingFaceH4/ultrafeedback_binarized:train_prefs", True),
        ("jondurbin/truthy-dpo-v0.1", True),
        ("runs/pairs.jsonl", False),
        ("a/b/c", False),
        ("pairs", False),
        ("./a/b", False),
        ("../pairs", False),
        ("/abs/pairs", False),
    ],
)
def test_what_is_the_name_of_a_data_set(name: str, expected: bool) -> None:
    assert is_data_set(name) is expected


def test_a_missing_file_and_an_unknown_data_set_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="neither a file here nor a data set"):
        read_prompts("nobody/nothing")
