"""Program judges: checks of one response that need no model."""

from typing import Annotated, Any, Literal

import regex
from pydantic import Field, field_validator, model_validator

from rlaif.config import Config
from rlaif.types import Response

REGEX_SECONDS = 1.0


class WordsCheck(Config):
    """The number of words (runs of non-space characters) is within bounds."""

    check: Literal["words"]
    min: int = Field(default=0, ge=0)
    max: int | None = Field(default=None, ge=0)


class SentencesCheck(Config):
    """The number of sentences (text up to . ! ? or the end of a line) is within bounds."""

    check: Literal["sentences"]
    min: int = Field(default=0, ge=0)
    max: int | None = Field(default=None, ge=0)


class FinishedCheck(Config):
    """The response ended by itself and was not cut at the token limit."""

    check: Literal["finished"]


class RegexCheck(Config):
    """A regular expression is found in the response (or, with `found: false`, is not)."""

    check: Literal["regex"]
    pattern: str
    found: bool = True

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class ContainsCheck(Config):
    """A text is in the response (or, with `found: false`, is not)."""

    check: Literal["contains"]
    text: str
    ignore_case: bool = True
    found: bool = True


class EqualsCheck(Config):
    """The response, without surrounding space, equals a text or the value that the prompt's metadata has under a key."""

    check: Literal["equals"]
    text: str | None = None
    metadata: str | None = None
    ignore_case: bool = True

    @model_validator(mode="after")
    def _one_of(self) -> "EqualsCheck":
        if (self.text is None) == (self.metadata is None):
            raise ValueError("give either text or metadata (the key of the expected answer)")
        return self


Check = Annotated[
    WordsCheck | SentencesCheck | FinishedCheck | RegexCheck | ContainsCheck | EqualsCheck, Field(discriminator="check")
]


def run_check(check: Any, response: Response) -> bool | None:
    """Whether the response passes; None when that can not be known (no finish reason, no such metadata, time-out)."""
    text = response.text
    match check:
        case WordsCheck():
            return _within(len(text.split()), check.min, check.max)
        case SentencesCheck():
            return _within(count_sentences(text), check.min, check.max)
        case FinishedCheck():
            return None if response.finish_reason is None else response.finish_reason == "stop"
        case RegexCheck():
            try:
                return (regex.search(check.pattern, text, timeout=REGEX_SECONDS) is not None) == check.found
            except TimeoutError:
                return None
        case ContainsCheck():
            return _contains(text, check.text, check.ignore_case) == check.found
        case EqualsCheck():
            expected = check.text if check.metadata is None else response.prompt.metadata.get(check.metadata)
            return (
                None if expected is None else _fold(text, check.ignore_case) == _fold(str(expected), check.ignore_case)
            )
    raise AssertionError(f"no such check: {check!r}")


def count_sentences(text: str) -> int:
    """Sentences end with . ! or ? (and closing quotes) before space, or with their line; a rest is one more."""
    pieces = regex.split(r"(?<=[.!?][\"'”’)\]]*)\s+|\n+", text.strip())
    return len([piece for piece in pieces if any(character.isalnum() for character in piece)])


def _within(value: int, low: int, high: int | None) -> bool:
    return value >= low and (high is None or value <= high)


def _contains(text: str, part: str, ignore_case: bool) -> bool:
    return part.casefold() in text.casefold() if ignore_case else part in text


def _fold(text: str, ignore_case: bool) -> str:
    return text.strip().casefold() if ignore_case else text.strip()
