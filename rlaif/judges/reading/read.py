"""A judge's answer to what it says, in a format and a mode; and what that means for the responses it was shown."""

import re
from collections.abc import Iterable, Sequence

from rlaif.judges.reading import brackets, phrases, ranking, scores, several
from rlaif.judges.reading.base import Choice, Format, FormatName, Found, Meaning, Mode, Offer, Order, Ratings, Reading
from rlaif.judges.reading.refusals import is_refusal
from rlaif.judges.reading.thinking import visible_text
from rlaif.types import NoOutcome, Outcome, Preferred, Ranking, Score, Tie

FORMATS: dict[FormatName, Format] = {
    form.name: form
    for form in (*brackets.FORMATS, *phrases.FORMATS, *scores.FORMATS, *several.FORMATS, *ranking.FORMATS)
}
"""All formats by their name."""
_CUT_NUMBER = re.compile(r"(?<![\d.])\d[\d.,/]{0,15}\Z")


def read(text: str, form: Format, offer: Offer, mode: Mode = "strict", *, truncated: bool = False) -> Reading:
    """What an answer says, its thinking set aside.

    strict: all verdicts in the format's anchored form must agree and be among those offered, else it is a conflict or
    unparsed. lenient: the last one counts, and the forms that the format tolerates. No answer is a tie or a loss because
    it could not be read. truncated: the answer was cut off, so a number at its very end may lack digits.
    """
    said = visible_text(text)
    found = find_verdicts(_without_cut_number(said, offer) if truncated else said, form, offer, mode)
    if found:
        return _decide(found, mode)
    return Reading(None, _why_nothing(said, truncated))


def find_verdicts(said: str, form: Format, offer: Offer, mode: Mode) -> Sequence[Found]:
    """All verdicts of the text in the first of the mode's forms that occurs in it."""
    for finder in (form.strict,) if mode == "strict" else form.lenient:
        found = finder(said, offer)
        if found:
            return found
    return ()


def _decide(found: Sequence[Found], mode: Mode) -> Reading:
    if mode == "lenient":
        return Reading(found[-1], "unparsed" if found[-1] is None else None)
    if None in found:
        return Reading(None, "unparsed")
    return Reading(found[0], None) if len(set(found)) == 1 else Reading(None, "conflict")


def _without_cut_number(said: str, offer: Offer) -> str:
    has_longer_scores = offer.scale is not None and offer.scale[1] > 9
    return _CUT_NUMBER.sub("", said) if has_longer_scores else said


def _why_nothing(said: str, truncated: bool) -> NoOutcome:
    if truncated:
        return "truncated"
    return "refused" if is_refusal(said) else "unparsed"


def outcome_of(
    meaning: Meaning, shown: Sequence[str], scale: tuple[int, int] | None, tie_within: float = 0.0
) -> Outcome | None:
    """What a meaning says of the shown responses (their ids, in the shown order); None if a rating is missing.

    One rating is a score normalised by the scale; two are a preference of the higher; an order is a ranking.
    """
    if isinstance(meaning, Choice):
        if meaning.position is None:
            return Tie()
        return Preferred(response_id=shown[meaning.position], strength=meaning.strength)
    if isinstance(meaning, Order):
        return Ranking(tiers=tuple(tuple(shown[place] for place in tier) for tier in meaning.tiers))
    values = [value for value in meaning.values if value is not None]
    if len(values) < len(shown):
        return None
    if len(shown) == 1:
        assert scale is not None, "a rating has a scale"
        return Score(score=normalise(values[0], scale))
    if abs(values[0] - values[1]) <= tie_within:
        return Tie()
    return Preferred(response_id=shown[values.index(max(values))])


def parts_of(meaning: Meaning, shown: Sequence[str]) -> dict[str, float | None] | None:
    """The rating of each response by its id, on the judge's own scale; None where nothing was rated."""
    return dict(zip(shown, meaning.values, strict=True)) if isinstance(meaning, Ratings) else None


def normalise(score: float, scale: tuple[int, int]) -> float:
    """A score of the scale as a number in [0, 1]."""
    return min(1.0, max(0.0, (score - scale[0]) / (scale[1] - scale[0])))


def verdict_syntax(text: str, forms: Iterable[Format] = FORMATS.values()) -> list[str]:
    """Which of the formats have their verdict syntax in a response, sorted: '[[A]]', '[RESULT]', 'score: 10', 'Output (a)' ...

    A judge of that format may mistake it for a verdict of its own. alpaca-eval and pandalm are never among them: their
    verdict, a letter or a digit alone, can not be told from an ordinary answer.
    """
    return sorted(form.name for form in forms if form.syntax is not None and form.syntax.search(text))
