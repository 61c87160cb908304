"""Formats whose verdict stands in [[double brackets]]: label, MT-Bench, Arena-Hard, RewardBench."""

import re
from collections.abc import Callable

from rlaif.judges.reading.base import Choice, Finder, Format, Found, Kind, Offer, Ratings
from rlaif.judges.reading.letters import bare, bare_any_case, in_words, plain, single_brackets
from rlaif.judges.reading.numbers import rating, scale_text, score_value, scores_after, whole_answer

ANCHORED = re.compile(r"\[\[([^\[\]\n]{1,40})\]\]")
WEAK_STRENGTH = 1 / 3
"""Arena-Hard counts a decisive win three times and a slight one once."""
_SIDES = re.compile(r"([A-Z])\s{0,2}(>>|>|=|<|<<)\s{0,2}([A-Z])")
_PAIR = re.compile(r"\s{0,3}([^,\s]{1,10}(?:\s{0,2}/\s{0,2}\d{1,5})?)\s{0,3},\s{0,3}([^,]{1,16})")

_RATING, _WHOLE_NUMBER = scores_after(r"(?i:rating|score)", whole=True), whole_answer(whole=True)


def anchored(read: Callable[[str, Offer], Found], brackets: re.Pattern[str] = ANCHORED) -> Finder:
    """Finds all texts in brackets, each read by a function."""

    def find(text: str, offer: Offer) -> list[Found]:
        return [read(match[1].strip(), offer) for match in brackets.finditer(text)]

    return find


def _label(text: str, offer: Offer) -> Found:
    return offer.meaning(text)


def _label_like(text: str, offer: Offer) -> Found:
    return offer.like(plain(text))


def _label_or_bare(text: str, offer: Offer) -> list[Found]:
    return list(anchored(_label)(text, offer)) or bare(text, offer)


def _score_of_label(text: str, offer: Offer) -> list[Found]:
    """For labels that are scores: 'Rating: 4', '4/5'."""
    if offer.labels or offer.scale is None:
        return []
    return [*_RATING(text, offer)] or [*_WHOLE_NUMBER(text, offer)]


def _five_way(text: str, offer: Offer) -> Found:
    """Arena-Hard's verdict, exactly as offered: the better side of two is first only where it is A."""
    strengths = {">>": 1.0, ">": WEAK_STRENGTH}
    match = _SIDES.fullmatch(text)
    if match is None or (match[1], match[3]) not in (("A", "B"), ("B", "A")):
        return None
    if match[2] == "=":
        return Choice(None) if offer.tie is not None and match[1] == "A" else None
    return Choice("AB".index(match[1]), strengths[match[2]]) if match[2] in strengths else None


def _five_way_like(text: str, offer: Offer) -> Found:
    """The same in any case, and written the other way round: B<A is A>B."""
    match = _SIDES.fullmatch(text.strip(" *`").upper())
    if match is None:
        return None
    first, sign, second = match.groups()
    if "<" in sign or (sign == "=" and first == "B"):
        first, sign, second = second, sign.replace("<", ">"), first
    return _five_way(f"{first}{sign}{second}", offer)


def _five_way_in_single_brackets(text: str, offer: Offer) -> list[Found]:
    found = anchored(_five_way_like, re.compile(r"(?<!\[)\[([^\[\]\n]{3,12})\](?!\])"))(text, offer)
    return [meaning for meaning in found if meaning is not None]


def _decimal(text: str, offer: Offer) -> Found:
    return rating(text, offer)


def _two_ratings(text: str, offer: Offer) -> Found:
    match = _PAIR.fullmatch(text)
    assert offer.scale is not None
    values = tuple(score_value(part, offer.scale) for part in match.groups()) if match else ()
    return Ratings(values) if len(values) == offer.texts and None not in values else None


def _brackets_of(offer: Offer) -> str:
    return ", ".join(f"[[{choice}]]" for choice in offer.choices)


_PAIRWISE: tuple[Kind, ...] = ("pairwise",)
_LENIENT_LABEL = (anchored(_label_like), single_brackets, bare_any_case, in_words)
_LETTER = re.compile(r"\[\[\s{0,3}(?:[A-Za-z]|(?i:tie))\s{0,3}\]\]")

LABEL = Format(
    name="label",
    kinds=("pairwise", "pointwise"),
    form=lambda offer: f"one of {', '.join(offer.choices)}",
    strict=_label_or_bare,
    lenient=(*_LENIENT_LABEL, _score_of_label),
    single=lambda offer: offer.choices,
    syntax=re.compile(r"\[\[\s{0,3}(?:[A-Za-z]{1,10}|\d{1,3})\s{0,3}\]\]"),
)
MT_BENCH_PAIR = Format(
    name="mt-bench-pair",
    kinds=_PAIRWISE,
    form=lambda offer: f"one of {_brackets_of(offer)}",
    strict=anchored(_label),
    lenient=_LENIENT_LABEL,
    labels=("A", "B"),
    tie="C",
    syntax=_LETTER,
)
REWARDBENCH = Format(
    name="rewardbench",
    kinds=_PAIRWISE,
    form=lambda offer: f"one of {_brackets_of(offer)}",
    strict=anchored(_label),
    lenient=_LENIENT_LABEL,
    labels=("A", "B"),
    syntax=_LETTER,
)
ARENA_HARD = Format(
    name="arena-hard",
    kinds=_PAIRWISE,
    form=lambda offer: f"one of [[A>>B]], [[A>B]], {'[[A=B]], ' if offer.tie else ''}[[B>A]], [[B>>A]]",
    strict=anchored(_five_way),
    lenient=(anchored(_five_way_like), _five_way_in_single_brackets),
    labels=("A", "B"),
    tie="A=B",
    syntax=re.compile(r"\[\[\s{0,3}[AaBb]\s{0,2}(?:>>?|=|<<?)\s{0,2}[AaBb]\s{0,3}\]\]"),
)
MT_BENCH_SINGLE = Format(
    name="mt-bench-single",
    kinds=("pointwise",),
    form=lambda offer: f"a number from {scale_text(offer)} in the form Rating: [[{offer.choices[0]}]]",
    strict=anchored(_decimal),
    lenient=(anchored(_decimal), scores_after(r"(?i:rating|score)"), whole_answer()),
    scale=(1, 10),
    syntax=re.compile(r"\[\[\s{0,3}\d{1,3}(?:\.\d{1,3})?(?:\s?/\s?\d{1,3})?\s{0,3}\]\]"),
)
MT_BENCH_RATINGS = Format(
    name="mt-bench-ratings",
    kinds=("ratings",),
    form=lambda offer: f"two numbers from {scale_text(offer)} in the form [[a,b]]",
    strict=anchored(_two_ratings),
    lenient=(
        anchored(_two_ratings),
        anchored(_two_ratings, re.compile(r"(?<!\[)\[([^\[\]\n]{3,40})\](?![\](])")),
    ),
    labels=("A", "B"),
    scale=(1, 10),
    tie_within=0.1,
    syntax=re.compile(r"\[\[\s{0,3}\d[\d./]{0,6}\s{0,2},\s{0,2}\d[\d./]{0,6}\s{0,3}\]\]"),
)
FORMATS = (LABEL, MT_BENCH_PAIR, MT_BENCH_SINGLE, MT_BENCH_RATINGS, ARENA_HARD, REWARDBENCH)
