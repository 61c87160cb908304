"""How often a judge is right: its verdicts on gold pairs beside what guessing, and always taking the longer one, get.

Rules: accuracy is over the pairs whose gold label prefers a response and on which the judge gave a verdict; its tie counts
half. Gold ties and pairs without a verdict are counted beside it, not in it. The longer response is the one with more
characters. Intervals are bootstrapped over prompts, since several pairs may share one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif.engines import EngineConfig
from rlaif.engines.base import Engine
from rlaif.errors import ConfigError, QualityGateError
from rlaif.gold.balance import balanced, sample
from rlaif.gold.records import Gold, GoldPair, read_gold, responses_of
from rlaif.judges.aggregate import outcome_of_margin
from rlaif.judges.config import StopRule
from rlaif.judges.run import JudgeResult, judge
from rlaif.records import write_text
from rlaif.statistics import Estimate, clustered_mean
from rlaif.types import JudgeTally, Outcome, Preferred, Tie, Verdict, prompt_content_id

RANDOM = 0.5


@dataclass(frozen=True)
class Ruling:
    """What a judge made of one gold pair. choice: None where it gave no verdict."""

    pair: GoldPair
    choice: Gold | None
    tallies: tuple[JudgeTally, ...] = ()


@dataclass(frozen=True)
class Measure:
    """One judge on one part of the gold pairs; rates are None without a base."""

    judge: str
    subset: str
    accuracy: Estimate | None
    """Share right of the decided pairs with a verdict, ties as half, with its 95 % interval."""
    longest: float | None
    """The accuracy of always taking the longer response, on all decided pairs."""
    first_stored: float | None
    """The accuracy of always taking the response that is stored first; 0.5 where the gold order is balanced."""
    pairs: int
    """Whose gold label prefers a response."""
    right: int
    tied: int
    wrong: int
    no_verdict: int
    gold_ties: int
    order_consistency: float | None
    """Of the pairs that a pairwise judge saw in both orders, the share with the same outcome in both."""
    first_pick_rate: float | None
    """Of the votes for one side, the share for the response shown first; 0.5 is unbiased."""
    longest_pick_rate: float | None
    """Of the verdicts for one of two responses of different length, the share for the longer one."""
    votes: int
    unparsed: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values; the accuracy as value, low and high."""
        return {**asdict(self), "accuracy": self.accuracy and self.accuracy._asdict(), "random": RANDOM}


@dataclass
class BenchResult:
    """What `bench` gives back: the ensemble's measures first, then those of its members if it has several."""

    ensemble: str
    measures: list[Measure]
    judged: JudgeResult

    def overall(self) -> list[Measure]:
        """Each judge on all pairs together."""
        return list({measure.judge: measure for measure in self.measures}.values())

    def as_dict(self) -> dict[str, Any]:
        """For scripts, and bench.json."""
        counts = {"new votes": self.judged.new_judgments, "votes already there": self.judged.reused_judgments}
        counts |= {"failed votes": len(self.judged.failures)}
        return {"judge": self.ensemble, **counts, "measures": [measure.as_dict() for measure in self.measures]}


def bench(
    gold: Sequence[str | Path],
    judge_name: str,
    *,
    votes: int = 2,
    models: Sequence[str | EngineConfig] = (),
    stop: StopRule = "all",
    stop_probability: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    engines: Mapping[str, Engine] | None = None,
    overwrite: bool = False,
) -> BenchResult:
    """How a judge or ensemble does on gold files: per subset, per set, and altogether.

    stop, stop_probability: as in `rlaif judge`, but by default all votes are asked, so that every member is measured on
    every pair. limit: so many pairs, the subsets and gold orders in turn. output: a folder for the verdicts, their votes
    (never asked twice) and bench.json. Raises QualityGateError, with the finished result, if too many votes could not be asked.
    """
    pairs = gold_sample(gold, limit, seed)
    folder = Path(output) if output is not None else None
    failed: QualityGateError | None = None
    try:
        judged = judge(
            responses_of(pairs), judge_name, votes=votes, models=models, comparisons="models", stop=stop,
            stop_probability=stop_probability, output=folder / "verdicts.jsonl" if folder is not None else None,
            max_unparsed=1.0, engines=engines, overwrite=overwrite,
        )  # fmt: skip
    except QualityGateError as error:
        judged, failed = error.result, error
    every = rulings(pairs, judged.verdicts)
    measures = [measure(name, part, rows) for name, all_of in every.items() for part, rows in parts(all_of).items()]
    result = BenchResult(next(iter(every)), measures, judged)
    if folder is not None:
        write_text(folder / "bench.json", json.dumps(result.as_dict(), ensure_ascii=False, indent=1) + "\n")
    if failed is not None:
        raise QualityGateError(str(failed), result)
    return result


def gold_sample(gold: Sequence[str | Path], limit: int | None, seed: int) -> list[GoldPair]:
    """The pairs of gold files in balanced order, or a sample of them. Raises ConfigError for a limit below 1."""
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; at least 1 pair is needed")
    pairs = balanced(read_gold(*gold))
    return pairs if limit is None else sample(pairs, limit, seed)


