"""Prompts from anything people have: JSONL, JSON, CSV, Parquet, plain text, or a data set name known to `datasets`."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.errors import DataError
from rlaif.records import describe, read_json_lines
from rlaif.types import Message, Messages, Prompt, prompt_content_id

PROMPT_KEYS = ("prompt", "messages", "conversations", "instruction", "question", "query", "text")
"""Where a row may hold its prompt, in this order. `instruction` may be followed by `input`."""
USED_KEYS = {*PROMPT_KEYS, "id", "system", "metadata", "input"}
DATA_SET_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[^/]+)?")
FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".txt")
TURN_NAMES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}


@dataclass
class PromptSet:
    """Distinct prompts in their order, and what was noticed while reading."""

    prompts: list[Prompt] = field(default_factory=list)
    duplicates: list[dict[str, str]] = field(default_factory=list)
    """One entry per row that repeats an earlier prompt: where, id, first (where the first one stands)."""
    answers_removed: int = 0
    """Rows whose conversation ended with an assistant turn, which was removed."""


def read_prompts(
    source: str | Path | Iterable[str | Prompt], *, system: str | None = None, limit: int | None = None
) -> PromptSet:
    """The prompts of a file, a data set name, or a sequence of texts and Prompts.

    system: put before every conversation that has no system turn. limit: keep the first so many rows.
    Raises DataError naming file, line and what is allowed.
    """
    result = PromptSet()
    seen: dict[str, tuple[str, str]] = {}
    for number, (where, prompt) in enumerate(_prompts(source, result)):
        if limit is not None and number >= limit:
            break
        prompt = _with_system(prompt, system)
        content = prompt_content_id(prompt.messages)
        first = seen.get(prompt.id)
        if first is None:
            seen[prompt.id] = (where, content)
            result.prompts.append(prompt)
        elif first[1] == content:
            result.duplicates.append({"where": where, "id": prompt.id, "first": first[0]})
        else:
            raise DataError(
                f"{where}: the id '{prompt.id}' is used by another prompt at {first[0]}; ids must be unique"
            )
    if not result.prompts:
        raise DataError(f"{source if isinstance(source, str | Path) else 'the given prompts'}: no prompts in it")
    return result


def prompt_from_row(row: dict[str, Any], where: str) -> tuple[Prompt, bool]:
    """A row of a data set as a Prompt, and whether a trailing assistant turn was removed."""
    key = next((key for key in PROMPT_KEYS if row.get(key) not in (None, "", [])), None)
    if key is None:
        raise DataError(
            f"{where}: no prompt in it; the row has {', '.join(row) or 'no keys'}, and one of "
            f"{', '.join(PROMPT_KEYS)} is needed (a text, or a list of messages with role and content)"
        )
    value = row[key]
    if isinstance(value, str):
        extra = row.get("input") if key == "instruction" else None
        messages: Messages = (Message(role="user", content=f"{value}\n\n{extra}" if extra else value),)
    else:
        messages = _messages(value, f"{where}: {key}")
    removed = len(messages) > 1 and messages[-1].role == "assistant"
    if removed:
        messages = messages[:-1]
    if not messages[-1].content.strip() or messages[-1].role not in ("user", "tool"):
        raise DataError(f"{where}: a prompt must end with a non-empty user (or tool) turn, found {messages[-1].role}")
    if isinstance(row.get("system"), str) and row["system"] and messages[0].role != "system":
        messages = (Message(role="system", content=row["system"]), *messages)
    extra_metadata = row.get("metadata") or {}
    if not isinstance(extra_metadata, dict):
        raise DataError(f"{where}: metadata: expected an object, found {type(extra_metadata).__name__}")
    if any(_has_lone_surrogate(message.content) for message in messages):
        raise DataError(f"{where}: the prompt holds half of a character (a lone surrogate), which no model can be sent")
    metadata = {**_plain(extra_metadata), **_plain({k: v for k, v in row.items() if k not in USED_KEYS})}
    given_id = str(row["id"]) if row.get("id") not in (None, "") else None
    return Prompt.from_messages(messages, id=given_id, metadata=metadata), removed


def read_rows(source: str | Path, *, texts: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where it stands, row) for each row of a JSONL, JSON, CSV or Parquet file, or of a data set.

    A data set is named as `datasets` knows it, or by a folder it was saved in, with its split after a colon. texts: a
    JSON list may hold texts, which are prompts. Raises DataError naming file and line.
    """
    name, path = str(source), Path(source)
    if path.suffix in (".jsonl", ".ndjson"):
        yield from ((f"{path}:{number}", row) for number, row in read_json_lines(path))
    elif path.suffix == ".json":
        yield from _json_rows(path, texts)
    elif path.suffix == ".csv":
        yield from _csv_rows(path)
    elif path.suffix == ".parquet":
        _must_exist(path)
        yield from _dataset_rows("parquet", name, data_files=name)
    elif _is_saved_data_set(name):
        yield from _saved_rows(name)
    elif path.exists():
        raise DataError(f"{path}: unknown kind of file '{path.suffix}'; allowed: .jsonl .json .csv .parquet .txt")
    elif (path.suffix or name.startswith((".", "/"))) and not is_data_set(name):
        raise DataError(f"{path}: no such file")
    else:
        dataset, _, split = name.partition(":")
        yield from _dataset_rows(dataset, name, split=split or "train")


