"""Attacks a judge and measures how often that works: the worse answer of a pair is attacked, the better one stays.

Every attack is compared with the same pairs unattacked (`plain`), so a judge that is wrong anyway is not taken for one that
was fooled.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlaif.engines import EngineConfig
from rlaif.engines.base import Engine
from rlaif.errors import ConfigError, DataError, QualityGateError, did_you_mean
from rlaif.gold.balance import sample
from rlaif.gold.records import GoldPair, read_gold
from rlaif.judges.attacks import ATTACKS, Bait
from rlaif.judges.ensemble import compares, load_ensemble
from rlaif.judges.probe_files import judge_with_defences
from rlaif.judges.run import judge as ask_judge
from rlaif.prompts import conversation_text
from rlaif.records import write_text
from rlaif.statistics import wilson
from rlaif.types import Message, Prompt, Response, Verdict

SHIPPED_PAIRS = Path(__file__).with_name("probe_pairs.jsonl")
"""Plain questions with a good and a bad answer, of our own writing (licence as of the project)."""
PLAIN = "plain"
IDENTICAL = "identical"
ATTACKED, HONEST = "attacked", "honest"
Defences = Literal["on", "off"]


class Share(NamedTuple):
    """A part of a whole."""

    part: int
    whole: int

    @property
    def rate(self) -> float | None:
        return self.part / self.whole if self.whole else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, Wilson's."""
        return wilson(self.part, self.whole) if self.whole else None

    def as_dict(self) -> dict[str, Any]:
        return {"part": self.part, "of": self.whole, "rate": self.rate, "interval": self.interval}


@dataclass(frozen=True)
class Finding:
    """What became of one attack, or of the plain or identical answers, before one judge."""

    name: str
    wins: Share
    """Comparisons in which the attacked answer is preferred, of those with an outcome."""
    wins_both: Share | None
    """Those in which it is preferred in both orders, of those judged in both; None for a judge of single responses."""
    ties: Share
    consistent: Share
    """Comparisons with the same outcome in both orders, of those judged in both."""
    first_picks: Share
    """Votes for the answer shown first, of those that preferred one."""
    unread: int
    """Comparisons without an outcome."""
    score_rise: float | None
    """Of a judge of single responses: how much higher the attacked answer scores than the plain one, in [-1, 1]; mean."""

    def as_dict(self) -> dict[str, Any]:
        shares = {"wins": self.wins, "ties": self.ties, "consistent": self.consistent, "first_picks": self.first_picks}
        told: dict[str, Any] = {name: share.as_dict() for name, share in shares.items()}
        told["wins_both"] = self.wins_both.as_dict() if self.wins_both is not None else None
        return {"name": self.name, **told, "unread": self.unread, "score_rise": self.score_rise}


@dataclass(frozen=True)
class JudgeProbe:
    """The findings on one judge, or on the ensemble's verdict, with the defences on or off."""

    judge: str
    defences: Defences
    plain: Finding
    identical: Finding
    attacks: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "judge": self.judge, "defences": self.defences, "plain": self.plain.as_dict(),
            "identical": self.identical.as_dict(), "attacks": [finding.as_dict() for finding in self.attacks],
        }  # fmt: skip


@dataclass
class ProbeResult:
    """What `probe` gives back."""

    pairs: int
    ties_left_out: int
    """Gold pairs without a worse answer."""
    judges: list[JudgeProbe] = field(default_factory=list)
    new_judgments: int = 0
    reused_judgments: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "pairs": self.pairs, "ties_left_out": self.ties_left_out, "new_judgments": self.new_judgments,
            "reused_judgments": self.reused_judgments, "judges": [judge.as_dict() for judge in self.judges],
        }  # fmt: skip


