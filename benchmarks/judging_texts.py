"""Random and mutated answers of judges, and what must hold however one is read."""

import random
from collections.abc import Iterator

from rlaif.judges.reading import FORMATS, Choice, Format, Mode, Offer, read, visible_text

MODES: tuple[Mode, ...] = ("strict", "lenient")
WITH_MISSING_RATINGS = "ultrafeedback-aspects"
ANSWERS: dict[str, tuple[str, ...]] = {
    "label": ("A", "[[B]]", "Answer A is better", "**B**", "Verdict: C", "3", "[[4]]", "Rating: 2/5", "[A]"),
    "mt-bench-pair": ("My verdict is [[A]].", "[[B]]", "[[C]]", "[[a]]", "[B]", "The better answer is A."),
    "mt-bench-single": ("Rating: [[7]]", "[[7/10]]", "[[0]]", "[[11]]", "Rating: 8/10", "[[7.5]]", "as in [1]"),
    "mt-bench-ratings": ("[[8,7]]", "[[8.5, 7]]", "[[8/10, 7/10]]", "[[8]]", "[8, 7]", "[[11,3]]"),
    "arena-hard": ("[[A>>B]]", "[[B>A]]", "[[A=B]]", "[[b<a]]", "[A>B]", "[[B=A]]", "[[A>A]]", "[[B >> A]]"),
    "alpaca-eval": ("m", "M", "`m`", "Model M", "The better output is m."),
    "prometheus-absolute": ("Feedback: good. [RESULT] 4", "[RESULT] 0", "[RESULT] (5).", "[result] 3/5", "Score: 2"),
    "prometheus-relative": ("Feedback. [RESULT] A", "[RESULT] B.", "[RESULT] Tie", "Result: b"),
    "ultrafeedback-aspects": (
        "#### Output for Text 1\nRating: 4\nRationale: x\n\n#### Output for Text 2\nRating: N/A\nRationale: y",
        "#### Output for Text 1\nType: 1\nRating: 2\n#### Output for Text 2\n**Rating:** 5/5",
        "Text 1:\nrating: 3\nText 2:\nrating: 4",
    ),
    "ultrafeedback-critique": ("Good.\nOverall Score: 9", "**Overall Score**: 9/10", "overall score: 0.5", "Score: 7"),
    "judgelm": ("8 7\nThe first one is better.", "8, 7", "8/10 7/10", "Assistant 1: 8\nAssistant 2: 7", "8 7 6", "9.5 7"),
    "pandalm": ("1\n\nReason: it is.", "Tie", "2", "tie.", "Response 1", "3"),
    "llmbar": ("Output (a) is better.", "Output (b)", "neither Output (a) nor Output (b) is better", "(a)", "output a"),
    "rewardbench": ("[[A]]", "[[B]]", "**Result:** A", "[[C]]"),
    "g-eval": ('{"reason": "x", "score": 4}', '{"score": "3"}', "5", "score: 4", '{"reason": "\\"score\\": 9", "score": 2}'),
    "cai-choice": ("(A)", "The answer is (B).", "A", "(C)"),
    "auto-j": ("So, the final decision is Response 1.", "final decision is Tie", "final decision is: response 2"),
    "": (
        "<think>[[A]]</think>", "<think>[[A]]", "x</think>", "I'm sorry, but I cannot judge this.", "<reasoning>8 7",
        "<|channel|>analysis<|message|>[[A]]<|end|><|start|>assistant<|channel|>final<|message|>", "-3", "٣", "nan",
    ),
}  # fmt: skip
"""Answers in each format's forms and near them; under no name, what belongs to any."""
FRAGMENTS = (
    "[[", "]]", "[", "]", "(", ")", "A", "B", "C", "a", "b", "m", "M", "1", "2", "7", "10", "0", "99999999999", "1e9", "nan",
    "inf", "/10", "/5", ".", ",", ":", "-", ">", ">>", "=", "<", " ", "\n", "\t", "**", "`", '"', "\\", "{", "}", "Output ",
    "Output (a)", " is better", "Response ", "Assistant ", "Tie", "Both", "neither ", "or ", "[RESULT]", "Rating:", "score",
    '"score":', "Overall Score:", "#### Output for Text ", "N/A", "final decision is ", "verdict", "<think>", "</think>",
    "<|channel|>", "final", "<|message|>", "<|end|>", "é", "\u2028", "\x00", "²", "٣", "🙂", "\ud800", "ſ", "İ",
)  # fmt: skip
"""Among them what trips number parsers, line splitting and case folding."""


