"""A judge that is a program: its checks run on one response."""

import json
from dataclasses import dataclass
from functools import cached_property

from rlaif.judges.config import ProgramConfig
from rlaif.judges.judge import Item
from rlaif.judges.programs import Finding, examine
from rlaif.types import Judgment, Score, content_hash


@dataclass(frozen=True)
class ProgramJudge:
    """A loaded program judge."""

    name: str
    config: ProgramConfig
    weight: float
    source: str = ""
    """The judge's file, or its shipped name."""

    @property
    def model(self) -> str:
        return "program"

    @cached_property
    def packages(self) -> list[str]:
        """The installed packages, with versions, that could change what the checks find."""
        return sorted({package for check in self.config.checks for package in check.provenance()})

    @cached_property
    def template_hash(self) -> str:
        return content_hash(self.config.model_dump(mode="json"), self.packages)


def program_judgment(judge: ProgramJudge, item: Item) -> Judgment:
    """The checks run on one response; a check that can not be decided leaves the judgment without an outcome."""
    (response,) = item.responses
    findings = examine(judge.config.checks, response)
    values = {name: finding.value for name, finding in findings.items()}
    known = (response.finish_reason, response.prompt.metadata)
    return Judgment(
        id=content_hash(item.id, judge.name, judge.template_hash, known, length=24),
        comparison_id=item.id,
        judge=judge.name,
        model="program",
        template_hash=judge.template_hash,
        vote=0,
        shown=(response.id,),
        raw=_program_raw(judge, findings),
        outcome=(outcome := _program_outcome(judge.config, list(values.values()))),
        reason=None if outcome is not None else "undecided",
        parts={name: None if value is None else float(value) for name, value in values.items()},
    )


def _program_outcome(config: ProgramConfig, values: list[bool | float | None]) -> Score | None:
    """The share that passes, or whether all do; None if any is not known."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    share = sum(known) / len(known)
    return Score(score=share if config.score == "mean" else float(share == 1))


def _program_raw(judge: ProgramJudge, findings: dict[str, Finding]) -> str:
    """The findings as JSON, each with why, and the installed packages that had a part in them."""
    found = {name: {"passes": finding.value, "why": finding.detail} for name, finding in findings.items()}
    packages = {"packages": judge.packages} if judge.packages else {}
    text = json.dumps({**found, **packages}, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # half a character could not be written to a file
