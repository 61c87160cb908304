"""One run of an ensemble over responses: first the judges that score, then those that rank, then those that compare."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rlaif.engines import Task, make_engine
from rlaif.engines.base import Completion, Engine, Request, ScoreCompletion, ScoreRequest
from rlaif.errors import DataError
from rlaif.judges.aggregate import ensemble_score
from rlaif.judges.checklists import Checklists, needs_writing, writing_request, written_checklist
from rlaif.judges.compare import comparisons_of
from rlaif.judges.config import ChecklistConfig, ChecklistItem, Comparisons
from rlaif.judges.desk import Desk
from rlaif.judges.ensemble import Ensemble
from rlaif.judges.feed import Feed
from rlaif.judges.journal import Journal
from rlaif.judges.judge import Item, LLMJudge, votes_wanted
from rlaif.judges.poll import Decision, waves
from rlaif.judges.program_judge import ProgramJudge, program_judgment
from rlaif.judges.responses import Responses
from rlaif.judges.reward import RewardJudge, reward_judgment, score_request
from rlaif.judges.stats import JudgeStats
from rlaif.judges.stopping import Seat
from rlaif.judges.tallies import Tallies
from rlaif.judges.vote import fixed_seat
from rlaif.progress import progress, say_new
from rlaif.types import Judgment, Prompt, Response

Asked = TypeVar("Asked", Request, ScoreRequest)
Answered = TypeVar("Answered", Completion, ScoreCompletion)
Pairing = Callable[[Sequence[Response]], tuple[list[Item], str]]
"""From a prompt's responses to their comparisons, and the reason if there are none."""
CHECKED_TOGETHER = 32
"""Responses that a program checks before others get a turn."""