def is_data_set(source: str | Path) -> bool:
    """Whether this is the name of a data set (owner/name, owner/name:split) and no file, or a folder that holds one."""
    name, path = str(source), Path(source)
    is_name = DATA_SET_NAME.fullmatch(name) and path.suffix not in FILE_SUFFIXES and not path.exists()
    return bool(is_name) or _is_saved_data_set(name)


def _prompts(source: str | Path | Iterable[str | Prompt], result: PromptSet) -> Iterator[tuple[str, Prompt]]:
    if not isinstance(source, str | Path):
        for number, item in enumerate(source, start=1):
            yield f"prompt {number}", item if isinstance(item, Prompt) else Prompt.from_text(item)
        return
    path = Path(source)
    if path.suffix == ".txt":
        yield from _text_lines(path)
        return
    for where, row in read_rows(source, texts=True):
        prompt, removed = prompt_from_row(row, where)
        result.answers_removed += removed
        yield where, prompt


def _text_lines(path: Path) -> Iterator[tuple[str, Prompt]]:
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", Prompt.from_text(line.strip())


def _json_rows(path: Path, texts: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        data = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: broken JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(data, list):
        raise DataError(f"{path}: expected a JSON list of rows, found {_json_kind(data)}")
    for number, row in enumerate(data, start=1):
        where = f"{path}: entry {number}"
        if isinstance(row, str) and texts:
            row = {"prompt": row}
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object{' or a text' if texts else ''}, found {_json_kind(row)}")
        yield where, row


def _json_kind(value: object) -> str:
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else json.dumps(value)[:60]


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(_read_text(path).splitlines(keepends=True), strict=True)
    try:
        for row in reader:
            yield f"{path}:{reader.line_num}", {k: v for k, v in row.items() if k is not None and v != ""}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: broken CSV: {error}") from None


def _dataset_rows(dataset: str, name: str, **arguments: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset

    arguments.setdefault("split", "train")
    try:
        rows = load_dataset(dataset, **arguments)
    except Exception as error:
        raise DataError(f"{name}: {_not_loaded(error, is_file='data_files' in arguments)}") from None
    for number, row in enumerate(rows):
        yield f"{name}: row {number}", dict(row)


def _not_loaded(error: Exception, is_file: bool) -> str:
    """Why `datasets` could not load something, and what to do."""
    from datasets.exceptions import DatasetNotFoundError

    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    if is_file:
        return f"can not be read: {first_line}"
    if isinstance(error, ConnectionError):
        return f"neither a file here nor a data set that can be had: the hub can not be reached ({first_line})"
    if isinstance(error, DatasetNotFoundError):
        return f"neither a file here nor a data set ({first_line}); a private one needs: hf auth login"
    return f"the data set can not be loaded ({first_line}); a split is named after a colon, as in owner/name:train"


def _is_saved_data_set(name: str) -> bool:
    """Whether the name, with or without a split, is that of a folder that `save_to_disk` wrote."""
    folder = Path(name.partition(":")[0])
    return any((folder / file).is_file() for file in ("dataset_info.json", "dataset_dict.json"))


def _saved_rows(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import DatasetDict, load_from_disk

    folder, _, split = name.partition(":")
    try:
        rows = load_from_disk(folder)
    except Exception as error:
        raise DataError(f"{name}: {_not_loaded(error, is_file=True)}") from None
    if isinstance(rows, DatasetDict):
        if (split or "train") not in rows:
            raise DataError(f"{name}: has no split '{split or 'train'}'; its splits: {', '.join(map(str, rows))}")
        rows = rows[split or "train"]
    for number, row in enumerate(rows):
        yield f"{name}: row {number}", dict(row)


def _read_text(path: Path) -> str:
    _must_exist(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such file")


def _messages(value: Any, where: str) -> Messages:
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a text or a list of messages, found {type(value).__name__}")
    turns = []
    for turn in value:
        if isinstance(turn, dict) and "from" in turn and "value" in turn:
            turn = {"role": TURN_NAMES.get(str(turn["from"]), turn["from"]), "content": turn["value"]}
        try:
            turns.append(Message.model_validate(turn))
        except ValidationError as error:
            raise DataError(f"{where}: not a message with role and content: {describe(error)}") from None
    return tuple(turns)


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON can hold them (dates and the like become text)."""
    plain: dict[str, Any] = json.loads(json.dumps(row, default=str))
    return plain


def _with_system(prompt: Prompt, system: str | None) -> Prompt:
    if system is None or prompt.messages[0].role in ("system", "developer"):
        return prompt
    messages = (Message(role="system", content=system), *prompt.messages)
    had_content_id = prompt.id == prompt_content_id(prompt.messages)
    return Prompt.from_messages(messages, id=None if had_content_id else prompt.id, metadata=prompt.metadata)
