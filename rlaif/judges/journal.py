"""The journal of the votes, and a ballot box beside it that notes which of them count in this run."""

from pathlib import Path

from rlaif import journal
from rlaif.types import Judgment


class Journal(journal.Journal[Judgment]):
    """The judgments of this and earlier runs, and which of them are votes on what."""

    def __init__(self, path: Path | None, *, overwrite: bool = False) -> None:
        """path: the journal; None keeps it in a temporary folder. overwrite: begin a new one, the old one kept aside."""
        super().__init__(path, Judgment, overwrite=overwrite)
        self._rows.execute(
            "CREATE TEMP TABLE box (item TEXT, judge TEXT, vote INTEGER, place INTEGER, "
            "PRIMARY KEY (item, judge, vote)) WITHOUT ROWID"
        )
        self.reused = 0

    def count(self, item: str, vote: int, judgment: Judgment) -> None:
        """Notes that a judgment is a vote on an item in this run."""
        place = self._place(judgment.id)
        assert place is not None, "a judgment that counts is in the journal"
        self._rows.execute("INSERT OR REPLACE INTO box VALUES (?, ?, ?, ?)", (item, judgment.judge, vote, place))
        self.reused += place < self._before

    def forget_votes(self) -> None:
        """Begins a new count: what is in the journal stays, but is no vote until it is counted again."""
        self._rows.execute("DELETE FROM box")

    def votes(self, item: str) -> dict[str, dict[int, Judgment]]:
        """The judgments counted for an item in this run: by judge, then by vote."""
        found: dict[str, dict[int, Judgment]] = {}
        rows = self._rows.execute("SELECT judge, vote, place FROM box WHERE item = ?", (item,)).fetchall()
        for judge, vote, place in rows:
            found.setdefault(judge, {})[vote] = self._read(place)
        return found
