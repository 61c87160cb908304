"""Which language a text is in."""

import importlib.metadata
from functools import lru_cache
from typing import Any, Literal

from pydantic import field_validator

from rlaif.errors import did_you_mean
from rlaif.judges.programs.base import BaseCheck, Finding
from rlaif.types import Response

LIBRARY = "py3langid"
NO_LANGUAGE = "zxx"
"""What the library calls a text without words."""
DIALECTS = {"ary": "ar", "arz": "ar", "yue": "zh", "wuu": "zh", "uzs": "uz", "nb": "no", "nn": "no"}
"""What the library tells apart from its language; it counts as both."""


class LanguageCheck(BaseCheck):
    """The response as a whole is in a language."""

    check: Literal["language"]
    language: str
    """The ISO 639 code: en, de, zh, ..."""

    @field_validator("language")
    @classmethod
    def _known(cls, language: str) -> str:
        allowed = known_languages()
        if language not in allowed:
            raise ValueError(
                f"unknown language{did_you_mean(language, allowed)}; allowed: {', '.join(sorted(allowed))}"
            )
        return language

    def examine(self, response: Response) -> Finding:
        found = detect_language(response.text)
        if found is None:
            return Finding(None, "no words, so no language")
        return Finding(is_language(found, self.language), f"language {found}, expected {self.language}")

    def provenance(self) -> tuple[str, ...]:
        return (library_version(),)


def detect_language(text: str) -> str | None:
    """The ISO 639 code of the most probable language; None for a text without words."""
    if not any(character.isalpha() for character in text):
        return None
    language, _ = _model().classify(text)
    return None if language == NO_LANGUAGE else str(language)


def is_language(found: str, wanted: str) -> bool:
    """Whether a language found is the one wanted, or a dialect of it."""
    return wanted in (found, DIALECTS.get(found))


def known_languages() -> set[str]:
    """The codes of all languages that can be told."""
    return {str(language) for language, _ in _model().rank("")} - {NO_LANGUAGE}


@lru_cache(maxsize=1)
def library_version() -> str:
    return f"{LIBRARY} {importlib.metadata.version(LIBRARY)}"


def _model() -> Any:
    """The library, which loads its model (4 MB, half a second) with the first text."""
    import py3langid

    return py3langid