def random_text(draw: random.Random, name: str) -> str:
    """An answer in the forms of a format or near them, mutated; or fragments of all formats' answers, at random."""
    if draw.random() < 0.25:
        return "".join(draw.choices(FRAGMENTS, k=draw.randint(0, 24)))
    others = (*ANSWERS[""], *ANSWERS[draw.choice(tuple(ANSWERS))])
    pieces = [draw.choice(ANSWERS[name] if draw.random() < 0.75 else others) for _ in range(draw.randint(1, 3))]
    text = draw.choice((" ", "\n", "")).join(pieces)
    for _ in range(draw.randint(0, 4)):
        text = _mutated(text, draw)
    return text


def _mutated(text: str, draw: random.Random) -> str:
    at = draw.randint(0, len(text))
    match draw.randrange(5):
        case 0:
            return text[:at] + text[at + draw.randint(1, 3) :]
        case 1:
            return text[:at] + draw.choice(FRAGMENTS) + text[at:]
        case 2:
            return text[:at]
        case 3:
            return text.swapcase()
        case _:
            return text[:at] + text[max(0, at - draw.randint(1, 20)) :]


def offers(form: Format) -> Iterator[Offer]:
    """What judges of this format may be asked to say: with and without a tie, on two scales."""
    if set(form.kinds) & {"pairwise", "ratings"}:
        labels = form.labels or ("A", "B")
        scale = form.scale if "ratings" in form.kinds else None
        yield Offer(labels=labels, scale=scale)
        tie = form.tie if form.labels else "C"
        if tie is not None:
            yield Offer(labels=labels, tie=tie)
    if "ratings" in form.kinds:
        yield Offer(labels=("1", "2"), scale=(0, 100))
    if "pointwise" in form.kinds:
        yield Offer(scale=form.scale or (1, 5), texts=1)
        yield Offer(scale=(0, 100), texts=1)


def check_offered(text: str, form: Format, offer: Offer, mode: Mode, *, truncated: bool = False) -> bool:
    """Reads the text; whether there was a verdict. Raises AssertionError if it is not one of those offered."""
    meaning, reason = read(text, form, offer, mode, truncated=truncated)
    assert (meaning is None) == (reason is not None), (text, form.name, mode)
    if meaning is None:
        return False
    if isinstance(meaning, Choice):
        assert offer.labels, (text, form.name, mode)
        assert 0 < meaning.strength <= 1
        assert meaning.position in ((0, 1) if offer.tie is None else (0, 1, None)), (text, form.name, mode)
        assert _label(meaning, offer).casefold() in visible_text(text).casefold() or form.name == "arena-hard"
        return True
    assert len(meaning.values) == offer.texts, (text, form.name, mode)
    assert offer.scale is not None, (text, form.name, mode)
    for value in meaning.values:
        if value is None:
            assert form.name == WITH_MISSING_RATINGS, (text, form.name, mode)
        else:
            assert offer.scale[0] <= value <= offer.scale[1], (text, form.name, mode)
    return True


def _label(meaning: Choice, offer: Offer) -> str:
    return str(offer.tie) if meaning.position is None else offer.labels[meaning.position]


def all_readings() -> list[tuple[Format, Offer, Mode]]:
    """Every format with what it may offer, in both modes."""
    return [(form, offer, mode) for form in FORMATS.values() for offer in offers(form) for mode in MODES]
