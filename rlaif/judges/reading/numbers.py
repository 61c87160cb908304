"""Scores in texts: one number within the scale, with a denominator only if it is the scale's."""

import re

from rlaif.judges.reading.base import Finder, Found, Offer, Ratings

VALUE = (
    r"([-+]?\d[\d.,/%–-]{0,15}"
    r"(?:\s{0,2}/\s{0,2}\d[\d.]{0,5}|\s{1,3}out\s{1,3}of\s{1,3}\d[\d.]{0,5}|\s{1,3}(?:or|to|and|-|–)\s{1,3}\d[\d.]{0,5})?)"
)
"""What is written where a score should be, with a denominator or as a range: `score_value` tells whether it is one."""
_SCORE = re.compile(r"([-+]?\d{1,6}(?:\.\d{1,6})?)(?:\s{0,2}(?:/|out\s{1,3}of)\s{0,3}(\d{1,6}(?:\.0{1,3})?))?")
_AROUND = " \t\r\n*_`'\".,:;()–-"


def score_value(text: str, scale: tuple[int, int], *, whole: bool = False) -> float | None:
    """The score a text is; None for one outside the scale, of another scale (7/100), a range, or no number.

    whole: only whole numbers are scores (5.0 is one).
    """
    # a sign at the start is part of the number; all else around it is decoration
    match = _SCORE.fullmatch(text.lstrip(" \t\r\n*_`'\"(").rstrip(_AROUND))
    if match is None:
        return None
    value = float(match[1])
    fits = scale[0] <= value <= scale[1] and (match[2] is None or float(match[2]) == scale[1])
    return value if fits and not (whole and value % 1) else None


def rating(text: str, offer: Offer, *, whole: bool = False) -> Found:
    """The score of one response; None if it was not offered."""
    assert offer.scale is not None, "a format of scores is only used with a scale"
    value = score_value(text, offer.scale, whole=whole)
    return None if value is None else Ratings((value,))


def scores_after(keyword: str, *, whole: bool = False) -> Finder:
    """Finds the numbers that follow a keyword (a regular expression), with markdown, brackets, ':' or '=' between."""
    pattern = re.compile(rf"{keyword}[\s*_`\"'\[(:=]{{0,8}}(?:is\s{{1,3}}|of\s{{1,3}})?[*_`\"'\[(]{{0,4}}{VALUE}")

    def find(text: str, offer: Offer) -> list[Found]:
        return [rating(match[1], offer, whole=whole) for match in pattern.finditer(text)]

    return find


def whole_answer(*, whole: bool = False) -> Finder:
    """Finds the score that is all of the text."""

    def find(text: str, offer: Offer) -> list[Found]:
        found = rating(text.strip("[] \n\t"), offer, whole=whole)
        return [] if found is None else [found]

    return find


def scale_text(offer: Offer) -> str:
    """The scale in words."""
    assert offer.scale is not None, "a format of scores is only used with a scale"
    return f"{offer.scale[0]} to {offer.scale[1]}"
