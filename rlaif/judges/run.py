"""Responses to verdicts: every vote goes to an append-only journal first, verdicts are derived from it without calls."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from rlaif.engines import EngineConfig, make_engine
from rlaif.engines.base import Completion, Engine, Request
from rlaif.errors import DataError, QualityGateError
from rlaif.generation import write_notes
from rlaif.judges.aggregate import (
    ensemble_margin,
    ensemble_score,
    outcome_of_margin,
    pairwise_tally,
    pointwise_tally,
)
from rlaif.judges.compare import by_prompt, comparisons_of
from rlaif.judges.config import Comparisons
from rlaif.judges.ensemble import Ensemble, load_ensemble
from rlaif.judges.judge import Item, LLMJudge, judge_request, program_judgment, read_judgment
from rlaif.judges.stats import JudgeStats, judge_stats
from rlaif.judges.vote import STOPPING_RULE, first_votes, further_votes, orders
from rlaif.progress import progress, say
from rlaif.records import RecordWriter, keep_old, read_records, refuse_same_file, write_records
from rlaif.types import JudgeTally, Judgment, Response, Score, Verdict, content_hash

MAX_FAILED_SHARE = 0.05


@dataclass
class JudgeResult:
    """What `judge` gives back."""

    verdicts: list[Verdict] = field(default_factory=list)
    judges: list[JudgeStats] = field(default_factory=list)
    """Per judge: votes, unparsed, first-pick rate, order consistency, agreement with the verdict."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Prompts without a comparison: prompt_id, reason."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """Votes that could not be asked: judge, comparison_id, reason, detail. They are asked again by the same command."""
    new_judgments: int = 0
    reused_judgments: int = 0
    output: Path | None = None


def judge(
    responses: str | Path | Iterable[Response],
    judge: str,
    *,
    votes: int = 2,
    models: Sequence[str | EngineConfig] = (),
    comparisons: Comparisons | None = None,
    output: str | Path | None = None,
    max_unparsed: float = 0.05,
    engines: Mapping[str, Engine] | None = None,
    overwrite: bool = False,
) -> JudgeResult:
    """The verdicts of a judge or ensemble on the responses.

    responses: a file of Response rows, or the rows. judge: a shipped name or a YAML file. votes: per judge and item.
    output: a JSONL file; the votes go to <output>.d/judgments.jsonl and are never asked twice.
    max_unparsed: share of a judge's votes without an outcome above which QualityGateError is raised, with all saved.
    engines: already made engines by judge name, instead of those the configurations describe.
    """
    configs = tuple(EngineConfig(model=model) if isinstance(model, str) else model for model in models)
    ensemble = load_ensemble(judge, votes=votes, models=configs, comparisons=comparisons)
    if isinstance(responses, str | Path):
        refuse_same_file(responses, output)
    rows = read_responses(responses)
    path = Path(output) if output is not None else None
    result = JudgeResult(output=path)
    with Journal(path, overwrite) as journal:
        Session(ensemble, rows, journal, engines or {}, result).run()
        result.new_judgments, result.reused_judgments = journal.written, journal.reused
    if path is not None:
        write_records(path, result.verdicts)
        write_notes(path, "skipped.jsonl", result.skipped)
        write_notes(path, "failed.jsonl", result.failures)
    _check_quality(result, max_unparsed)
    return result


def read_responses(responses: str | Path | Iterable[Response]) -> list[Response]:
    """The rows, each id once. Raises DataError for an empty file or an id that is used twice."""
    is_file = isinstance(responses, str | Path)
    rows = list(read_records(Path(responses), Response)) if isinstance(responses, str | Path) else list(responses)
    where = str(responses) if is_file else "the given responses"
    if not rows:
        raise DataError(f"{where}: no responses in it; make some with rlaif generate")
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        if row.id in seen:
            raise DataError(f"{where}: response {number}: the id '{row.id}' is used twice; ids must be unique")
        seen.add(row.id)
    return rows


class Journal:
    """All judgments, by id: those of an earlier run are reused, new ones are appended as they come."""

    def __init__(self, output: Path | None, overwrite: bool = False) -> None:
        self._known: dict[str, Judgment] = {}
        self._writer: RecordWriter[Judgment] | None = None
        self._used: set[str] = set()
        self.written = 0
        if output is not None:
            path = output.with_name(output.name + ".d") / "judgments.jsonl"
            if overwrite:
                keep_old(path)
            if path.exists():
                self._known = {row.id: row for row in read_records(path, Judgment, tolerate_torn_tail=True)}
            self._writer = RecordWriter(path)
        self._before = set(self._known)

    @property
    def reused(self) -> int:
        """How many judgments of earlier runs were needed again."""
        return len(self._used & self._before)

    def get(self, id: str) -> Judgment | None:
        self._used.add(id)
        return self._known.get(id)

    def add(self, judgment: Judgment) -> None:
        self._known[judgment.id] = judgment
        self.written += 1
        if self._writer is not None:
            self._writer.write(judgment)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()


