"""Responses to revisions by a constitution, and to preference pairs without a judge."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlaif.engines import EngineConfig
from rlaif.engines.base import Engine
from rlaif.errors import ConfigError, QualityGateError
from rlaif.generation import MAX_FAILED_SHARE, write_notes
from rlaif.journal import Journal, index_errors
from rlaif.judges.responses import open_responses
from rlaif.records import RecordFile, refuse_same_file, write_records
from rlaif.revision.constitution import load_constitution
from rlaif.revision.conversation import FAILURES, Reviser
from rlaif.revision.records import pairs_of, responses_of
from rlaif.revision.session import Session
from rlaif.types import PreferencePair, Response, Revision, Sampling, Turn

MAX_UNUSABLE_SHARE = 0.2


@dataclass
class ReviseResult:
    """What `revise` gives back."""

    revisions: Sequence[Revision] = ()
    """One per response. Read from the output file each time they are gone through, if there is one."""
    pairs: Sequence[PreferencePair] = ()
    """The revision chosen, the original rejected. Read from their file each time, if there is one."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Responses that were answered and gave no pair: response_id, prompt_id, principle, reason."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """Requests that could not be answered: response_id, round, asked, reason, detail. The same command asks them again."""
    new: int = 0
    """Critiques and revisions that were asked now."""
    reused: int = 0
    output: Path | None = None

    @property
    def reasons(self) -> dict[str, int]:
        return dict(Counter(item["reason"] for item in self.skipped).most_common())


def revise(
    responses: str | Path | Iterable[Response],
    constitution: str,
    model: str | EngineConfig,
    *,
    rounds: int = 1,
    sampling: Sampling | None = None,
    output: str | Path | None = None,
    pairs_output: str | Path | None = None,
    responses_output: str | Path | None = None,
    limit: int | None = None,
    max_unusable: float = MAX_UNUSABLE_SHARE,
    engine: Engine | None = None,
    overwrite: bool = False,
) -> ReviseResult:
    """Responses criticised and revised by a model, under principles that are drawn for each of them.

    responses: a file of Response rows, or the rows. constitution: a shipped name or a YAML file. rounds: critique and
    revision, then both again on the revision under another principle. sampling: of both; its seed draws the principles too.
    output: a JSONL file of Revision rows; what the model answered goes to <output>.d/turns.jsonl and is never asked twice.
    pairs_output: a JSONL file of preference pairs. responses_output: a JSONL file of the originals that have a revision and
    of their revisions, as responses. limit: only the first so many responses, prompt by prompt.
    max_unusable: share of responses that may end without a revision for another reason than that nothing had to change.
    engine: an already made engine, instead of the one that the configuration describes.
    Raises RlaifError; QualityGateError, with everything saved and the result, if too much could not be used or asked.
    """
    config = EngineConfig(model=model) if isinstance(model, str) else model
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; at least 1 response is needed")
    reviser = Reviser(load_constitution(constitution), config, sampling or Sampling(), rounds)
    paths = [None if path is None else Path(path) for path in (output, pairs_output, responses_output)]
    refuse_same_file(responses if isinstance(responses, str | Path) else None, *paths)
    rows = open_responses(responses)
    path, pairs_path, responses_path = paths
    turns_at = _journal_path(path)
    with index_errors(turns_at and turns_at.parent), Journal(turns_at, Turn, overwrite=overwrite) as journal:
        session = Session(reviser, rows, journal, limit, engine)
        session.ask()
        revisions = _written(path, session)
        result = ReviseResult(
            revisions, failures=session.failures, new=journal.written, reused=session.reused, output=path
        )
    result.skipped = [skipped for row in revisions if (skipped := _skipped(row)) is not None]
    if pairs_path is None:
        result.pairs = list(pairs_of(revisions))
    else:
        write_records(pairs_path, pairs_of(revisions))
        result.pairs = RecordFile(pairs_path, PreferencePair)
    if responses_path is not None:
        write_records(responses_path, responses_of(revisions))
    if path is not None:
        write_notes(path, "skipped.jsonl", result.skipped)
        write_notes(path, "failed.jsonl", result.failures)
    _check_quality(result, max_unusable)
    return result


def _journal_path(output: Path | None) -> Path | None:
    return None if output is None else output.with_name(output.name + ".d") / "turns.jsonl"


def _written(path: Path | None, session: Session) -> Sequence[Revision]:
    if path is None:
        return list(session.revisions())
    write_records(path, session.revisions())
    return RecordFile(path, Revision)


def _skipped(row: Revision) -> dict[str, str] | None:
    """What is told of a response that was answered and gave no pair."""
    if row.reason is None or row.reason in FAILURES:
        return None
    principles = ", ".join(each.principle for each in row.rounds)
    return {
        "response_id": row.original.id,
        "prompt_id": row.prompt.id,
        "principle": principles,
        "reason": row.reason,
    }


def _check_quality(result: ReviseResult, max_unusable: float) -> None:
    """Raises QualityGateError, which carries the finished result, if too much could not be used or asked."""
    unusable = {reason: count for reason, count in result.reasons.items() if reason != "unchanged"}
    count, answered = sum(unusable.values()), len(result.revisions) - _unasked(result)
    if count > max_unusable * answered:
        told = ", ".join(f"{reason}: {number}" for reason, number in unusable.items())
        raise QualityGateError(
            f"{count} of {answered} responses have no usable revision ({told}; allowed {max_unusable:.0%}). Everything is "
            "saved: look at `rounds` in the output, use another model, more --max-tokens or another template, or allow more "
            "with --max-unusable",
            result,
        )
    asked = result.new + result.reused + len(result.failures)
    if len(result.failures) > MAX_FAILED_SHARE * asked:
        raise QualityGateError(
            f"{len(result.failures)} of {asked} requests failed (first: {result.failures[0]['detail']}); the answered ones are "
            "saved and the same command asks for the others again",
            result,
        )


def _unasked(result: ReviseResult) -> int:
    """How many responses have no revision because the model could not be asked."""
    return len(result.revisions) - len(result.pairs) - len(result.skipped)
