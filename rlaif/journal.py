"""Everything models answered in one append-only file, found by id through an index beside it: memory does not grow with it.

The JSONL file is the truth; the index (SQLite) only says where in it each record stands, and is made again when it does
not fit.
"""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import ValidationError

from rlaif.errors import DataError
from rlaif.records import RecordWriter, disk_errors, keep_old
from rlaif.types import JournalRecord

COMMIT_EVERY = 1000
J = TypeVar("J", bound=JournalRecord)


@contextmanager
def index_errors(folder: Path | None) -> Iterator[None]:
    """Turns what the database of an index fails with, such as a full disk or another run that writes it, into one DataError.

    folder: where the journal is; None: a temporary one.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        where = folder if folder is not None else "the temporary folder"
        raise DataError(
            f"{where}: {error}; what was answered is kept: make room, or let the other run end, and run the same command again"
        ) from None


class Journal(Generic[J]):
    """The records of this and earlier runs: those of an earlier run are reused, new ones are appended as they come."""

    def __init__(self, path: Path | None, kind: type[J], *, overwrite: bool = False) -> None:
        """path: the journal; None keeps it in a temporary folder. overwrite: begin a new one, the old one kept aside."""
        self._exits = ExitStack()
        if path is None:
            path = Path(self._exits.enter_context(tempfile.TemporaryDirectory())) / "journal.jsonl"
        index = path.with_name(path.name + ".index")
        if overwrite:
            keep_old(path)
        if not path.exists():
            index.unlink(missing_ok=True)
        self._path = path
        self._kind = kind
        self._what = kind.__name__.lower()
        self._writer = RecordWriter[J](path)
        self._exits.callback(self._writer.close)
        self._reader = self._exits.enter_context(path.open("rb"))
        self._end = path.stat().st_size
        self._rows = _open_index(index)
        self._exits.callback(self._rows.close)
        self._catch_up()
        self._before = self._end
        self._uncommitted = 0
        self.written = 0

    def get(self, id: str) -> J | None:
        """The record of that id, or None."""
        place = self._place(id)
        if place is None:
            return None
        record = self._read(place)
        if record.id != id:
            raise DataError(f"{self._path}: was changed by hand; remove {self._path.name}.index and run again")
        return record

    def add(self, record: J) -> None:
        """Appends a record. It is on the disk when this returns."""
        size = self._writer.write(record)
        self._rows.execute("INSERT OR REPLACE INTO places VALUES (?, ?)", (record.id, self._end))
        self._end += size
        self.written += 1
        self._uncommitted += 1
        if self._uncommitted >= COMMIT_EVERY:
            self._commit()

    def close(self) -> None:
        self._commit()
        self._exits.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _place(self, id: str) -> int | None:
        row = self._rows.execute("SELECT place FROM places WHERE id = ?", (id,)).fetchone()
        return None if row is None else int(row[0])

    def _read(self, place: int) -> J:
        self._reader.seek(place)
        try:
            return self._kind.model_validate_json(self._reader.readline())
        except ValidationError:
            raise DataError(
                f"{self._path}: at byte {place}: not a {self._what}; mend the line, or remove it and .index"
            ) from None

    def _commit(self) -> None:
        self._rows.execute("INSERT OR REPLACE INTO indexed VALUES (0, ?)", (self._end,))
        self._rows.commit()
        self._uncommitted = 0

    def _catch_up(self) -> None:
        """Indexes what the index does not know: all of a journal without one, or what was written before a kill."""
        row = self._rows.execute("SELECT bytes FROM indexed").fetchone()
        known = row[0] if row is not None else 0
        if known > self._end:
            self._rows.execute("DELETE FROM places")
            known = 0
        self._rows.executemany("INSERT OR REPLACE INTO places VALUES (?, ?)", self._ids(known))
        self._commit()

    def _ids(self, start: int) -> Iterator[tuple[str, int]]:
        """(id, byte position) of each record from a position on. Raises DataError for a line that is none."""
        with self._path.open("rb") as file:
            place = file.seek(start)
            for line in file:
                if line.strip():
                    try:
                        yield json.loads(line)["id"], place
                    except (ValueError, KeyError, TypeError):
                        raise DataError(
                            f"{self._path}: at byte {place}: not a {self._what}; mend or remove that line (what is in it is "
                            "asked again)"
                        ) from None
                place += len(line)


def _open_index(path: Path) -> sqlite3.Connection:
    """The index, made if it is not there or can not be read. It need not outlive a power cut: it can be made again."""
    for attempt in range(2):
        with disk_errors(path):
            connection = sqlite3.connect(path)
            try:
                connection.executescript(
                    "PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;"
                    "CREATE TABLE IF NOT EXISTS places (id TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID;"
                    "CREATE TABLE IF NOT EXISTS indexed (one INTEGER PRIMARY KEY, bytes INTEGER);"
                )
                return connection
            except sqlite3.DatabaseError as error:
                connection.close()
                if attempt:
                    raise DataError(
                        f"{path}: can not be made ({error}); free space, or choose another output"
                    ) from None
                path.unlink(missing_ok=True)
    raise AssertionError("unreachable")