@dataclass
class Session:
    """An ensemble, what it judges, and the journal of its votes."""

    ensemble: Ensemble
    responses: Responses
    journal: Journal
    engines: Mapping[str, Engine]
    checklists: Path | None = None
    """Where the checklists that models write are kept."""
    pairing: Pairing | None = None
    """Which responses are compared, instead of by the ensemble's rule."""
    is_part: bool = False
    """One of many sessions of a longer run: it shows no progress, and a judge may find nothing to ask."""
    stats: dict[str, JudgeStats] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    _made: dict[tuple[Task, str], Engine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for judge in self.ensemble.judges:
            votes = judge.votes if isinstance(judge, LLMJudge) else 1
            self.stats[judge.name] = JudgeStats(judge.name, judge.model, judge.weight, votes)

    @property
    def tallies(self) -> Tallies:
        """What the judges said so far."""
        return Tallies(self.ensemble, self.journal)

    def ask(self) -> None:
        """Fills the journal with every vote that the verdicts need."""
        asyncio.run(self.asking())

    async def asking(self) -> None:
        """The same inside an event loop, which goes on with other things while programs and models are at work."""
        await self._run_programs()
        self._take_labels(self.singles(), compares=False)
        for reward in sorted(self.ensemble.rewards, key=lambda judge: judge.cost):
            await self._score(reward)
        for judge in self.ensemble.llms:
            if judge.writer is not None:
                await self._write_checklists(judge)
        for wave in waves(self.ensemble.pointwise):
            await self._ask(wave, self._questioned(wave), len(self.responses), "responses", None)
            if not self.is_part:
                self._check_something_asked(wave)
        if self.ensemble.comparisons is None:
            return
        for wave in waves(self.ensemble.rankers):
            await self._ask(wave, self._ranked(wave), self.responses.prompts(), "prompts", None)
        count = self._count_comparisons()
        self._take_labels(self._comparisons(), compares=True)
        pairwise = [judge for wave in waves(self.ensemble.pairwise) for judge in wave]
        decision = Decision(self.ensemble.stopping, self.ensemble.aggregate, pairwise)
        for wave in waves(self.ensemble.pairwise):
            await self._ask(wave, self._comparisons(), count, "comparisons", decision)

    async def _run_programs(self) -> None:
        """Checks run in a thread; the journal is written here, since its database belongs to this one."""
        for program in self.ensemble.programs:
            items = self.singles()
            while taken := list(islice(items, CHECKED_TOGETHER)):
                for item, judgment in zip(taken, await asyncio.to_thread(_checked, program, taken), strict=True):
                    self._keep(item, judgment)

    def _take_labels(self, items: Iterable[Item], *, compares: bool) -> None:
        people = [human for human in self.ensemble.humans if human.compares == compares]
        if not people:
            return
        used: set[str] = set()
        for item in items:
            for human in people:
                for judgment in human.judgments(item):
                    used.add(judgment.raw)
                    self._keep(item, judgment)
        for human in people:
            for label in human.rows():
                if label.row not in used:
                    what = (
                        f"on responses that are not {'compared' if compares else 'there'}: {', '.join(label.responses)}"
                    )
                    self.skipped.append({"judge": human.name, "reason": f"a label {what}"})

    def _keep(self, item: Item, judgment: Judgment) -> None:
        """Counts a judgment that needs no engine; it is made anew in each run and written once."""
        if self.journal.get(judgment.id) is None:
            self.journal.add(judgment)
        self._count(item, judgment.vote, judgment)

    async def _score(self, judge: RewardJudge) -> None:
        """Asks a reward model for what is not in the journal."""
        engine = self._engine(judge)
        out: dict[str, Item] = {}

        def missing() -> Iterator[ScoreRequest]:
            for item in self.singles():
                request = score_request(judge, item)
                if (known := self.journal.get(request.key)) is not None:
                    self._count(item, 0, known)
                else:
                    out[request.key] = item
                    yield request

        def take(completion: ScoreCompletion) -> int:
            item = out.pop(completion.key)
            if completion.failure is not None:
                self._lose(_failure(judge.name, item.id, completion))
            else:
                judgment = reward_judgment(judge, item, completion)
                self.journal.add(judgment)
                self._count(item, 0, judgment)
            return 1

        await self._through(engine, Feed(missing()), engine.score_many, take, len(self.responses), "responses")

    async def _write_checklists(self, judge: LLMJudge) -> None:
        """Has the judge's model write the items of the prompts that bring none."""
        engine = self._engine(judge)
        out: dict[str, Prompt] = {}
        items: dict[str, tuple[ChecklistItem, ...]] = {}
        kept = Checklists(self.checklists)

        def missing() -> Iterator[Request]:
            for group in self.responses.groups():
                prompt = group[0].prompt
                if not needs_writing(judge, prompt):
                    continue
                request = writing_request(judge, prompt, engine.endpoint)
                if (known := kept.get(request.key)) is not None:
                    items[prompt.id] = known.as_items()
                else:
                    out[request.key] = prompt
                    yield request

        def take(completion: Completion) -> int:
            prompt = out.pop(completion.key)
            if completion.failure is not None:
                self._lose(_failure(judge.name, f"checklist of {prompt.id}", completion))
            else:
                written = written_checklist(judge, prompt, completion)
                kept.add(written)
                items[prompt.id] = written.as_items()
            return 1

        try:
            await self._through(
                engine, Feed(missing()), engine.complete_many, take, self.responses.prompts(), "checklists"
            )
        finally:
            kept.close()
        judges = tuple(replace(judge, written=items) if each is judge else each for each in self.ensemble.judges)
        self.ensemble = replace(self.ensemble, judges=judges)

    async def _ask(
        self, wave: list[LLMJudge], items: Iterable[Item], count: int, unit: str, decision: Decision | None
    ) -> None:
        """Asks one wave, whose judges share an engine."""
        engine = self._engine(wave[0])
        desk = Desk(engine, self.journal, decision, self._count, self._lose, self._seats_before)
        feed = Feed(desk.requests(wave, items))

        def take(completion: Completion) -> int:
            feed.push(desk.answered(completion))
            return desk.take_finished()

        await self._through(engine, feed, engine.complete_many, take, count, unit, desk.take_finished)

    async def _through(
        self,
        engine: Engine,
        feed: Feed[Asked],
        ask: Callable[[Iterable[Asked]], AsyncIterator[Answered]],
        take: Callable[[Answered], int],
        count: int,
        unit: str,
        rest: Callable[[], int] = lambda: 0,
    ) -> None:
        """Takes each answer in as it comes; take: gives back how many of `count` are through; rest: those at the end.

        The engine opens only if there is something to ask.
        """
        if not feed:
            return
        with progress(f"judge {engine.model}", count, unit, shown=not self.is_part) as advance:
            async with engine:
                said = len(engine.notices)
                while feed:
                    async for completion in ask(feed):
                        said = say_new(engine.notices, said, engine.model)
                        advance(take(completion))
                advance(rest())
                say_new(engine.notices, said, engine.model)

    def _engine(self, judge: LLMJudge | RewardJudge) -> Engine:
        """The judge's engine. Judges of one model share one, which opens and closes with each of their turns: so its budget of
        requests is of the whole session, and what it notices is said once."""
        if judge.name in self.engines:
            return self.engines[judge.name]
        task: Task = "score" if isinstance(judge, RewardJudge) else "generate"
        key = (task, judge.engine.model_dump_json())
        if key not in self._made:
            self._made[key] = make_engine(judge.engine, task)
        return self._made[key]

    def _seats_before(self, item: Item) -> list[Seat]:
        """What the judges say of a comparison that were asked before those that compare."""
        return [fixed_seat(tally.weight, tally.margin) for tally in self.tallies.before_comparing(item)]

    def _count(self, item: Item, vote: int, judgment: Judgment) -> None:
        self.journal.count(item.id, vote, judgment)
        self.stats[judgment.judge].count_vote(judgment)

    def _lose(self, failure: dict[str, str]) -> None:
        self.stats[failure["judge"]].failed += 1
        self.failures.append(failure)

    def singles(self) -> Iterator[Item]:
        for group in self.responses.groups():
            yield from (Item((response,)) for response in group)

    def _questioned(self, wave: Sequence[LLMJudge]) -> Iterator[Item]:
        """Each response; the judges that have no checklist for a prompt are noted."""
        for group in self.responses.groups():
            for judge in wave:
                if not votes_wanted(judge, Item((group[0],))):
                    self._skip(group, judge, "no checklist: " + _why_no_checklist(judge, group[0].prompt))
            yield from (Item((response,)) for response in group)

    def _ranked(self, wave: Sequence[LLMJudge]) -> Iterator[Item]:
        """All responses of each prompt that has different ones; the judges that may not rank so many are noted."""
        for group in self.responses.groups():
            if len({response.text for response in group}) < 2 and self.ensemble.comparisons != "models":
                continue
            item = Item(tuple(group))
            for judge in wave:
                if not votes_wanted(judge, item):
                    self._skip(
                        group, judge, f"{len(group)} responses are more than it ranks at once (`most` in its file)"
                    )
            if len(group) > 1:
                yield item

    def _skip(self, group: Sequence[Response], judge: LLMJudge, reason: str) -> None:
        self.skipped.append({"prompt_id": group[0].prompt.id, "judge": judge.name, "reason": reason})

    def _check_something_asked(self, wave: Sequence[LLMJudge]) -> None:
        """Raises DataError for a checklist judge that found no checklist at all."""
        for judge in wave:
            unasked = not self.stats[judge.name].asked and not self.stats[judge.name].failed
            if isinstance(judge.config, ChecklistConfig) and unasked:
                raise DataError(f"the checklist judge '{judge.name}' has nothing to ask: {_no_checklist_at_all(judge)}")

    def _comparisons(self) -> Iterator[Item]:
        for _, items, _ in self.compared():
            yield from items

    def compared(self) -> Iterator[tuple[str, list[Item], str]]:
        """(prompt id, its comparisons, why there are none) for each prompt."""
        assert self.ensemble.comparisons is not None
        for group in self.responses.groups():
            items, reason = self._paired(group, self.ensemble.comparisons)
            yield group[0].prompt.id, items, reason

    def _paired(self, group: Sequence[Response], rule: Comparisons) -> tuple[list[Item], str]:
        return self.pairing(group) if self.pairing else comparisons_of(group, rule, self._screening_score)

    def _count_comparisons(self) -> int:
        count = 0
        for prompt_id, items, reason in self.compared():
            count += len(items)
            if not items:
                self.skipped.append({"prompt_id": prompt_id, "reason": reason})
        return count

    def _screening_score(self, response: Response) -> float | None:
        return ensemble_score(self.tallies.of_response(Item((response,))))


def _checked(program: ProgramJudge, items: Sequence[Item]) -> list[Judgment]:
    return [program_judgment(program, item) for item in items]


def _no_checklist_at_all(judge: LLMJudge) -> str:
    if judge.writer is not None:
        return (
            f"no list of questions could be read in what {judge.model} wrote (the texts are in checklists.jsonl beside the "
            "output); use a model that follows instructions better, or bring checklists in the prompts' metadata"
        )
    return (
        "no prompt brings a checklist in its metadata, and the judge's file has no items; add one of the two, or let its model "
        "write them with write: {}"
    )


def _why_no_checklist(judge: LLMJudge, prompt: Prompt) -> str:
    if judge.writer is None:
        return "none in its metadata, and none in the judge's file"
    if prompt.id in judge.written:
        return "none could be read in what the model wrote"
    return "it could not be written (see failed.jsonl)"


def _failure(judge: str, what: str, completion: Completion | ScoreCompletion) -> dict[str, str]:
    return {"judge": judge, "comparison_id": what, "reason": completion.failure or "", "detail": completion.detail}
