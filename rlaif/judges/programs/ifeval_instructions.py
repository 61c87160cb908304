"""The 25 instructions of IFEval, each a function of the response's text and of what is asked.

They decide as the reference code does (google-research/instruction_following_eval, `instructions.py`), its quirks
included: a highlighted part in double asterisks counts once as such and, if asterisks nest, once more as a single one.
What is asked as a pattern in the reference (keywords, markers) is a regular expression here, too, with a time limit.
"""

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, create_model

from rlaif.judges.programs.base import Finding
from rlaif.judges.programs.language import detect_language, is_language
from rlaif.judges.programs.patterns import REGEX_SECONDS
from rlaif.judges.programs.tokens import capital_words, punkt_sentences

Relation = Literal["less than", "at least"]
Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Check = Callable[..., Finding]


@dataclass(frozen=True)
class Instruction:
    """An instruction: what decides, check(text, **kwargs), and the model of its keyword arguments."""

    check: Check
    kwargs: type[BaseModel]


INSTRUCTIONS: dict[str, Instruction] = {}
"""By the ids that the data set uses."""


def instruction(id: str) -> Callable[[Check], Check]:
    """Registers a check; the model of its arguments is read off its signature."""

    def register(check: Check) -> Check:
        parameters = list(inspect.signature(check).parameters.values())[1:]
        fields: dict[str, Any] = {parameter.name: (parameter.annotation, ...) for parameter in parameters}
        model = create_model(id, __config__=ConfigDict(extra="forbid"), **fields)
        INSTRUCTIONS[id] = Instruction(check=_timed(check), kwargs=model)
        return check

    return register


def _timed(check: Check) -> Check:
    """The check, undecided where a pattern takes too long."""

    def run(text: str, **kwargs: Any) -> Finding:
        try:
            return check(text, **kwargs)
        except TimeoutError:
            return Finding(None, f"a pattern timed out after {REGEX_SECONDS:g} s")

    return run


@instruction("keywords:existence")
def existence(text: str, keywords: Annotated[list[Text], Field(min_length=1)]) -> Finding:
    missing = [keyword for keyword in keywords if not _count(keyword, text)]
    return Finding(not missing, f"without {', '.join(missing)}" if missing else "all keywords")


@instruction("keywords:frequency")
def keyword_frequency(text: str, keyword: Text, frequency: Count, relation: Relation) -> Finding:
    return _related(_count(keyword.strip(), text), relation, frequency, f"times '{keyword}'")


@instruction("keywords:forbidden_words")
def forbidden_words(text: str, forbidden_words: Annotated[list[Text], Field(min_length=1)]) -> Finding:
    used = [word for word in forbidden_words if _count(word, text, r"\b", r"\b")]
    return Finding(not used, f"forbidden: {', '.join(used)}" if used else "no forbidden word")


@instruction("keywords:letter_frequency")
def letter_frequency(
    text: str,
    letter: Annotated[str, Field(min_length=1, max_length=1)],
    let_frequency: Count,
    let_relation: Relation,
) -> Finding:
    return _related(text.lower().count(letter.lower()), let_relation, let_frequency, f"letters {letter}")


@instruction("language:response_language")
def response_language(text: str, language: Text) -> Finding:
    return _in_language(detect_language(text), language)


@instruction("length_constraints:number_sentences")
def number_sentences(text: str, num_sentences: Count, relation: Relation) -> Finding:
    return _related(punkt_sentences(text), relation, num_sentences, "sentences")


@instruction("length_constraints:number_paragraphs")
def number_paragraphs(text: str, num_paragraphs: Count) -> Finding:
    """Paragraphs are what stands between ***; the first and the last may be empty and then do not count."""
    first, *inner = re.split(r"\s?\*\*\*\s?", text)
    last = inner.pop() if inner else ""
    if any(not part.strip() for part in inner):
        return Finding(False, "an empty paragraph between ***")
    count = len(inner) + sum(bool(part.strip()) for part in (first, last))
    return Finding(count == num_paragraphs, f"{count} paragraphs, {num_paragraphs} asked")


@instruction("length_constraints:number_words")
def number_words(text: str, num_words: Count, relation: Relation) -> Finding:
    return _related(len(re.findall(r"\w+", text)), relation, num_words, "words")


@instruction("length_constraints:nth_paragraph_first_word")
def nth_paragraph_first_word(
    text: str, num_paragraphs: Count, nth_paragraph: Annotated[int, Field(ge=1)], first_word: Text
) -> Finding:
    """Paragraphs are separated by an empty line; empty ones do not count, but keep their place for the nth."""
    paragraphs = text.split("\n\n")
    count = sum(bool(part.strip()) for part in paragraphs)
    if nth_paragraph > count or not paragraphs[nth_paragraph - 1].strip():
        return Finding(False, f"{count} paragraphs, the {nth_paragraph}. is missing or empty")
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    start = re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower()
    passes = count == num_paragraphs and start == first_word.lower()
    return Finding(passes, f"{count} paragraphs, {num_paragraphs} asked; the {nth_paragraph}. starts with '{start}'")


@instruction("detectable_content:number_placeholders")
def number_placeholders(text: str, num_placeholders: Count) -> Finding:
    return _related(sum(map(_placeholders, text.split("\n"))), "at least", num_placeholders, "placeholders")


@instruction("detectable_content:postscript")
def postscript(text: str, postscript_marker: Text) -> Finding:
    marker = postscript_marker.strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    found = _count(patterns.get(marker, marker.lower()), text.lower())
    return Finding(found > 0, f"{'a' if found else 'no'} postscript {marker}")