def rulings(pairs: Iterable[GoldPair], verdicts: Iterable[Verdict]) -> dict[str, list[Ruling]]:
    """The rulings of the ensemble on all pairs and, if it has several members, those of each, by name."""
    by_id = {verdict.prompt.id: verdict for verdict in verdicts}
    found: dict[str, list[Ruling]] = {}
    for pair in pairs:
        verdict = by_id[pair.id]
        found.setdefault(verdict.ensemble, []).append(Ruling(pair, choice(pair, verdict.outcome), verdict.judges))
        for tally in verdict.judges if len(verdict.judges) > 1 else ():
            outcome = outcome_of_margin(tally.margin, *(response.id for response in verdict.responses))
            name = tally.judge if tally.judge != verdict.ensemble else f"{tally.judge} (member)"
            found.setdefault(name, []).append(Ruling(pair, choice(pair, outcome), (tally,)))
    return found


def choice(pair: GoldPair, outcome: Outcome | None) -> Gold | None:
    """The outcome in the terms of the gold label."""
    if isinstance(outcome, Preferred):
        return 1 if outcome.response_id == pair.response_ids[0] else 2
    return "tie" if isinstance(outcome, Tie) else None


def parts(every: Sequence[Ruling]) -> dict[str, list[Ruling]]:
    """The rulings of each subset, of each set that has several subsets, and all, the most comprehensive last."""
    subsets, sets = _grouped(every, _subset), _grouped(every, lambda ruling: _subset(ruling).partition("/")[0])
    found: dict[str, list[Ruling]] = {}
    for name, rows in sets.items():
        own = {subset: of for subset, of in subsets.items() if subset.partition("/")[0] == name}
        found |= own if len(own) == 1 else {**own, f"{name}, all": rows}
    return found if len(sets) == 1 else {**found, "all": list(every)}


def measure(judge_name: str, subset: str, every: Sequence[Ruling]) -> Measure:
    """The measures of one judge on one part of the pairs."""
    decided = [ruling for ruling in every if ruling.pair.gold != "tie"]
    credited = [(ruling, credit(ruling.pair.gold, ruling.choice)) for ruling in decided]
    by_prompt: dict[str, list[float]] = {}
    for ruling, value in credited:
        if value is not None:
            by_prompt.setdefault(prompt_content_id(ruling.pair.messages), []).append(value)
    values = [value for _, value in credited]
    tallies = [tally for ruling in every for tally in ruling.tallies]
    orders = [tally.order_consistent for tally in tallies if tally.order_consistent is not None]
    sided = [(longest(ruling.pair), ruling.choice) for ruling in every if ruling.choice in (1, 2)]
    return Measure(
        judge=judge_name,
        subset=subset,
        accuracy=clustered_mean(by_prompt),
        longest=_mean([credit(ruling.pair.gold, longest(ruling.pair)) for ruling in decided]),
        first_stored=_mean([credit(ruling.pair.gold, 1) for ruling in decided]),
        pairs=len(decided),
        right=values.count(1.0),
        tied=values.count(0.5),
        wrong=values.count(0.0),
        no_verdict=values.count(None),
        gold_ties=len(every) - len(decided),
        order_consistency=_mean(orders),
        first_pick_rate=_ratio(sum(tally.first_picks for tally in tallies), sum(tally.decided for tally in tallies)),
        longest_pick_rate=_mean([longer == chosen for longer, chosen in sided if longer != "tie"]),
        votes=sum(tally.asked for tally in tallies),
        unparsed=sum(tally.unparsed for tally in tallies),
    )


def credit(gold: Gold, chosen: Gold | None) -> float | None:
    """1 for the better response, 0 for the other, 0.5 for a tie; None without a verdict. gold: 1 or 2."""
    if chosen is None:
        return None
    return 0.5 if chosen == "tie" else float(chosen == gold)


def longest(pair: GoldPair) -> Gold:
    """Which response has more characters."""
    first, second = map(len, pair.texts)
    return "tie" if first == second else 1 if first > second else 2


def findings(measures: Iterable[Measure]) -> list[str]:
    """What the numbers of each judge on all pairs say in words."""
    found = []
    for row in measures:
        if row.accuracy is None:
            found.append(f"{row.judge}: gave no verdict on a pair with a gold preference")
        elif row.accuracy.high < RANDOM:
            found.append(
                f"{row.judge}: is wrong more often than right, beyond chance: its verdicts point away from gold"
            )
        elif row.accuracy.low <= RANDOM:
            found.append(f"{row.judge}: can not be told from guessing (its interval includes 50 %)")
        elif row.longest is not None and row.longest >= row.accuracy.value:
            found.append(f"{row.judge}: always taking the longer response is as accurate ({row.longest:.1%})")
    return found


def _subset(ruling: Ruling) -> str:
    return ruling.pair.subset or "gold"


def _grouped(every: Iterable[Ruling], key: Any) -> dict[str, list[Ruling]]:
    groups: dict[str, list[Ruling]] = {}
    for ruling in every:
        groups.setdefault(key(ruling), []).append(ruling)
    return groups


def _mean(values: Sequence[float | bool | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
