"""Formats that rate several responses in one answer: UltraFeedback's aspects, JudgeLM."""

import re
from collections.abc import Sequence

from rlaif.judges.reading.base import DECORATION, Format, Found, Offer, Ratings
from rlaif.judges.reading.numbers import VALUE, scale_text, score_value

_HEADER = re.compile(r"####[\s*]{0,4}Output for Text\s{0,3}(\d{1,3})\b")
_HEADER_ANY_CASE = re.compile(r"(?im:^[#\s*_]{0,8}(?:output for\s{1,3})?text\s{0,3}(\d{1,3})\b(?=[\s*_:]{0,4}$))")
_RATING = re.compile(rf"(?m:^[\s*_#]{{0,6}})Rating[\s*_:]{{1,6}}\[?(?:{VALUE}|(N/A)\b)")
_RATING_ANY_CASE = re.compile(rf"(?i:\brating)[\s*_:\"'\[(]{{1,8}}(?:{VALUE}|((?i:N/?A)\b))")
_TWO = re.compile(r"([-+]?\d{1,6}(?:\.\d{1,6})?)[ \t]{1,4}([-+]?\d{1,6}(?:\.\d{1,6})?)")
_TWO_LOOSE = re.compile(r"(\d[\d./]{0,10})(?:\s{1,3}|\s{0,3}[,;&]\s{0,3})(\d[\d./]{0,10})")
_OF_ASSISTANT = re.compile(rf"(?i:assistant|response|answer)\s{{0,3}}([12])[\s*_:=\"'(\[]{{1,8}}(?i:is\s)?{VALUE}")


def _sections(text: str, header: re.Pattern[str]) -> list[tuple[int, str]]:
    """The number of each headed section and its text."""
    heads = list(header.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)][: len(heads)]
    return [(int(head[1]), text[head.end() : end]) for head, end in zip(heads, ends, strict=True)]


def _by_header(text: str, offer: Offer, header: re.Pattern[str], rated: re.Pattern[str]) -> list[Found]:
    """One rating for each text 1..n, by its header. A text without one, or one too many, makes the answer no verdict.

    Ratings of one text that differ give two verdicts, which is a conflict.
    """
    by_text: dict[int, list[str]] = {}
    for number, section in _sections(text, header):
        by_text.setdefault(number, []).extend(match[1] or match[2] for match in rated.finditer(section))
    if not by_text:
        return []
    if set(by_text) != set(range(1, offer.texts + 1)) or not all(by_text.values()):
        return [None]
    ordered = [by_text[number] for number in range(1, offer.texts + 1)]
    most = max(len(values) for values in ordered)
    # verdict i is made of the i-th rating of each text, or its last
    return [_ratings([values[min(i, len(values) - 1)] for values in ordered], offer) for i in range(most)]


def _ratings(texts: Sequence[str], offer: Offer, *, whole: bool = True) -> Found:
    """Ratings for all; None if one of them was not offered ('N/A' is: it rates nothing)."""
    assert offer.scale is not None, "a format of scores is only used with a scale"
    values = [score_value(text, offer.scale, whole=whole) for text in texts]
    missing = [text.upper().replace("/", "") == "NA" for text in texts]
    if len(values) != offer.texts or any(v is None and not gone for v, gone in zip(values, missing, strict=True)):
        return None
    return Ratings(tuple(values))


def _aspects(text: str, offer: Offer) -> list[Found]:
    return _by_header(text, offer, _HEADER, _RATING)


def _aspects_any_case(text: str, offer: Offer) -> list[Found]:
    return _by_header(text, offer, _HEADER_ANY_CASE, _RATING_ANY_CASE)


def _two_numbers(text: str, offer: Offer) -> list[Found]:
    """JudgeLM: the first line is two numbers with a space between."""
    match = _TWO.fullmatch(text.strip().partition("\n")[0].strip())
    return [_ratings(match.groups(), offer, whole=False)] if match else []


def _two_numbers_loose(text: str, offer: Offer) -> list[Found]:
    """The same with a comma, denominators or markdown."""
    match = _TWO_LOOSE.fullmatch(text.strip().partition("\n")[0].strip(DECORATION))
    return [_ratings(match.groups(), offer, whole=False)] if match else []


def _by_assistant(text: str, offer: Offer) -> list[Found]:
    """'Assistant 1: 8' and 'Assistant 2: 7', the last of each."""
    last = {match[1]: match[2] for match in _OF_ASSISTANT.finditer(text)}
    return [_ratings([last["1"], last["2"]], offer, whole=False)] if len(last) == 2 else []


ULTRAFEEDBACK_ASPECTS = Format(
    name="ultrafeedback-aspects",
    kinds=("ratings",),
    form=lambda offer: (
        "for each text k a line '#### Output for Text k' and below it a line 'Rating: n' with a whole "
        f"number from {scale_text(offer)}"
    ),
    strict=_aspects,
    lenient=(_aspects, _aspects_any_case),
    labels=("1", "2"),
    scale=(1, 5),
    syntax=re.compile(r"(?i:####[\s*]{0,4}output for text\s{0,3}\d)"),
)
JUDGELM = Format(
    name="judgelm",
    kinds=("ratings",),
    form=lambda offer: f"two numbers from {scale_text(offer)} with a space between",
    strict=_two_numbers,
    lenient=(_two_numbers, _two_numbers_loose, _by_assistant),
    labels=("1", "2"),
    scale=(1, 10),
    syntax=re.compile(r"\A\s{0,8}\d{1,2}(?:\.\d{1,3})?[ \t]{1,4}\d{1,2}(?:\.\d{1,3})?\s{0,8}(?:\n|\Z)"),
)
FORMATS = (ULTRAFEEDBACK_ASPECTS, JUDGELM)
