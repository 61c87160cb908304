"""All judgments in one append-only file, found by id through an index beside it: memory does not grow with their number.

The JSONL file is the truth; the index (SQLite) only says where in it each judgment stands, and is made again when it does
not fit. A ballot box notes which judgments count in this run.
"""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import ValidationError

from rlaif.errors import DataError
from rlaif.records import RecordWriter, disk_errors, keep_old
from rlaif.types import Judgment

COMMIT_EVERY = 1000


@contextmanager
def index_errors(path: Path | None) -> Iterator[None]:
    """Turns what the database of an index fails with, such as a full disk or another run that writes it, into one DataError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        where = f"{path}.d" if path is not None else "the temporary folder"
        raise DataError(
            f"{where}: {error}; what was answered is kept: make room, or let the other run end, and run the same command again"
        ) from None


class Journal:
    """The judgments of this and earlier runs: those of an earlier run are reused, new ones are appended as they come."""

    def __init__(self, path: Path | None, *, overwrite: bool = False) -> None:
        """path: the journal; None keeps it in a temporary folder. overwrite: begin a new one, the old one kept aside."""
        self._exits = ExitStack()
        if path is None:
            path = Path(self._exits.enter_context(tempfile.TemporaryDirectory())) / "judgments.jsonl"
        index = path.with_name(path.name + ".index")
        if overwrite:
            keep_old(path)
        if not path.exists():
            index.unlink(missing_ok=True)
        self._path = path
        self._writer = RecordWriter[Judgment](path)
        self._exits.callback(self._writer.close)
        self._reader = self._exits.enter_context(path.open("rb"))
        self._end = path.stat().st_size
        self._rows = _open_index(index)
        self._exits.callback(self._rows.close)
        self._catch_up(path)
        self._rows.execute(
            "CREATE TEMP TABLE box (item TEXT, judge TEXT, vote INTEGER, place INTEGER, "
            "PRIMARY KEY (item, judge, vote)) WITHOUT ROWID"
        )
        self._before = self._end
        self._uncommitted = 0
        self.written = 0
        self.reused = 0

    def get(self, id: str) -> Judgment | None:
        """The judgment of that id, or None."""
        row = self._rows.execute("SELECT place FROM judgments WHERE id = ?", (id,)).fetchone()
        if row is None:
            return None
        judgment = self._read(row[0])
        if judgment.id != id:
            raise DataError(f"{self._path}: was changed by hand; remove {self._path.name}.index and run again")
        return judgment

    def add(self, judgment: Judgment) -> None:
        """Appends a judgment. It is on the disk when this returns."""
        size = self._writer.write(judgment)
        self._rows.execute("INSERT OR REPLACE INTO judgments VALUES (?, ?)", (judgment.id, self._end))
        self._end += size
        self.written += 1
        self._uncommitted += 1
        if self._uncommitted >= COMMIT_EVERY:
            self._commit()

    def count(self, item: str, vote: int, judgment: Judgment) -> None:
        """Notes that a judgment is a vote on an item in this run."""
        (place,) = self._rows.execute("SELECT place FROM judgments WHERE id = ?", (judgment.id,)).fetchone()
        self._rows.execute("INSERT OR REPLACE INTO box VALUES (?, ?, ?, ?)", (item, judgment.judge, vote, place))
        self.reused += place < self._before

    def votes(self, item: str) -> dict[str, dict[int, Judgment]]:
        """The judgments counted for an item in this run: by judge, then by vote."""
        found: dict[str, dict[int, Judgment]] = {}
        rows = self._rows.execute("SELECT judge, vote, place FROM box WHERE item = ?", (item,)).fetchall()
        for judge, vote, place in rows:
            found.setdefault(judge, {})[vote] = self._read(place)
        return found

    def close(self) -> None:
        self._commit()
        self._exits.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self, place: int) -> Judgment:
        self._reader.seek(place)
        try:
            return Judgment.model_validate_json(self._reader.readline())
        except ValidationError:
            raise DataError(
                f"{self._path}: at byte {place}: not a judgment; mend the line, or remove it and .index"
            ) from None

    def _commit(self) -> None:
        self._rows.execute("INSERT OR REPLACE INTO size VALUES (0, ?)", (self._end,))
        self._rows.commit()
        self._uncommitted = 0

    def _catch_up(self, path: Path) -> None:
        """Indexes what the index does not know: all of a journal without one, or what was written before a kill."""
        row = self._rows.execute("SELECT bytes FROM size").fetchone()
        known = row[0] if row is not None else 0
        if known > self._end:
            self._rows.execute("DELETE FROM judgments")
            known = 0
        self._rows.executemany("INSERT OR REPLACE INTO judgments VALUES (?, ?)", _ids(path, known))
        self._commit()


def _open_index(path: Path) -> sqlite3.Connection:
    """The index, made if it is not there or can not be read. It need not outlive a power cut: it can be made again."""
    for attempt in range(2):
        with disk_errors(path):
            connection = sqlite3.connect(path)
            try:
                connection.executescript(
                    "PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;"
                    "CREATE TABLE IF NOT EXISTS judgments (id TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID;"
                    "CREATE TABLE IF NOT EXISTS size (one INTEGER PRIMARY KEY, bytes INTEGER);"
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


def _ids(path: Path, start: int) -> Iterator[tuple[str, int]]:
    """(id, byte position) of each judgment from a position on. Raises DataError for a line that is none."""
    with path.open("rb") as file:
        place = file.seek(start)
        for line in file:
            if line.strip():
                try:
                    yield json.loads(line)["id"], place
                except (ValueError, KeyError, TypeError):
                    raise DataError(
                        f"{path}: at byte {place}: not a judgment; mend or remove that line (the votes in it are asked again)"
                    ) from None
            place += len(line)
