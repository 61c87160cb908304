"""Tolerated forms of labels, for the lenient mode: other brackets, another case, and plain words."""

import re
from functools import lru_cache

from rlaif.judges.reading.base import DECORATION, Found, Offer

_NOUN = r"(?:(?i:assistant|responses?|answer|output|option|model|candidate|text)\s{0,2}\(?)"
_NAMED = re.compile(rf"{_NOUN}\s{{0,2}}")
_SINGLE = re.compile(r"(?<!\[)\[([^\[\]\n]{1,40})\](?![\](])")
"""[A], but neither [[A]] nor the text of a link."""
NOT_ASSERTED = r"(?<!\bor )(?<!\bnor )(?<!\bif )(?<!\bIf )(?<!\bwhether )(?<!\bWhether )(?<!\bnot )(?<!\bwhy )"
"""Before a statement: "whether Output (a) or Output (b) is better" states nothing."""


def bare(text: str, offer: Offer) -> list[Found]:
    """The label that is the whole text, decoration aside."""
    found = offer.meaning(text.strip(DECORATION))
    return [] if found is None else [found]


def bare_any_case(text: str, offer: Offer) -> list[Found]:
    """The label that is the whole text, its first or its last line, in any case and with a noun before it (Answer A)."""
    lines = [line for line in text.splitlines() if line.strip(DECORATION)]
    for line in (text, *lines[:1], *lines[-1:]):
        found = offer.like(plain(line))
        if found is not None:
            return [found]
    return []


def plain(label: str) -> str:
    """A label without decoration and without a noun before it."""
    stripped = label.strip(DECORATION)
    noun = _NAMED.match(stripped)
    return stripped[noun.end() :].strip(DECORATION) if noun else stripped


def single_brackets(text: str, offer: Offer) -> list[Found]:
    """Labels in [single brackets]; other texts in such brackets are no verdicts, and numbers may be citations."""
    if any(choice.isdecimal() for choice in offer.choices):
        return []
    found = [offer.like(plain(match[1])) for match in _SINGLE.finditer(text)]
    return [meaning for meaning in found if meaning is not None]


def in_words(text: str, offer: Offer) -> list[Found]:
    """Labels that a sentence states: "the better answer is A", "Verdict: A", "Answer A is better".

    The label's case must be right, or the article would be one.
    """
    if not offer.labels:
        return []
    return [offer.meaning(match["declared"] or match["stated"]) for match in _words(offer.choices).finditer(text)]


@lru_cache(maxsize=256)
def _words(choices: tuple[str, ...]) -> re.Pattern[str]:
    label = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    said = (
        r"(?i:verdict|decision|winner|choice|preference|judge?ment|result"
        r"|(?:better|best|final|preferred)\s(?:answer|response|output|option|one|model))"
    )
    ended = r"(?![\w'’>=<])(?!\W{1,3}(?:and|or|nor|vs)\b)(?!\s(?!is\b|because\b|as\b|since\b|over\b|wins\b)[a-z])"
    between = r"[\s*_`\"'(\[]"
    declared = (
        rf"\b{said}[\s*_]{{0,4}}(?::|\bis\b:?){between}{{0,6}}{_NOUN}?{between}{{0,4}}(?P<declared>{label}){ended}"
    )
    stated = (
        rf"{NOT_ASSERTED}\b{_NOUN}\s?\*{{0,2}}(?P<stated>{label})\)?\*{{0,2}}(?:'s\s(?:answer|response))?\s"
        r"(?i:(?:is|was)\s(?:the\s)?(?:clearly\s|slightly\s|significantly\s|much\s)?"
        r"(?:better|best|superior|preferred|winner)\b)(?!\?)"
    )
    return re.compile(rf"{declared}|{stated}")
