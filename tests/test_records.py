from pathlib import Path

import pytest

from rlaif.errors import DataError
from rlaif.records import RecordWriter, read_json_lines, read_records, write_records
from rlaif.types import Message


def message(text: str) -> Message:
    return Message(role="user", content=text)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = [message("a"), message("line\nbreak   ü\u2028")]
    assert write_records(tmp_path / "x.jsonl", rows) == 2
    assert list(read_records(tmp_path / "x.jsonl", Message)) == rows


def test_a_line_torn_by_a_kill_is_cut_off_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_records(path, [message("a"), message("b")])
    path.write_bytes(path.read_bytes()[:-5])
    assert [row.content for row in read_records(path, Message, tolerate_torn_tail=True)] == ["a"]
    with RecordWriter[Message](path) as writer:
        writer.write(message("c"))
    assert [row.content for row in read_records(path, Message)] == ["a", "c"]


def test_a_file_that_is_one_torn_line_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"role": "us')
    with RecordWriter[Message](path) as writer:
        writer.write(message("c"))
    assert [row.content for row in read_records(path, Message)] == ["c"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"role": "user", "content": "a"', "x.jsonl:2:"),
        ('{"role": "user"}', "content: Field required"),
        ('{"role": "boss", "content": "a"}', "role"),
    ],
)
def test_a_wrong_row_is_told_with_file_and_line(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"role": "user", "content": "a"}\n' + line + "\n")
    with pytest.raises(DataError) as error:
        list(read_records(path, Message))
    assert "x.jsonl:2:" in str(error.value)
    assert told in str(error.value)


def test_missing_files_folders_and_other_encodings_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_records(tmp_path / "none.jsonl", Message))
    with pytest.raises(DataError, match="is a folder"):
        list(read_records(tmp_path, Message))
    (tmp_path / "latin.jsonl").write_bytes('{"a": "ü"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.jsonl:1: not UTF-8"):
        list(read_json_lines(tmp_path / "latin.jsonl"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_message(tmp_path: Path) -> None:
    writer = RecordWriter[Message](Path("/dev/full"), append=False)
    with pytest.raises(DataError, match="no space left on the disk"):
        writer.write(message("a"))


def test_a_whole_file_is_there_or_not_at_all(tmp_path: Path) -> None:
    def rows() -> object:
        yield message("a")
        raise RuntimeError("killed")

    write_records(tmp_path / "x.jsonl", [message("before")])
    with pytest.raises(RuntimeError):
        write_records(tmp_path / "x.jsonl", rows())  # type: ignore[arg-type]
    assert [row.content for row in read_records(tmp_path / "x.jsonl", Message)] == ["before"]
