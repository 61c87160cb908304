"""Program judges: checks of one response that need no model."""

from typing import Annotated

from pydantic import Field

from rlaif.judges.programs.base import BaseCheck, Finding
from rlaif.judges.programs.ifeval import IFEvalCheck
from rlaif.judges.programs.json_text import JSONCheck
from rlaif.judges.programs.language import LanguageCheck
from rlaif.judges.programs.numeric import NumericCheck
from rlaif.judges.programs.patterns import RegexCheck
from rlaif.judges.programs.plugin import PluginCheck
from rlaif.judges.programs.text import (
    CharactersCheck,
    ContainsCheck,
    EqualsCheck,
    FinishedCheck,
    ParagraphsCheck,
    SentencesCheck,
    WordsCheck,
    count_sentences,
)
from rlaif.types import Response

__all__ = ["Check", "Finding", "count_sentences", "examine", "run_check"]

Check = Annotated[
    WordsCheck
    | SentencesCheck
    | CharactersCheck
    | ParagraphsCheck
    | FinishedCheck
    | RegexCheck
    | ContainsCheck
    | EqualsCheck
    | NumericCheck
    | JSONCheck
    | LanguageCheck
    | IFEvalCheck
    | PluginCheck,
    Field(discriminator="check"),
]


def examine(checks: tuple[BaseCheck, ...], response: Response) -> dict[str, Finding]:
    """What the checks find in a response, in their order, each named by its place and its kind: '0:words'."""
    return {
        f"{place}:{name}": finding
        for place, check in enumerate(checks)
        for name, finding in check.findings(response).items()
    }


def run_check(check: BaseCheck, response: Response) -> bool | float | None:
    """Whether the response passes, or the share of the check's parts that do; None when that can not be known."""
    values = [finding.value for finding in check.findings(response).values()]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    return known[0] if len(known) == 1 else sum(known) / len(known)
