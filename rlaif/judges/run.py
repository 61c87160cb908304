"""Responses to verdicts: every vote goes to an append-only journal first, verdicts are derived from it without calls."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlaif.engines import EngineConfig
from rlaif.engines.base import Engine
from rlaif.errors import QualityGateError
from rlaif.generation import write_notes
from rlaif.journal import index_errors
from rlaif.judges.config import Comparisons, StopRule
from rlaif.judges.ensemble import Ensemble, load_ensemble
from rlaif.judges.family import shared_families
from rlaif.judges.journal import Journal
from rlaif.judges.responses import Responses, open_responses
from rlaif.judges.session import Session
from rlaif.judges.stats import JudgeStats
from rlaif.judges.stopping import VOTE_MARGIN
from rlaif.judges.verdicts import Verdicts
from rlaif.progress import say
from rlaif.records import RecordFile, refuse_same_file, write_records
from rlaif.types import Response, Verdict

MAX_FAILED_SHARE = 0.05


@dataclass
class JudgeResult:
    """What `judge` gives back."""

    verdicts: Sequence[Verdict] = ()
    """Read from the output file each time they are gone through, if there is one."""
    judges: list[JudgeStats] = field(default_factory=list)
    """Per judge: votes, unparsed, first-pick rate, order consistency, agreement with the verdict."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Prompts without a comparison, or that one judge could not be asked about: prompt_id, judge, reason."""
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
    stop: StopRule | None = None,
    stop_probability: float | None = None,
    gates: Sequence[float] = (VOTE_MARGIN,),
    output: str | Path | None = None,
    max_unparsed: float = 0.05,
    engines: Mapping[str, Engine] | None = None,
    overwrite: bool = False,
) -> JudgeResult:
    """The verdicts of a judge or ensemble on the responses.

    responses: a file of Response rows, or the rows. judge: a shipped name or a YAML file. votes: per judge and item.
    stop, stop_probability: the stopping rule, instead of the file's. gates: the margins that preference pairs will have to
    be above; `cannot-lose` stops only when it is sure on which side of each a verdict lies.
    output: a JSONL file; the votes go to <output>.d/judgments.jsonl and are never asked twice.
    max_unparsed: share of a judge's votes without an outcome above which QualityGateError is raised, with all saved.
    engines: already made engines by judge name, instead of those the configurations describe.
    """
    configs = tuple(EngineConfig(model=model) if isinstance(model, str) else model for model in models)
    ensemble = load_ensemble(
        judge, votes=votes, models=configs, comparisons=comparisons, stop=stop, stop_probability=stop_probability,
        gates=tuple(gates),
    )  # fmt: skip
    if isinstance(responses, str | Path):
        refuse_same_file(responses, output)
    rows = open_responses(responses)
    _warn_of_family(ensemble, rows)
    _warn_of_cascade(ensemble)
    path = Path(output) if output is not None else None
    votes_at = _beside(path, "judgments.jsonl")
    with index_errors(votes_at and votes_at.parent), Journal(votes_at, overwrite=overwrite) as journal:
        session = Session(ensemble, rows, journal, engines or {}, _beside(path, "checklists.jsonl"))
        session.ask()
        verdicts: Sequence[Verdict]
        if path is None:
            verdicts = list(Verdicts(session))
        else:
            write_records(path, Verdicts(session))
            verdicts = RecordFile(path, Verdict)
        result = JudgeResult(
            verdicts, list(session.stats.values()), session.skipped, session.failures, journal.written, journal.reused, path
        )  # fmt: skip
    if path is not None:
        write_notes(path, "skipped.jsonl", result.skipped)
        write_notes(path, "failed.jsonl", result.failures)
    for stats in result.judges:
        _tell(stats)
    _check_quality(result, max_unparsed)
    return result


def _warn_of_family(ensemble: Ensemble, rows: Responses) -> None:
    """Says which judges share a model family with what they judge."""
    judged = rows.models()
    for judge in ensemble.judges:
        shared = shared_families(judge.model, judged) if judge.weight else ()
        if shared:
            say(
                f"{judge.name}: its model is of the same family as a model it judges ({', '.join(sorted(shared))}), and judges "
                "favour answers of their own family; use a judge of another one, or add some to the panel"
            )


def _warn_of_cascade(ensemble: Ensemble) -> None:
    """Says that a probability reached by the cheap judges alone is no evidence from the others."""
    costs = {judge.cost for judge in ensemble.pairwise if judge.weight}
    if ensemble.stopping.rule == "posterior" and len(costs) > 1:
        say(
            f"{ensemble.name}: the posterior rule may stop before the dearer judges are asked, and takes votes for "
            "independent; where cheap judges err together it lost 3 to 22 points on recorded votes. Use cannot-lose, or "
            "measure it with rlaif calibrate"
        )


def _tell(stats: JudgeStats) -> None:
    """Says when fewer votes were asked than the user wanted, and when responses look like verdicts."""
    if stats.repeats:
        say(
            f"{stats.judge}: {stats.repeats} votes not asked: at temperature 0, or where log-probs are read, a judge repeats "
            "itself after one vote per order; give it variants of its prompt for more"
        )
    if stats.flagged:
        say(
            f"{stats.judge}: {stats.flagged} votes are on responses that hold what looks like its verdict (`flags` in the "
            "judgments names them); rlaif probe tells whether it falls for that"
        )
    if stats.settled:
        say(f"{stats.judge}: {stats.settled} votes not asked: the verdicts were settled before")


def _beside(output: Path | None, name: str) -> Path | None:
    return None if output is None else output.with_name(output.name + ".d") / name


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
    if result.verdicts and not asked:
        why = next((row["reason"] for row in result.skipped if "judge" in row), "")
        raise QualityGateError(
            f"no judge had a vote on anything, so all {len(result.verdicts)} verdicts are empty"
            + (f" (first reason: {why})" if why else ""),
            result,
        )
    if len(result.failures) > MAX_FAILED_SHARE * asked:
        raise QualityGateError(
            f"{len(result.failures)} of {asked} votes could not be asked (first: {result.failures[0]['detail']}); "
            "the answered ones are saved and the same command asks for the others again",
            result,
        )