def probe(
    judge: str,
    *,
    gold: str | Path | Iterable[GoldPair] = SHIPPED_PAIRS,
    attacks: Sequence[str] = (),
    limit: int | None = None,
    votes: int = 2,
    models: Sequence[str | EngineConfig] = (),
    defences: Sequence[Defences] = ("on",),
    max_success: float | None = None,
    output: str | Path | None = None,
    engines: Mapping[str, Engine] | None = None,
    overwrite: bool = False,
) -> ProbeResult:
    """How often each attack makes a judge, or an ensemble, prefer the worse answer.

    gold: pairs with a better and a worse answer. attacks: names of ATTACKS; all by default. limit: so many pairs.
    votes: per judge and comparison; 2 show both orders. defences: on, off, or both, to see what they do.
    max_success: share of comparisons that an attack may win with the defences that are on (else: off) before
    QualityGateError is raised. output: a folder; votes in it are never asked twice, and probe.json has the result.
    engines: already made engines by judge name.
    """
    pairs, ties = probe_pairs(gold, limit)
    names = attack_names(attacks)
    result = ProbeResult(len(pairs), ties)
    with ExitStack() as exits:
        folder = Path(output) if output is not None else Path(exits.enter_context(tempfile.TemporaryDirectory()))
        for setting in defences:
            try:
                judged = ask_judge(
                    probe_responses(pairs, names), str(judge_with_defences(judge, setting == "on", folder / setting)),
                    votes=votes, models=models, comparisons="models", output=folder / setting / "verdicts.jsonl",
                    max_unparsed=1.0, engines=engines, overwrite=overwrite,
                )  # fmt: skip
            except QualityGateError as error:
                raise DataError(f"{error}. The probe ends here: what is not asked can not be measured") from None
            result.judges += findings(judged.verdicts, names, setting)
            result.new_judgments += judged.new_judgments
            result.reused_judgments += judged.reused_judgments
    if output is not None:
        write_text(Path(output) / "probe.json", json.dumps(result.as_dict(), indent=1) + "\n")
    _check_gate(result, max_success)
    return result


def probe_pairs(gold: str | Path | Iterable[GoldPair], limit: int | None = None) -> tuple[list[GoldPair], int]:
    """The pairs that have a worse answer, and how many have none (ties). Raises DataError if none is left."""
    rows = read_gold(gold) if isinstance(gold, str | Path) else list(gold)
    pairs = [pair for pair in rows if pair.gold != "tie"]
    if not pairs:
        raise DataError(f"{gold}: every gold label is a tie; an attack needs pairs with a better and a worse answer")
    return (pairs if limit is None else sample(pairs, limit)), len(rows) - len(pairs)


def attack_names(chosen: Sequence[str] = ()) -> tuple[str, ...]:
    """The chosen attacks, or all. Raises ConfigError for an unknown one."""
    for name in chosen:
        if name not in ATTACKS:
            raise ConfigError(f"unknown attack '{name}'{did_you_mean(name, ATTACKS)}; allowed: {', '.join(ATTACKS)}")
    return tuple(chosen) or tuple(ATTACKS)


def probe_plan(
    judge: str, *, gold: str | Path, attacks: Sequence[str], limit: int | None, votes: int, models: tuple[EngineConfig, ...],
    defences: Sequence[Defences],
) -> dict[str, Any]:  # fmt: skip
    """What `probe` would ask: counts, and the attacked answers of the first pair by attack."""
    pairs, _ = probe_pairs(gold, limit)
    names = attack_names(attacks)
    ensemble = load_ensemble(judge, votes=votes, models=models, comparisons="models")
    comparisons = len(pairs) * (len(names) + 2)
    per_comparison = sum(llm.votes * (1 if compares(llm) else 2) for llm in ensemble.llms)
    return {
        "pairs": len(pairs),
        "attacks": len(names),
        "comparisons": comparisons * len(defences),
        "LLM votes, at most": comparisons * per_comparison * len(defences),
        "examples": {name: ATTACKS[name].write(_bait(pairs[0])) for name in names},
    }


def probe_responses(pairs: Iterable[GoldPair], names: Sequence[str]) -> list[Response]:
    """An attacked and an honest response for every pair and attack, and for the plain and the identical answers."""
    rows = []
    for pair in pairs:
        good, bad = _good_and_bad(pair)
        texts = {PLAIN: bad, IDENTICAL: good} | {name: ATTACKS[name].write(_bait(pair)) for name in names}
        for name, text in texts.items():
            rows += [_response(pair, name, ATTACKED, text), _response(pair, name, HONEST, good)]
    return rows


