"""Where the questions of one wave of judges go out and their answers come in."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rlaif.engines.base import Completion, Engine, Request
from rlaif.judges.answer import read_judgment, repaired_judgment
from rlaif.judges.journal import Journal
from rlaif.judges.judge import Item, LLMJudge
from rlaif.judges.poll import Decision, Poll, next_ballots
from rlaif.judges.request import judge_request, repair_request
from rlaif.judges.stopping import Seat
from rlaif.judges.vote import Ballot
from rlaif.types import Judgment


@dataclass
class Desk:
    """Where one wave's questions go out and its answers come in."""

    engine: Engine
    journal: Journal
    decision: Decision | None
    count: Callable[[Item, int, Judgment], None]
    """Takes a vote that counts: its item and its index."""
    lose: Callable[[dict[str, str]], None]
    """Takes what is told of a vote that could not be asked."""
    scored_seats: Callable[[Item], Sequence[Seat]]
    """What the judges that scored both responses of a comparison say of it."""
    _finished: int = 0
    _out: dict[str, "Question"] = field(default_factory=dict)

    def take_finished(self) -> int:
        """How many items are through since this was last asked."""
        finished, self._finished = self._finished, 0
        return finished

    def requests(self, wave: Sequence[LLMJudge], items: Iterable[Item]) -> Iterator[Request]:
        """The first questions of each item; items are taken only as the engine has room."""
        for item in items:
            votes = self.journal.votes(item.id) if self.decision is not None else {}
            yield from self._next(Poll(item, wave, votes))

    def answered(self, completion: Completion) -> list[Request]:
        """Takes an answer in, and gives back what is asked because of it."""
        question = self._out.pop(completion.key)
        poll, ballot = question.poll, question.ballot
        if completion.failure is not None:
            poll.lose(ballot)
            self.lose(_failure(ballot, completion))
        else:
            judgment = self._read(question, completion)
            self.journal.add(judgment)
            if (repair := self._repair(question, judgment)) is not None:
                return [repair]
        poll.waiting -= 1
        return [] if poll.waiting else list(self._next(poll))

    def _read(self, question: "Question", completion: Completion) -> Judgment:
        ballot = question.ballot
        if question.unread is not None:
            return repaired_judgment(ballot.judge, ballot.item, question.unread, completion)
        return read_judgment(ballot.judge, ballot.item, ballot.vote, self.engine.endpoint, completion)

    def _next(self, poll: Poll) -> Iterator[Request]:
        """What is asked now. Answers that are in the journal are taken from there, until something has to be asked."""
        fixed = self.scored_seats(poll.item) if self.decision is not None else ()
        while ballots := next_ballots(poll, self.decision, fixed):
            poll.take(ballots)
            missing = [request for ballot in ballots if (request := self._missing(poll, ballot)) is not None]
            if missing:
                poll.waiting = len(missing)
                yield from missing
                return
        self._finished += 1

    def _missing(self, poll: Poll, ballot: Ballot) -> Request | None:
        request = judge_request(ballot.judge, ballot.item, ballot.vote, self.engine.endpoint)
        question = Question(poll, ballot, request)
        known = self.journal.get(request.key)
        if known is not None:
            return self._repair(question, known)
        self._out[request.key] = question
        return request

    def _repair(self, question: "Question", judgment: Judgment) -> Request | None:
        """Counts a vote, unless it could not be read and its one further question is still to be asked: that question."""
        ballot = question.ballot
        repair = None if question.unread is not None else repair_request(ballot.judge, question.request, judgment)
        if repair is not None and (repaired := self.journal.get(repair.key)) is None:
            self._out[repair.key] = replace(question, request=repair, unread=judgment)
            return repair
        if repair is not None and repaired is not None:
            judgment = repaired
        question.poll.count(ballot, judgment)
        self.count(ballot.item, ballot.vote, judgment)
        return None


@dataclass(frozen=True)
class Question:
    """A request that is out."""

    poll: Poll
    ballot: Ballot
    request: Request
    unread: Judgment | None = None
    """For a repair: the judgment whose answer could not be read."""


def _failure(ballot: Ballot, completion: Completion) -> dict[str, str]:
    return {
        "judge": ballot.judge.name,
        "comparison_id": ballot.item.id,
        "reason": completion.failure or "",
        "detail": completion.detail,
    }