@dataclass
class Session:
    """One run of an ensemble over responses."""

    ensemble: Ensemble
    responses: list[Response]
    journal: Journal
    engines: Mapping[str, Engine]
    result: JudgeResult
    votes: dict[tuple[str, str], dict[int, Judgment]] = field(default_factory=dict)
    """Judgments by vote, for each (judge name, item id)."""

    def run(self) -> None:
        """Programs first, then pointwise judges, then the comparisons: local models load one after the other."""
        singles = [Item((response,)) for response in self.responses]
        for program in self.ensemble.programs:
            for item in singles:
                judgment = program_judgment(program, item)
                if self.journal.get(judgment.id) is None:
                    self.journal.add(judgment)
                self.votes[program.name, item.id] = {0: judgment}
        asyncio.run(self._ask(self.ensemble.pointwise, singles))
        if self.ensemble.comparisons is None:
            self.result.verdicts = [self._response_verdict(item) for item in singles]
        else:
            items = list(self._comparisons())
            asyncio.run(self._ask(self.ensemble.pairwise, items))
            self.result.verdicts = [self._comparison_verdict(item) for item in items]
        every = (judgment for votes in self.votes.values() for judgment in votes.values())
        self.result.judges = judge_stats(self.result.verdicts, every)

    def _comparisons(self) -> Iterator[Item]:
        assert self.ensemble.comparisons is not None
        for prompt_id, group in by_prompt(self.responses).items():
            items, reason = comparisons_of(group, self.ensemble.comparisons, self._screening_score)
            if not items:
                self.result.skipped.append({"prompt_id": prompt_id, "reason": reason})
            yield from items

    def _screening_score(self, response: Response) -> float | None:
        return ensemble_score(self._pointwise_tallies((Item((response,)),)))

    async def _ask(self, judges: Sequence[LLMJudge], items: list[Item]) -> None:
        """Judges that share a model share its engine; one engine is open at a time."""
        keyed = sorted(judges, key=lambda judge: judge.engine.model_dump_json())
        for _, members in groupby(keyed, key=lambda judge: judge.engine.model_dump_json()):
            await self._ask_model(list(members), items)

    async def _ask_model(self, judges: list[LLMJudge], items: list[Item]) -> None:
        engine = self.engines.get(judges[0].name) or make_engine(judges[0].engine)
        first = [Ballot(judge, item, vote) for judge in judges for item in items for vote in first_votes(judge)]
        missing = self._missing(first, engine)
        if missing or self._missing(self._further(judges, items), engine):
            async with engine:
                await self._collect(missing, engine)
                await self._collect(self._missing(self._further(judges, items), engine), engine)
                for notice in engine.notices:
                    say(f"{engine.model}: {notice}")
        for judge in judges:
            _tell_repeats(judge, sum(len(self._votes(judge.name, item)) for item in items), len(items))

    def _further(self, judges: list[LLMJudge], items: list[Item]) -> list["Ballot"]:
        """The ballots that follow from the first votes."""
        ballots = []
        for judge in judges:
            for item in items:
                votes = self.votes.get((judge.name, item.id), {})
                earlier = [votes.get(vote) for vote in first_votes(judge)]
                ballots += [Ballot(judge, item, vote) for vote in further_votes(judge, earlier)]
        return ballots

    def _missing(self, ballots: list["Ballot"], engine: Engine) -> dict[str, tuple["Ballot", Request]]:
        """The ballots that are not in the journal, by the key of their request; the others are taken from it."""
        missing = {}
        for ballot in ballots:
            request = judge_request(ballot.judge, ballot.item, ballot.vote, engine.endpoint)
            known = self.journal.get(request.key)
            if known is None:
                missing[request.key] = (ballot, request)
            else:
                self._count(ballot, known)
        return missing

    async def _collect(self, missing: dict[str, tuple["Ballot", Request]], engine: Engine) -> None:
        if not missing:
            return
        with progress(f"judge {engine.model}", len(missing), "votes") as advance:
            async for completion in engine.complete_many([request for _, request in missing.values()]):
                ballot, _ = missing[completion.key]
                if completion.failure is None:
                    judgment = read_judgment(ballot.judge, ballot.item, ballot.vote, engine.endpoint, completion)
                    self.journal.add(judgment)
                    self._count(ballot, judgment)
                else:
                    self.result.failures.append(_failure(ballot, completion))
                advance(1)

    def _count(self, ballot: "Ballot", judgment: Judgment) -> None:
        self.votes.setdefault((ballot.judge.name, ballot.item.id), {})[ballot.vote] = judgment

    def _votes(self, judge: str, item: Item) -> list[Judgment]:
        votes = self.votes.get((judge, item.id), {})
        return [votes[vote] for vote in sorted(votes)]

    def _pointwise_tallies(self, singles: tuple[Item, ...]) -> list[JudgeTally]:
        tallies = [
            pointwise_tally(judge.name, "program", judge.weight, [self._votes(judge.name, item) for item in singles])
            for judge in self.ensemble.programs
        ]
        tallies += [
            pointwise_tally(
                judge.name, judge.engine.model, judge.weight, [self._votes(judge.name, item) for item in singles]
            )
            for judge in self.ensemble.pointwise
        ]
        return tallies

    def _response_verdict(self, item: Item) -> Verdict:
        tallies = self._pointwise_tallies((item,))
        score = ensemble_score(tallies)
        return self._verdict(item, tallies, None, Score(score=score) if score is not None else None)

    def _comparison_verdict(self, item: Item) -> Verdict:
        first, second = item.responses
        tallies = self._pointwise_tallies((Item((first,)), Item((second,))))
        tallies += [
            pairwise_tally(
                judge.name, judge.engine.model, judge.weight, self._votes(judge.name, item), first.id, second.id
            )
            for judge in self.ensemble.pairwise
        ]
        margin = ensemble_margin(tallies, self.ensemble.aggregate)
        return self._verdict(item, tallies, margin, outcome_of_margin(margin, first.id, second.id))

    def _verdict(self, item: Item, tallies: list[JudgeTally], margin: float | None, outcome: object) -> Verdict:
        return Verdict.model_validate(
            {
                "id": content_hash(item.id, self.ensemble.name, [tally.judgments for tally in tallies]),
                "responses": item.responses,
                "outcome": outcome,
                "margin": margin,
                "ensemble": self.ensemble.name,
                "votes_asked": sum(tally.asked for tally in tallies),
                "votes_counted": sum(tally.counted for tally in tallies),
                "votes_unparsed": sum(tally.unparsed for tally in tallies),
                "stopping_rule": STOPPING_RULE,
                "judges": tuple(tallies),
            }
        )


