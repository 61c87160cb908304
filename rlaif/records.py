"""Typed JSONL in and out: streaming, append-safe after a kill, every error with its file and line."""

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from pydantic import BaseModel, ValidationError

from rlaif.errors import DataError

UNWRITABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
R = TypeVar("R", bound=BaseModel)


def read_records(path: Path, kind: type[R], *, tolerate_torn_tail: bool = False) -> Iterator[R]:
    """Yields the rows of a JSONL file as records of `kind`.

    With `tolerate_torn_tail`, a last line without its newline (a writer was killed) is passed over.
    Raises DataError with the file and line number for anything that is not such a record.
    """
    for number, line in _lines(path, tolerate_torn_tail):
        yield _record(path, number, line, kind)


def read_records_with_places(path: Path, kind: type[R]) -> Iterator[tuple[int, R]]:
    """Yields (byte position of the line, record), as read_records does, so that a row can be read again by itself."""
    place = 0
    for number, raw in _raw_lines(path):
        if raw.strip():
            yield place, _record(path, number, _decoded(path, number, raw), kind)
        place += len(raw)


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Yields (line number, object) for each non-empty line. Raises DataError with file and line."""
    for number, line in _lines(path, False):
        yield number, json_object(line, f"{path}:{number}")


def json_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object in a text. Raises DataError that names where it stands."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: broken JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def describe(error: ValidationError) -> str:
    """One line for a pydantic error: each key with what is wrong."""
    parts = []
    for item in error.errors(include_url=False)[:5]:
        where = ".".join(str(part) for part in item["loc"])
        parts.append(f"{where}: {item['msg']}" if where else item["msg"])
    return "; ".join(parts)


def _record(path: Path, number: int, line: str, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise DataError(f"{path}:{number}: not a {kind.__name__}: {describe(error)}") from None


def _lines(path: Path, tolerate_torn_tail: bool) -> Iterator[tuple[int, str]]:
    for number, raw in _raw_lines(path):
        if tolerate_torn_tail and not raw.endswith(b"\n"):
            return
        if raw.strip():
            yield number, _decoded(path, number, raw)


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a file") from None
    except PermissionError:
        raise DataError(f"{path}: may not be read (permission denied)") from None
    with file:
        yield from enumerate(file, start=1)


def _decoded(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path}:{number}: not UTF-8 text") from None


class RecordFile(Sequence[R]):
    """The records of a JSONL file as a sequence that is read each time it is gone through, never held in memory."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self._path = path
        self._kind = kind
        self._count: int | None = None

    def __iter__(self) -> Iterator[R]:
        return read_records(self._path, self._kind)

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in _lines(self._path, False))
        return self._count

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        return list(self)[index]


class RecordWriter(Generic[R]):
    """Appends records to a JSONL file, each line flushed as it is written.

    Opening a file whose last line was torn by a kill cuts that line off, so that it is written again.
    """

    def __init__(self, path: Path, *, append: bool = True) -> None:
        self.path = Path(path)
        make_folder(self.path.parent)
        with disk_errors(self.path):
            if append and self.path.exists():
                _cut_torn_tail(self.path)
            self._file = self.path.open("ab" if append else "wb")

    def write(self, record: R) -> int:
        """Appends a record and gives back how many bytes its line has."""
        line = record.model_dump_json(exclude_none=False).encode() + b"\n"
        with disk_errors(self.path):
            self._file.write(line)
            self._file.flush()
        return len(line)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "RecordWriter[R]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_records(path: Path, records: Iterable[R]) -> int:
    """Writes all records through a temporary file, so that the file is there whole or not at all; returns the count."""
    temporary = Path(path).with_name(Path(path).name + ".tmp")
    count = 0
    with RecordWriter[R](temporary, append=False) as writer:
        for record in records:
            writer.write(record)
            count += 1
    os.replace(temporary, path)
    return count


def refuse_same_file(source: str | Path | None, *outputs: str | Path | None) -> None:
    """Raises DataError if an output is the input, or two outputs are one file: it would be overwritten."""
    paths = [Path(path).resolve() for path in (source, *outputs) if path is not None]
    doubled = next((path for path in paths if paths.count(path) > 1), None)
    if doubled is not None:
        raise DataError(f"{doubled}: is both read and written (or written twice); give another output")


def keep_old(path: Path) -> None:
    """Moves a file that is about to be started again aside, to <path>.old, so that nothing paid for is lost."""
    if path.exists():
        os.replace(path, path.with_name(path.name + ".old"))


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file at once (through a temporary file)."""
    make_folder(path.parent)
    with disk_errors(path):
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, unless they are there. Raises DataError if that is impossible, as in /proc."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(disk_message(error, path) or f"{path}: can not be made ({error.strerror})") from None


def _cut_torn_tail(path: Path) -> None:
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        position = size
        while position > 0:
            step = min(65536, position)
            file.seek(position - step)
            newline = file.read(step).rfind(b"\n")
            if newline >= 0:
                file.truncate(position - step + newline + 1)
                return
            position -= step
        file.truncate(0)


def disk_message(error: OSError, path: Path | str | None = None) -> str | None:
    """What to tell the user of a full disk, a missing permission and the like; None for any other error."""
    where = path or error.filename or "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{where}: no space left on the disk; what was written before is kept: "
            "free some space and run the same command again"
        )
    if error.errno in UNWRITABLE:
        return f"{where}: can not be written ({error.strerror})"
    return None


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, a missing permission and the like into one DataError."""
    try:
        yield
    except OSError as error:
        message = disk_message(error, path)
        if message is None:
            raise
        raise DataError(message) from None
