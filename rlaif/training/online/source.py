"""One source of rewards: a judge or ensemble of any kind, asked about groups of responses as they come."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlaif.engines.base import Engine
from rlaif.errors import Unavailable
from rlaif.journal import index_errors
from rlaif.judges.ensemble import Ensemble
from rlaif.judges.journal import Journal
from rlaif.judges.judge import Item
from rlaif.judges.session import Pairing, Session
from rlaif.training.config.rewards import GroupComparisons
from rlaif.training.online.baselines import Baseline
from rlaif.training.online.groups import Group, Shown
from rlaif.training.online.patience import Patience
from rlaif.training.online.values import Scored, against, in_group, margins_of, score_of
from rlaif.types import Response


@dataclass(eq=False)
class Wanted:
    """A group on its way through a source."""

    group: Group
    scored: dict[str, Scored] | None = None
    """What was said of each text, once it was."""


@dataclass
class Source:
    """A judge with its journal. It is used on one event loop, by any number of calls at a time."""

    name: str
    weight: float
    ensemble: Ensemble
    comparisons: GroupComparisons | None
    """None: it scores single responses."""
    baseline: Baseline | None
    """Where responses are compared with fixed answers."""
    folder: Path
    engines: Mapping[str, Engine]
    """By judge name; they stay open."""
    patience_seconds: float
    _journal: Journal | None = None
    _waiting: list[Wanted] = field(default_factory=list)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def open(self) -> None:
        """Opens the journal, for the thread that scores."""
        with index_errors(self.folder):
            self._journal = Journal(self.folder / "judgments.jsonl")

    def close(self) -> None:
        if self._journal is not None:
            with index_errors(self.folder):
                self._journal.close()
            self._journal = None

    async def score(self, groups: Sequence[Group]) -> list[list[Scored]]:
        """Of each response of each group. Whoever has its turn judges all that waits, of other calls too."""
        wanted = [Wanted(group) for group in groups]
        self._waiting.extend(wanted)
        try:
            async with self._turn:
                while any(each.scored is None for each in wanted):
                    await self._judge_waiting()
        finally:
            self._waiting = [each for each in self._waiting if each not in wanted]
        return [[(each.scored or {})[response.text] for response in each.group.responses] for each in wanted]

    async def _judge_waiting(self) -> None:
        taken = self._take()
        try:
            with index_errors(self.folder):
                await self._judge(taken)
        finally:
            self._waiting = [*(each for each in taken if each.scored is None), *self._waiting]

    def _take(self) -> list[Wanted]:
        """What waits, as far as no prompt and no response is in it twice: a session asks each once."""
        taken: list[Wanted] = []
        seen: set[tuple[str, str]] = set()
        for each in self._waiting:
            names = {("response", response.id) for response in each.group.responses}
            names |= {("prompt", response.prompt.id) for response in each.group.responses}
            if seen.isdisjoint(names):
                seen |= names
                taken.append(each)
        self._waiting = [each for each in self._waiting if each not in taken]
        return taken

    async def _judge(self, taken: Sequence[Wanted]) -> None:
        """Judges groups, and gives each what was said of it."""
        if self.baseline is not None:
            await self._judge_against(taken, self.baseline)
            return
        session = await self._asked(Shown([each.group.distinct for each in taken]))
        margins = None if self.comparisons is None else margins_of(session)
        for each in taken:
            if margins is None:
                each.scored = {response.text: score_of(session, response) for response in each.group.distinct}
            else:
                each.scored = in_group(margins, each.group, every=self.comparisons == "all")

    async def _judge_against(self, taken: Sequence[Wanted], baseline: Baseline) -> None:
        answers = [baseline(each.group.responses[0].prompt) for each in taken]
        known = [(each, answer) for each, answer in zip(taken, answers, strict=True) if answer is not None]
        margins = margins_of(await self._asked(Shown([_beside(answer, each) for each, answer in known]), _with_first))
        for each, answer in known:
            each.scored = against(margins, each.group.distinct, answer)
        for each in taken:
            if each.scored is None:
                reason = f"no baseline answer to the prompt {each.group.responses[0].prompt.id}"
                each.scored = {response.text: Scored(None, reason) for response in each.group.distinct}

    async def _asked(self, shown: Shown, pairing: Pairing | None = None) -> Session:
        """A session in which everything was asked, however long an endpoint was out. Raises OutageError if for too long."""
        assert self._journal is not None, "scores are asked of an open source"
        patience = Patience(self.name, self.patience_seconds, self.folder)
        while True:
            self._journal.forget_votes()
            session = Session(
                self.ensemble, shown, self._journal, self.engines, self.folder / "checklists.jsonl", pairing=pairing,
                is_part=True,
            )  # fmt: skip
            before = self._journal.written
            problem = await _outage(session)
            if problem is None:
                patience.end()
                return session
            await patience.wait(problem, gained=self._journal.written > before)


async def _outage(session: Session) -> str | None:
    """Asks what is to be asked. Gives back what kept an endpoint from answering, if something did that may pass."""
    try:
        await session.asking()
    except Unavailable as error:
        return str(error)
    return next((lost["detail"] for lost in session.failures if lost["reason"] == "unavailable"), None)


def _beside(answer: Response, wanted: Wanted) -> list[Response]:
    """The baseline answer, and the responses that differ from it."""
    return [answer, *(each for each in wanted.group.distinct if each.text != answer.text)]


def _with_first(group: Sequence[Response]) -> tuple[list[Item], str]:
    """Each response compared with the first of its group."""
    first, *others = group
    items = [Item((other, first), tuple(group)) for other in others]
    return items, "" if items else "no response differs from the baseline answer"
