"""What a model answered to a request for a critique or a revision: a text to go on with, or why there is none."""

import re

from rlaif.judges.reading.refusals import is_refusal, refusal_to
from rlaif.judges.reading.thinking import visible_text
from rlaif.types import FinishReason, NoRevision

Reading = tuple[str, None] | tuple[None, NoRevision]
"""The text, or the reason why there is none."""

_NAMES = (
    r"(?:critiques?|criticisms?|revisions?|(?:revised|rewritten|improved|corrected|updated|new) "
    r"(?:answer|response|reply|version|text))(?: request)?(?: \d{1,2})?"
)
_HEADING = re.compile(
    rf"(?im)^[ \t]{{0,3}}[#*_\[(]{{0,6}}[ \t]?(?P<name>{_NAMES})[\])]?[*_]{{0,3}}[ \t]?(?::[*_]{{0,3}}[ \t]*|$)"
)
"""'Critique:', '**Revision:**', '## Revised answer' and the like, at the start of a line."""
_ANNOUNCEMENT = re.compile(
    r"(?i)\A(?:(?:sure|certainly|of course|absolutely|ok|okay)\b[^\n:]{0,20}?)?(?:here(?:['’]s| is)|below is)"
    r" (?:the|a|an|my|your) (?:\w+ ){0,2}?(?:revised|rewritten|improved|corrected|updated|new) (?:\w+ )?"
    r"(?:answer|response|reply|version|text)\b[^\n:]{0,80}:[*_]{0,3}[ \t]*\n"
)
"""A first line such as 'Sure! Here is the revised answer:'."""
_FENCE_LINE = re.compile(r"</?data (?P<digits>[0-9a-f]{12})>")
_WHOLLY_FENCED = re.compile(r"<data ([0-9a-f]{12})>\n(?P<inside>.*?)\n?</data \1>", re.S)
_REFUSES = refusal_to(
    r"(?:revis|rewrit|re-writ|rephras|reword|critiqu|critici[sz]"
    r"|(?:provid|giv|offer|writ)\w*\s(?:an?\s|the\s|any\s)?(?:revis|rewrit|critiqu))"
)
LEAK_CHARACTERS = 80
"""A revision that begins with so much of the critique (or all of a shorter one) repeats it."""
LEAK_WORDS = 8
FEWEST_CHARACTERS = 20
"""Of a critique; a shorter one can begin like an answer by chance, and only one that is all of the revision counts."""


def read_critique(raw: str) -> Reading:
    """The critique without its thinking. One that was cut off is still a critique."""
    said = visible_text(raw)
    if not said:
        return None, "empty critique"
    if is_refusal(said) or _REFUSES.match(said):
        return None, "refused critique"
    return said, None


def read_revision(
    raw: str,
    finish_reason: FinishReason | None,
    *,
    answers: tuple[str, ...],
    critique: str,
    prompt: str = "",
    instructions: str = "",
) -> Reading:
    """The revised answer, without its thinking and without a lone label before it.

    answers: the one that was revised, and the original if that is another: a revision must differ from each, and what stands
    in the first already is no leak. prompt: the conversation before it. instructions: everything that the model was told,
    of which it must not repeat so much as LEAK_WORDS in a row, unless they stand in the prompt or the answer.
    """
    if finish_reason == "length":
        return None, "truncated"
    before = answers[0]
    text = _without_label(_without_fence(visible_text(raw)), before)
    if not text:
        return None, "empty"
    if any(_even(text) == _even(answer) for answer in answers):
        return None, "unchanged"
    if _REFUSES.match(text):
        return None, "refused"
    if any(fence["digits"] not in before for fence in _FENCE_LINE.finditer(text)):
        return None, "leaked fence"
    if _headings(text) - _headings(before) or _begins_with_critique(text, critique, before):
        return None, "leaked critique"
    if _runs(text) & _runs(instructions) - _runs(before) - _runs(prompt):
        return None, "leaked instructions"
    return text, None


def _without_fence(text: str) -> str:
    """The text without the two lines around it, where a model copied the whole form of what it was shown."""
    whole = _WHOLLY_FENCED.fullmatch(text)
    return whole["inside"].strip() if whole else text


def _without_label(text: str, before: str) -> str:
    """The text without an announcement and a label such as 'Revision:' at its start, unless the answer had one there too."""
    if not _ANNOUNCEMENT.match(before):
        text = _ANNOUNCEMENT.sub("", text).lstrip()
    label = _HEADING.match(text)
    if label and not label["name"].lower().startswith("criti") and not _HEADING.match(before):
        text = text[label.end() :]
    return text.strip()


def _headings(text: str) -> set[str]:
    return {heading["name"].lower() for heading in _HEADING.finditer(text)}


def _begins_with_critique(text: str, critique: str, before: str) -> bool:
    start = _even(critique)[:LEAK_CHARACTERS].casefold()
    said = _even(text).casefold()
    if len(start) < FEWEST_CHARACTERS:
        return said == start
    return said.startswith(start) and not _even(before).casefold().startswith(start)


def _runs(text: str) -> set[tuple[str, ...]]:
    """Every LEAK_WORDS words that follow each other."""
    words = re.findall(r"\w+", text.casefold())
    return set(zip(*(words[start:] for start in range(LEAK_WORDS)), strict=False))


def _even(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())
