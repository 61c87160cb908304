"""One run of an ensemble over responses: programs first, then the judges that score, then those that compare."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rlaif.engines import make_engine
from rlaif.engines.base import Engine
from rlaif.judges.aggregate import (
    ensemble_margin,
    ensemble_score,
    outcome_of_margin,
    pairwise_tally,
    pointwise_tally,
)
from rlaif.judges.bradley_terry import fit_strengths
from rlaif.judges.compare import comparisons_of
from rlaif.judges.desk import Desk
from rlaif.judges.ensemble import Ensemble
from rlaif.judges.feed import Feed
from rlaif.judges.journal import Journal
from rlaif.judges.judge import Item, LLMJudge, program_judgment
from rlaif.judges.poll import Decision, waves
from rlaif.judges.responses import Responses
from rlaif.judges.stats import JudgeStats
from rlaif.judges.stopping import Seat
from rlaif.judges.vote import fixed_seat, planned_votes
from rlaif.progress import progress, say_new
from rlaif.types import JudgeTally, Judgment, Response, Score, Verdict, content_hash


@dataclass
class Session:
    """An ensemble, what it judges, and the journal of its votes."""

    ensemble: Ensemble
    responses: Responses
    journal: Journal
    engines: Mapping[str, Engine]
    stats: dict[str, JudgeStats] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for program in self.ensemble.programs:
            self.stats[program.name] = JudgeStats(program.name, "program", program.weight)
        for judge in (*self.ensemble.pointwise, *self.ensemble.pairwise):
            self.stats[judge.name] = JudgeStats(judge.name, judge.engine.model, judge.weight, judge.votes)

    # Asking

    def ask(self) -> None:
        """Fills the journal with every vote that the verdicts need."""
        self._run_programs()
        for wave in waves(self.ensemble.pointwise):
            asyncio.run(self._ask(wave, self._singles, len(self.responses), None))
        if self.ensemble.comparisons is None:
            return
        count = self._count_comparisons()
        pairwise = [judge for wave in waves(self.ensemble.pairwise) for judge in wave]
        decision = Decision(self.ensemble.stopping, self.ensemble.aggregate, pairwise)
        for wave in waves(self.ensemble.pairwise):
            asyncio.run(self._ask(wave, self._comparisons, count, decision))

    def _run_programs(self) -> None:
        for program in self.ensemble.programs:
            for item in self._singles():
                judgment = program_judgment(program, item)
                if self.journal.get(judgment.id) is None:
                    self.journal.add(judgment)
                self._count(item, 0, judgment)

    async def _ask(
        self, wave: list[LLMJudge], items: Callable[[], Iterator[Item]], count: int, decision: Decision | None
    ) -> None:
        """Asks one wave, whose judges share an engine. The engine opens only if there is something to ask."""
        engine = self.engines.get(wave[0].name) or make_engine(wave[0].engine)
        desk = Desk(engine, self.journal, decision, self._count, self._lose, self._scored_seats)
        feed = Feed(desk.requests(wave, items()))
        if not feed:
            return
        with progress(f"judge {engine.model}", count, "comparisons" if decision else "responses") as advance:
            async with engine:
                said = 0
                while feed:
                    async for completion in engine.complete_many(feed):
                        said = say_new(engine.notices, said, engine.model)
                        feed.push(desk.answered(completion))
                        advance(desk.take_finished())
                advance(desk.take_finished())
                say_new(engine.notices, said, engine.model)

    def _count(self, item: Item, vote: int, judgment: Judgment) -> None:
        self.journal.count(item.id, vote, judgment)
        self.stats[judgment.judge].count_vote(judgment)

    def _lose(self, failure: dict[str, str]) -> None:
        self.stats[failure["judge"]].failed += 1
        self.failures.append(failure)

    # What is judged

    def _singles(self) -> Iterator[Item]:
        for group in self.responses.groups():
            yield from (Item((response,)) for response in group)

    def _comparisons(self) -> Iterator[Item]:
        for _, items, _ in self._compared():
            yield from items

    def _compared(self) -> Iterator[tuple[str, list[Item], str]]:
        """(prompt id, its comparisons, why there are none) for each prompt."""
        assert self.ensemble.comparisons is not None
        for group in self.responses.groups():
            items, reason = comparisons_of(group, self.ensemble.comparisons, self._screening_score)
            yield group[0].prompt.id, items, reason

    def _count_comparisons(self) -> int:
        count = 0
        for prompt_id, items, reason in self._compared():
            count += len(items)
            if not items:
                self.skipped.append({"prompt_id": prompt_id, "reason": reason})
        return count

    def _screening_score(self, response: Response) -> float | None:
        return ensemble_score(self._scored_tallies((Item((response,)),)))

    # Verdicts

    def verdicts(self) -> Iterator[Verdict]:
        """The verdicts in the order of the responses, from the journal alone."""
        if self.ensemble.comparisons is None:
            for item in self._singles():
                yield self._told(self._response_verdict(item))
            return
        for _, items, _ in self._compared():
            tallies = [self._comparison_tallies(item) for item in items]
            for item, found, margin in zip(items, tallies, self._margins(items, tallies), strict=True):
                first, second = item.responses
                outcome = outcome_of_margin(margin, first.id, second.id)
                yield self._told(self._verdict(item, found, margin, outcome))

    def _margins(self, items: Sequence[Item], tallies: Sequence[list[JudgeTally]]) -> list[float | None]:
        """Of the comparisons of one prompt."""
        margins = [ensemble_margin(found, self.ensemble.aggregate) for found in tallies]
        if self.ensemble.aggregate != "bradley-terry":
            return margins
        place: dict[str, int] = {}
        for item in items:
            for response in item.responses:
                place.setdefault(response.id, len(place))
        pairs = [tuple(place[response.id] for response in item.responses) for item in items]
        known = [(i, j, margin) for (i, j), margin in zip(pairs, margins, strict=True) if margin is not None]
        if not known:
            return margins
        fitted = fit_strengths(len(place), known).margins
        return [None if margin is None else float(fitted[i, j]) for (i, j), margin in zip(pairs, margins, strict=True)]

    def _scored_seats(self, item: Item) -> list[Seat]:
        """What the judges that scored both responses of a comparison say of it."""
        return [fixed_seat(tally.weight, tally.margin) for tally in self._scored_tallies(_singly(item))]

    def _scored_tallies(self, singles: tuple[Item, ...]) -> list[JudgeTally]:
        if not self.ensemble.programs and not self.ensemble.pointwise:
            return []
        votes = [self.journal.votes(item.id) for item in singles]
        judges = [(judge.name, "program", judge.weight) for judge in self.ensemble.programs]
        judges += [(judge.name, judge.engine.model, judge.weight) for judge in self.ensemble.pointwise]
        return [
            pointwise_tally(name, model, weight, [list(found.get(name, {}).values()) for found in votes])
            for name, model, weight in judges
        ]

    def _response_verdict(self, item: Item) -> Verdict:
        tallies = self._scored_tallies((item,))
        score = ensemble_score(tallies)
        return self._verdict(item, tallies, None, Score(score=score) if score is not None else None)

    def _comparison_tallies(self, item: Item) -> list[JudgeTally]:
        first, second = item.responses
        found = self.journal.votes(item.id)
        tallies = self._scored_tallies(_singly(item))
        for judge in self.ensemble.pairwise:
            votes = found.get(judge.name, {})
            ordered = [votes[place] for place in sorted(votes)]
            planned = planned_votes(judge, votes)
            tally = pairwise_tally(judge.name, judge.engine.model, judge.weight, ordered, first.id, second.id)
            tallies.append(tally.model_copy(update={"planned": planned}))
        return tallies

    def _verdict(self, item: Item, tallies: list[JudgeTally], margin: float | None, outcome: object) -> Verdict:
        calibration = self.ensemble.calibration
        return Verdict.model_validate(
            {
                "id": content_hash(item.id, self.ensemble.name, [tally.judgments for tally in tallies]),
                "responses": item.responses,
                "outcome": outcome,
                "margin": margin,
                "confidence": calibration.confidence(margin) if calibration and margin else None,
                "ensemble": self.ensemble.name,
                "votes_planned": sum(tally.asked if tally.planned is None else tally.planned for tally in tallies),
                "votes_asked": sum(tally.asked for tally in tallies),
                "votes_counted": sum(tally.counted for tally in tallies),
                "votes_unparsed": sum(tally.unparsed for tally in tallies),
                "stopping_rule": str(self.ensemble.stopping),
                "gates": self.ensemble.stopping.gates if self.ensemble.stopping.rule == "cannot-lose" else (),
                "judges": tuple(tallies),
            }
        )

    def _told(self, verdict: Verdict) -> Verdict:
        for tally in verdict.judges:
            self.stats[tally.judge].count_tally(tally, verdict)
        return verdict


def _singly(item: Item) -> tuple[Item, ...]:
    return tuple(Item((response,)) for response in item.responses)
