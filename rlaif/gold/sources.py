"""Rows of public data sets as they are published: found in a file or a folder, with where each one stands."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.errors import DataError
from rlaif.records import json_object


class Unusable(Exception):
    """Why a row of a source gives nothing; it is listed with this reason."""


@dataclass(frozen=True)
class Row:
    """One row of a source file. number: its line, or its place in a list, from 1."""

    path: Path
    number: int
    values: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.path}: entry {self.number}" if ".json" in self.path.suffixes else f"{self.path}:{self.number}"

    def text(self, key: str) -> str:
        """The text under a key. Raises Unusable if there is none."""
        value = self._value(key)
        if not isinstance(value, str):
            raise Unusable(f"{key}: expected a text, found {json.dumps(value)[:40]}")
        return value

    def integer(self, key: str) -> int:
        """The whole number under a key. Raises Unusable if there is none."""
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Unusable(f"{key}: expected a whole number, found {json.dumps(value)[:40]}")
        return value

    def one_of(self, key: str, allowed: dict[Any, Any]) -> Any:
        """What the value under a key stands for. Raises Unusable if it is none of the allowed ones."""
        value = self._value(key)
        if isinstance(value, list | dict | bool) or value not in allowed:
            raise Unusable(f"{key}: expected {', '.join(map(str, allowed))}, found {json.dumps(value)[:40]}")
        return allowed[value]

    def objects(self, key: str, kind: type) -> list[Any]:
        """The list under a key, all of one type. Raises Unusable otherwise."""
        value = self._value(key)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise Unusable(f"{key}: expected a list, each a {kind.__name__}, found {json.dumps(value)[:40]}")
        return value

    def _value(self, key: str) -> Any:
        if key not in self.values:
            raise Unusable(f"{key}: is missing; the row has {', '.join(self.values) or 'no keys'}")
        return self.values[key]


def find_files(source: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The file itself, or the files of a folder whose names fit one of the patterns. Raises DataError if there are none."""
    if source.is_file():
        return [source]
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    found = sorted({path for pattern in patterns for path in source.rglob(pattern)})
    if not found:
        raise DataError(f"{source}: holds no file called {' or '.join(patterns)}")
    return found


def read_source(path: Path) -> Iterator[Row]:
    """The rows of a JSONL, JSON (a list of objects) or CSV file, also gzipped. Raises DataError with the line."""
    text = _read(path)
    names = path.suffixes
    if ".jsonl" in names:
        lines = enumerate(text.split("\n"), start=1)
        yield from (Row(path, number, json_object(line, f"{path}:{number}")) for number, line in lines if line.strip())
    elif ".csv" in names:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for values in reader:
            yield Row(path, reader.line_num, dict(values))
    else:
        data = _json(text, path)
        if not isinstance(data, list) or not all(isinstance(values, dict) for values in data):
            raise DataError(f"{path}: expected a JSON list of objects")
        yield from (Row(path, number, values) for number, values in enumerate(data, start=1))


def read_json(path: Path) -> Any:
    """A whole JSON file, also gzipped. Raises DataError with the line."""
    return _json(_read(path), path)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path}: broken gzip file: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: broken JSON: {error.msg} at column {error.colno}") from None
