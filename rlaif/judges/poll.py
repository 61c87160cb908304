"""The asking of one item by the judges of one wave: what is asked next follows from what was answered before."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rlaif.judges.config import Aggregate
from rlaif.judges.judge import Item, LLMJudge, distinct_votes
from rlaif.judges.stopping import Seat, Stopping
from rlaif.judges.vote import Ballot, order_of, pairwise_seat, planned_votes
from rlaif.types import Judgment


@dataclass
class Poll:
    """One item before the judges of a wave, cheapest first. All votes are asked of what is no comparison."""

    item: Item
    judges: Sequence[LLMJudge]
    votes: dict[str, dict[int, Judgment]]
    """Counted judgments by judge name, those of other waves included."""
    gone: set[tuple[str, int]] = field(default_factory=set)
    """Votes that could not be asked."""
    waiting: int = 0
    """Questions that are asked and not yet answered."""
    _asked: set[tuple[str, int]] = field(default_factory=set)

    def open_ballots(self, judge: LLMJudge) -> list[Ballot]:
        """The judge's ballots that were not asked yet, as far as it is known whether they will be."""
        votes = self.votes.get(judge.name, {})
        planned, distinct = planned_votes(judge, self.item, votes), distinct_votes(judge, self.item)
        gone = _gone(self, judge)
        if planned > distinct and any(vote not in votes and vote not in gone for vote in range(distinct)):
            planned = distinct  # its answers to these tell whether it would repeat itself
        return [Ballot(judge, self.item, vote) for vote in range(planned) if (judge.name, vote) not in self._asked]

    def take(self, ballots: Sequence[Ballot]) -> None:
        """Notes that these are asked now."""
        self._asked.update((ballot.judge.name, ballot.vote) for ballot in ballots)

    def count(self, ballot: Ballot, judgment: Judgment) -> None:
        self.votes.setdefault(ballot.judge.name, {})[ballot.vote] = judgment

    def lose(self, ballot: Ballot) -> None:
        """Notes that a vote could not be asked."""
        self.gone.add((ballot.judge.name, ballot.vote))


@dataclass(frozen=True)
class Decision:
    """What makes a comparison's verdict, for knowing when it is settled: all the ensemble's judges in order of asking."""

    stopping: Stopping
    aggregate: Aggregate
    pairwise: Sequence[LLMJudge]


def next_ballots(poll: Poll, decision: Decision | None, fixed: Sequence[Seat] = ()) -> list[Ballot]:
    """The ballots to ask now, none when the poll is over.

    decision: None for responses that are scored or ranked, which are asked everything. fixed: the seats of judges that
    scored or ranked the responses before. Judges without weight decide nothing and are there to be measured, so they are
    asked all. A vote in one order is followed by the one in the other before anything stops: else the size of a margin, by
    which pairs are ranked, would hang on who was shown first.
    """
    open_ballots = {judge.name: poll.open_ballots(judge) for judge in poll.judges}
    if decision is None:
        return [ballot for ballots in open_ballots.values() for ballot in ballots]
    seats = [
        pairwise_seat(judge, poll.item, poll.votes.get(judge.name, {}), _gone(poll, judge))
        for judge in decision.pairwise
    ]
    number = {judge.name: place for place, judge in enumerate(decision.pairwise)}
    deciding = [ballot for judge in poll.judges if judge.weight for ballot in open_ballots[judge.name]]
    queue = [(number[ballot.judge.name], order_of(poll.item, ballot.vote)) for ballot in deciding]
    count = decision.stopping.votes_at_once([*seats, *fixed], queue, decision.aggregate)
    if 0 < count < len(deciding) and deciding[count].judge is deciding[count - 1].judge and deciding[count].vote % 2:
        count += 1
    measured = [ballot for judge in poll.judges if not judge.weight for ballot in open_ballots[judge.name]]
    return [*deciding[:count], *measured]


def _gone(poll: Poll, judge: LLMJudge) -> set[int]:
    return {vote for name, vote in poll.gone if name == judge.name}


def waves(judges: Sequence[LLMJudge]) -> Iterator[list[LLMJudge]]:
    """The judges in the order in which they are asked, those of one engine together, the cheapest first."""
    by_engine: dict[str, list[LLMJudge]] = {}
    for judge in sorted(judges, key=lambda judge: judge.cost):
        by_engine.setdefault(judge.engine.model_dump_json(), []).append(judge)
    yield from by_engine.values()