@instruction("detectable_format:number_bullet_lists")
def number_bullet_lists(text: str, num_bullets: Count) -> Finding:
    stars = re.findall(r"^[^\S\n]*\*[^*].*$", text, flags=re.MULTILINE)
    dashes = re.findall(r"^[^\S\n]*-.*$", text, flags=re.MULTILINE)
    count = len(stars) + len(dashes)
    return Finding(count == num_bullets, f"{count} bullet points, {num_bullets} asked")


@instruction("detectable_format:constrained_response")
def constrained_response(text: str) -> Finding:
    options = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
    given = [option for option in options if option in text]
    return Finding(bool(given), " and ".join(given) or "none of the options")


@instruction("detectable_format:number_highlighted_sections")
def number_highlighted_sections(text: str, num_highlights: Count) -> Finding:
    single = [part for part in re.findall(r"\*[^\n*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n*]*\*\*", text) if part[2:-2].strip()]
    return _related(len(single) + len(double), "at least", num_highlights, "highlighted sections")


@instruction("detectable_format:multiple_sections")
def multiple_sections(text: str, section_spliter: Text, num_sections: Count) -> Finding:
    count = _count(section_spliter.strip(), text, r"\s?", r"\s?\d+\s?", ignore_case=False)
    return _related(count, "at least", num_sections, "sections")


@instruction("detectable_format:json_format")
def json_format(text: str) -> Finding:
    bare = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        bare = bare.removeprefix(fence)
    try:
        json.loads(bare.removesuffix("```").strip())
    except ValueError as error:
        return Finding(False, f"not JSON: {error}")
    except RecursionError:
        return Finding(None, "the JSON is nested too deeply to be read")
    return Finding(True, "JSON")


@instruction("detectable_format:title")
def title(text: str) -> Finding:
    found = any(_has_title(line) for line in text.split("\n"))
    return Finding(found, f"{'a' if found else 'no'} title in << >>")


@instruction("combination:two_responses")
def two_responses(text: str) -> Finding:
    first, *inner = text.split("******")
    last = inner.pop() if inner else ""
    if any(not part.strip() for part in inner):
        return Finding(False, "an empty response between ******")
    given = [part.strip() for part in (first, *inner, last) if part.strip()]
    return Finding(len(given) == 2 and given[0] != given[1], f"{len(given)} responses, {len(set(given))} different")


@instruction("combination:repeat_prompt")
def repeat_prompt(text: str, prompt_to_repeat: Text) -> Finding:
    repeated = text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    return Finding(repeated, f"{'starts' if repeated else 'does not start'} with the prompt")


@instruction("startend:end_checker")
def end_checker(text: str, end_phrase: Text) -> Finding:
    ends = text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    return Finding(ends, f"{'ends' if ends else 'does not end'} with '{end_phrase.strip()}'")


@instruction("startend:quotation")
def quotation(text: str) -> Finding:
    bare = text.strip()
    quoted = len(bare) > 1 and bare[0] == bare[-1] == '"'
    return Finding(quoted, f"{'' if quoted else 'not '}in double quotation marks")


@instruction("change_case:capital_word_frequency")
def capital_word_frequency(text: str, capital_frequency: Count, capital_relation: Relation) -> Finding:
    return _related(capital_words(text), capital_relation, capital_frequency, "words in capitals")


@instruction("change_case:english_capital")
def english_capital(text: str) -> Finding:
    # Capitals mislead the language model, so it is shown small letters.
    return (
        _in_language(detect_language(text.lower()), "en") if text.isupper() else Finding(False, "not all in capitals")
    )


@instruction("change_case:english_lowercase")
def english_lowercase(text: str) -> Finding:
    return _in_language(detect_language(text), "en") if text.islower() else Finding(False, "not all in small letters")


@instruction("punctuation:no_comma")
def no_comma(text: str) -> Finding:
    place = text.find(",")
    return Finding(place < 0, "no comma" if place < 0 else f"a comma at character {place}")


def _related(count: int, relation: Relation, threshold: int, unit: str) -> Finding:
    passes = count < threshold if relation == "less than" else count >= threshold
    return Finding(passes, f"{count} {unit}, {relation} {threshold} asked")


def _in_language(found: str | None, wanted: str) -> Finding:
    """A text whose language can not be told counts as followed, as in the reference."""
    if found is None:
        return Finding(True, "no words, so no language, which counts as followed")
    return Finding(is_language(found, wanted), f"language {found}, {wanted} asked")


def _count(pattern: str, text: str, before: str = "", after: str = "", *, ignore_case: bool = True) -> int:
    """How often a pattern is found between two others. What is no regular expression (such as :( is) is looked for as it is."""
    flags = regex.IGNORECASE if ignore_case else regex.VERSION0
    try:
        compiled = regex.compile(f"{before}{pattern}{after}", flags)
    except regex.error:
        compiled = regex.compile(f"{before}{regex.escape(pattern)}{after}", flags)
    return sum(1 for _ in compiled.finditer(text, timeout=REGEX_SECONDS))


def _placeholders(line: str) -> int:
    """How many [...] a line has, each from the first [ to the next ]."""
    count, place = 0, line.find("[")
    while place >= 0 and (end := line.find("]", place + 1)) >= 0:
        count, place = count + 1, line.find("[", end + 1)
    return count


def _has_title(line: str) -> bool:
    """Whether something stands between the first << and the last >> of a line."""
    start, end = line.find("<<"), line.rfind(">>")
    return start >= 0 and end >= start + 3 and bool(line[start : end + 2].lstrip("<").rstrip(">").strip())