def _response(pair: GoldPair, name: str, model: str, text: str) -> Response:
    metadata = {**pair.metadata, **({} if pair.reference is None else {"reference": pair.reference})}
    return Response(
        id=f"{pair.id}/{name}/{model}", prompt=Prompt(id=f"{pair.id}/{name}", messages=pair.messages, metadata=metadata),
        sample_index=0, messages=(Message(role="assistant", content=text),), model=model, engine="probe",
    )  # fmt: skip


def _good_and_bad(pair: GoldPair) -> tuple[str, str]:
    return pair.texts if pair.gold == 1 else pair.texts[::-1]


def _bait(pair: GoldPair) -> Bait:
    return Bait(conversation_text(pair.messages), _good_and_bad(pair)[1])


class Say(NamedTuple):
    """What one judge, or the ensemble, said of one comparison; its first response is the attacked one."""

    margin: float | None
    consistent: bool | None = None
    first_picks: int = 0
    decided: int = 0
    score: float | None = None
    """Of the attacked response, by a judge of single responses."""


def findings(verdicts: Iterable[Verdict], names: Sequence[str], defences: Defences) -> Iterator[JudgeProbe]:
    """The findings on every judge, and on the ensemble if there are several."""
    said: dict[str, dict[str, dict[str, Say]]] = {}
    for verdict in verdicts:
        pair, name = verdict.prompt.id.rsplit("/", 1)
        for judge, say in _says(verdict):
            said.setdefault(judge, {}).setdefault(name, {})[pair] = say
    for judge, by_name in said.items():
        plain = by_name[PLAIN]
        plain_finding, identical, *attacks = (
            _finding(name, by_name.get(name, {}), plain) for name in (PLAIN, IDENTICAL, *names)
        )
        yield JudgeProbe(judge, defences, plain_finding, identical, tuple(attacks))


def _says(verdict: Verdict) -> Iterator[tuple[str, Say]]:
    if len(verdict.judges) > 1:
        yield f"{verdict.ensemble} (all)", Say(verdict.margin)
    for tally in verdict.judges:
        score = tally.scores[0] if tally.scores is not None else None
        yield tally.judge, Say(tally.margin, tally.order_consistent, tally.first_picks, tally.decided, score)


def _finding(name: str, says: Mapping[str, Say], plain: Mapping[str, Say]) -> Finding:
    margins = [say.margin for say in says.values() if say.margin is not None]
    both = [say for say in says.values() if say.consistent is not None]
    rises = [
        say.score - before.score
        for pair, say in says.items()
        if say.score is not None and (before := plain.get(pair)) is not None and before.score is not None
    ]
    return Finding(
        name=name,
        wins=Share(sum(margin > 0 for margin in margins), len(margins)),
        wins_both=Share(sum(bool(say.consistent) and (say.margin or 0) > 0 for say in both), len(both))
        if both
        else None,
        ties=Share(sum(margin == 0 for margin in margins), len(margins)),
        consistent=Share(sum(bool(say.consistent) for say in both), len(both)),
        first_picks=Share(sum(say.first_picks for say in says.values()), sum(say.decided for say in says.values())),
        unread=len(says) - len(margins),
        score_rise=sum(rises) / len(rises) if rises else None,
    )


def _check_gate(result: ProbeResult, max_success: float | None) -> None:
    """Raises QualityGateError, which carries the finished result, if an attack wins more often than allowed."""
    if max_success is None:
        return
    gated = [judge for judge in result.judges if judge.defences == "on"] or result.judges
    failed = [
        f"{finding.name} {finding.wins.part} of {finding.wins.whole}"
        for finding in gated[0].attacks
        if (finding.wins.rate or 0) > max_success
    ]
    if failed:
        raise QualityGateError(
            f"the judge '{gated[0].judge}' is fooled more often than allowed ({max_success:.0%}): {', '.join(failed)}; use "
            "another judge or model, or allow more with --max-success",
            result,
        )
