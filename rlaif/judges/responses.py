"""Responses by prompt, from a file or a list, again and again without holding a file in memory."""

import codecs
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rlaif.errors import DataError
from rlaif.judges.compare import by_prompt
from rlaif.records import read_records_with_places
from rlaif.types import Response


class Responses(Protocol):
    """Responses, each id once."""

    def __len__(self) -> int: ...

    def groups(self) -> Iterator[list[Response]]:
        """The responses of each prompt, prompts in the order of their first response."""

    def models(self) -> set[str]:
        """The models that answered."""

    def prompts(self) -> int:
        """How many prompts there are."""


def open_responses(responses: str | Path | Iterable[Response]) -> Responses:
    """The rows of a file of responses, or the given rows. Raises DataError for none, or an id that is used twice."""
    if isinstance(responses, str | Path):
        return ResponseFile(Path(responses))
    return ResponseList(list(responses))


class ResponseList:
    """Responses in memory."""

    def __init__(self, rows: Sequence[Response]) -> None:
        if not rows:
            raise DataError("the given responses: no responses in it; make some with rlaif generate")
        seen: set[str] = set()
        for number, row in enumerate(rows, start=1):
            if row.id in seen:
                raise DataError(f"the given responses: {_used_twice(number, row.id)}")
            seen.add(row.id)
        self._groups = by_prompt(rows)
        self._models = {row.model for row in rows}
        self._count = len(rows)

    def __len__(self) -> int:
        return self._count

    def groups(self) -> Iterator[list[Response]]:
        yield from self._groups.values()

    def models(self) -> set[str]:
        return self._models

    def prompts(self) -> int:
        return len(self._groups)


class ResponseFile:
    """A file of responses: where each stands is noted once, in a database on the disk, and read again when needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = sqlite3.connect("")  # a temporary file that SQLite removes itself
        self._rows.executescript(
            "CREATE TABLE prompts (id TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;"
            "CREATE TABLE responses (id TEXT PRIMARY KEY, prompt INTEGER, model TEXT, sample INTEGER, place INTEGER) "
            "WITHOUT ROWID;"
        )
        self._count = 0
        for place, row in read_records_with_places(path, Response):
            self._note(place, row)
        if not self._count:
            raise DataError(f"{path}: no responses in it; make some with rlaif generate")
        self._rows.execute("CREATE INDEX by_prompt ON responses (prompt, model, sample, id)")

    def _note(self, place: int, row: Response) -> None:
        self._count += 1
        self._rows.execute("INSERT OR IGNORE INTO prompts VALUES (?, ?)", (row.prompt.id, self._count))
        (number,) = self._rows.execute("SELECT number FROM prompts WHERE id = ?", (row.prompt.id,)).fetchone()
        try:
            self._rows.execute(
                "INSERT INTO responses VALUES (?, ?, ?, ?, ?)", (row.id, number, row.model, row.sample_index, place)
            )
        except sqlite3.IntegrityError:
            raise DataError(f"{self._path}: {_used_twice(self._count, row.id)}") from None

    def __len__(self) -> int:
        return self._count

    def groups(self) -> Iterator[list[Response]]:
        found = self._rows.execute("SELECT prompt, place FROM responses ORDER BY prompt, model, sample, id")
        group: list[Response] = []
        current: int | None = None
        with self._path.open("rb") as file:
            for prompt, place in found:
                if prompt != current and group:
                    yield group
                    group = []
                current = prompt
                file.seek(place)
                group.append(Response.model_validate_json(file.readline().removeprefix(codecs.BOM_UTF8)))
        if group:
            yield group

    def models(self) -> set[str]:
        return {model for (model,) in self._rows.execute("SELECT DISTINCT model FROM responses")}

    def prompts(self) -> int:
        (count,) = self._rows.execute("SELECT COUNT(*) FROM prompts").fetchone()
        return int(count)


def _used_twice(number: int, id: str) -> str:
    return f"response {number}: the id '{id}' is used twice; ids must be unique"
