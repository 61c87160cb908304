"""Checks of length and wording."""

import itertools
from typing import Literal

import regex
from pydantic import model_validator

from rlaif.judges.programs.base import BaseCheck, BoundedCheck, Finding, expected_values, nothing_expected
from rlaif.types import Response


class WordsCheck(BoundedCheck):
    """The number of words (runs of non-space characters) is within bounds."""

    check: Literal["words"]

    def examine(self, response: Response) -> Finding:
        return self.within(len(response.text.split()), "words")


class SentencesCheck(BoundedCheck):
    """The number of sentences (text up to . ! ? or the end of a line) is within bounds."""

    check: Literal["sentences"]

    def examine(self, response: Response) -> Finding:
        return self.within(count_sentences(response.text), "sentences")


class CharactersCheck(BoundedCheck):
    """The number of characters, without surrounding space, is within bounds."""

    check: Literal["characters"]

    def examine(self, response: Response) -> Finding:
        return self.within(len(response.text.strip()), "characters")


class ParagraphsCheck(BoundedCheck):
    """The number of paragraphs (lines without an empty line between them) is within bounds."""

    check: Literal["paragraphs"]

    def examine(self, response: Response) -> Finding:
        return self.within(count_paragraphs(response.text), "paragraphs")


class FinishedCheck(BaseCheck):
    """The response ended by itself and was not cut at the token limit."""

    check: Literal["finished"]

    def examine(self, response: Response) -> Finding:
        if response.finish_reason is None:
            return Finding(None, "the response has no finish reason")
        return Finding(response.finish_reason == "stop", f"finish reason: {response.finish_reason}")


class ContainsCheck(BaseCheck):
    """A text is in the response (or, with `found: false`, is not)."""

    check: Literal["contains"]
    text: str
    """What is looked for."""
    ignore_case: bool = True
    """Whether capital and small letters are the same."""
    found: bool = True
    """false: the response passes if the text is not in it."""

    def examine(self, response: Response) -> Finding:
        text, part = response.text, self.text
        found = part.casefold() in text.casefold() if self.ignore_case else part in text
        return Finding(found == self.found, f"'{part}' is {'' if found else 'not '}in the response")


class EqualsCheck(BaseCheck):
    """The response, without surrounding space, equals a text or the value that the prompt's metadata has under a key."""

    check: Literal["equals"]
    text: str | None = None
    """The expected answer, the same for every prompt."""
    metadata: str | None = None
    """The metadata key of the expected answer; where it holds a list, any of it will do."""
    ignore_case: bool = True
    """Whether capital and small letters are the same."""

    @model_validator(mode="after")
    def _one_of(self) -> "EqualsCheck":
        if (self.text is None) == (self.metadata is None):
            raise ValueError("give either text or metadata (the key of the expected answer)")
        return self

    def examine(self, response: Response) -> Finding:
        accepted = expected_values(self.text, self.metadata, response.prompt.metadata)
        if not accepted:
            return nothing_expected(self.metadata)
        equal = self._fold(response.text) in {self._fold(str(answer)) for answer in accepted}
        return Finding(equal, f"expected {' or '.join(repr(str(answer)) for answer in accepted)}")

    def _fold(self, text: str) -> str:
        return text.strip().casefold() if self.ignore_case else text.strip()


def count_sentences(text: str) -> int:
    """Sentences end with . ! or ? (and closing quotes) before space, or with their line; a rest is one more."""
    pieces = regex.split(r"(?<=[.!?][\"'”’)\]]*)\s+|\n+", text.strip())
    return len([piece for piece in pieces if any(character.isalnum() for character in piece)])


def count_paragraphs(text: str) -> int:
    """Runs of lines that are not empty."""
    return sum(filled for filled, _ in itertools.groupby(text.splitlines(), key=lambda line: bool(line.strip())))
