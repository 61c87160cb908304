"""Formats whose verdict is a short phrase: LLMBar, AlpacaEval, PandaLM, the choice of Constitutional AI, Auto-J."""

import re

from rlaif.judges.reading.base import DECORATION, Format, Found, Offer
from rlaif.judges.reading.letters import NOT_ASSERTED, bare, bare_any_case, in_words

_BETTER = re.compile(rf"{NOT_ASSERTED}\bOutput \(([A-Za-z])\)\*{{0,2}} is (?:the )?better\b(?!\s?\?)")
_BETTER_ANY_CASE = re.compile(
    rf"{NOT_ASSERTED}\b(?i:output|response)\s?\(?([A-Za-z])\)?\*{{0,2}}\s(?i:is\s(?:the\s|clearly\s|slightly\s|much\s)?better)\b(?!\s?\?)"
)
_OUTPUT = re.compile(r"(?:Output )?\(?([A-Za-z])\)?")
_PARENTHESES = re.compile(r"\(([A-Z])\)")
_DECISION = re.compile(r"final decision is:?\s{0,3}[*_\"'`\[]{0,4}((?:Response |response )?\w{1,12})")


def _statements(text: str, offer: Offer) -> list[Found]:
    """LLMBar: "Output (a) is better"; an answer without it must be "Output (a)" alone."""
    stated = [offer.meaning(match[1]) for match in _BETTER.finditer(text)]
    return stated or _output_alone(text, offer)


def _output_alone(text: str, offer: Offer) -> list[Found]:
    match = _OUTPUT.fullmatch(text.strip(" \t\r\n*_`'\".,:;[]#"))
    return [offer.meaning(match[1])] if match else []


def _statements_any_case(text: str, offer: Offer) -> list[Found]:
    return [offer.like(match[1]) for match in _BETTER_ANY_CASE.finditer(text)]


def _output_on_a_line(text: str, offer: Offer) -> list[Found]:
    """LLMBar: the first or the last line is "Output (a)", perhaps with a remark in parentheses."""
    lines = [line for line in text.splitlines() if line.strip(DECORATION)]
    for line in (*lines[:1], *lines[-1:]):
        match = _OUTPUT.fullmatch(line.partition(") (")[0].strip(" \t*_`'\".,[]#")) if not line.endswith(":") else None
        if match and offer.like(match[1]) is not None:
            return [offer.like(match[1])]
    return []


def _first_line(text: str, offer: Offer) -> list[Found]:
    """PandaLM: the first line is the label."""
    return bare(text.strip().partition("\n")[0], offer)


def _letters_in_parentheses(text: str, offer: Offer) -> list[Found]:
    """Constitutional AI: (A), or the letter alone."""
    return [offer.meaning(match[1]) for match in _PARENTHESES.finditer(text)] or bare(text, offer)


def _decisions(text: str, offer: Offer) -> list[Found]:
    return [offer.meaning(match[1]) for match in _DECISION.finditer(text)]


def _decisions_any_case(text: str, offer: Offer) -> list[Found]:
    decision = re.compile(_DECISION.pattern, re.IGNORECASE)
    return [offer.like(match[1]) for match in decision.finditer(text)]


def _one_of(offer: Offer) -> str:
    return f"one of {', '.join(offer.choices)}"


LLMBAR = Format(
    name="llmbar",
    kinds=("pairwise",),
    form=lambda offer: "Output (a) or Output (b)",
    strict=_statements,
    lenient=(_statements_any_case, _output_alone, _output_on_a_line),
    labels=("a", "b"),
    single=lambda offer: offer.choices,
    syntax=re.compile(r"(?i:\boutput\s?\([ab]\))"),
)
ALPACA_EVAL = Format(
    name="alpaca-eval",
    kinds=("pairwise",),
    form=_one_of,
    strict=bare,
    lenient=(bare_any_case, in_words),  # m and M differ in their case alone, so it is never tolerated here
    labels=("m", "M"),
    single=lambda offer: offer.choices,
)
PANDALM = Format(
    name="pandalm",
    kinds=("pairwise",),
    form=_one_of,
    strict=_first_line,
    lenient=(bare_any_case, in_words),
    labels=("1", "2"),
    tie="Tie",
    single=lambda offer: offer.choices,
)
CAI_CHOICE = Format(
    name="cai-choice",
    kinds=("pairwise",),
    form=lambda offer: "(A) or (B)",
    strict=_letters_in_parentheses,
    lenient=(_letters_in_parentheses, bare_any_case, in_words),
    labels=("A", "B"),
    single=lambda offer: offer.choices,
    syntax=re.compile(r"\([AB]\)"),
)
AUTO_J = Format(
    name="auto-j",
    kinds=("pairwise",),
    form=lambda offer: f"the sentence 'the final decision is' with one of {', '.join(offer.choices)}",
    strict=_decisions,
    lenient=(_decisions_any_case,),
    labels=("Response 1", "Response 2"),
    tie="Tie",
    syntax=re.compile(r"(?i:final decision is:?\s{0,3}\W{0,4}(?:response\s[12]|tie)\b)"),
)
FORMATS = (LLMBAR, ALPACA_EVAL, PANDALM, CAI_CHOICE, AUTO_J)