@dataclass(frozen=True)
class Ballot:
    """One vote to ask."""

    judge: LLMJudge
    item: Item
    vote: int


def _tell_repeats(judge: LLMJudge, asked: int, items: int) -> None:
    """Says so when fewer votes were asked than the user wanted."""
    unasked = items * judge.votes - asked
    if unasked > 0 and judge.votes > orders(judge):
        say(
            f"{judge.name}: {unasked} of {items * judge.votes} votes not asked: at temperature 0, or where log-probs are "
            f"read, a judge repeats itself after one vote per order ({orders(judge)})"
        )


def _failure(ballot: Ballot, completion: Completion) -> dict[str, str]:
    return {
        "judge": ballot.judge.name,
        "comparison_id": ballot.item.id,
        "reason": completion.failure or "",
        "detail": completion.detail,
    }


def _check_quality(result: JudgeResult, max_unparsed: float) -> None:
    """Raises QualityGateError, which carries the finished result, if too much could not be read or asked."""
    for stats in result.judges:
        if stats.asked and stats.unparsed > max_unparsed * stats.asked:
            raise QualityGateError(
                f"the judge '{stats.judge}' gave no readable verdict in {stats.unparsed} of {stats.asked} votes "
                f"({stats.unparsed / stats.asked:.0%}; allowed {max_unparsed:.0%}). Everything is saved: look at `raw` in "
                "the judgments, use another model or template, or allow more with --max-unparsed",
                result,
            )
    asked = sum(stats.asked for stats in result.judges) + len(result.failures)
    if len(result.failures) > MAX_FAILED_SHARE * asked:
        raise QualityGateError(
            f"{len(result.failures)} of {asked} votes could not be asked (first: {result.failures[0]['detail']}); "
            "the answered ones are saved and the same command asks for the others again",
            result,
        )
