"""Regular expressions with a time limit: a catastrophic one ends as undecided, not as a hung run."""

from typing import Literal

import regex
from pydantic import Field, field_validator

from rlaif.judges.programs.base import BaseCheck, Finding
from rlaif.types import Response

REGEX_SECONDS = 1.0


class RegexCheck(BaseCheck):
    """A regular expression is found in the response (or, with `found: false`, is not)."""

    check: Literal["regex"]
    pattern: str
    """The expression, as Python writes it; flags stand inside: (?i) ignores case, (?s) lets . match a line's end."""
    found: bool = True
    """false: the response passes if the expression is not found."""
    seconds: float = Field(default=REGEX_SECONDS, gt=0, le=60)
    """The time limit of one search; past it the check is undecided."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    def examine(self, response: Response) -> Finding:
        try:
            match = regex.search(self.pattern, response.text, timeout=self.seconds)
        except TimeoutError:
            return Finding(None, f"the regular expression timed out after {self.seconds:g} s")
        if match is None:
            return Finding(not self.found, "the regular expression is not found")
        return Finding(self.found, f"the regular expression is found at character {match.start()}")
