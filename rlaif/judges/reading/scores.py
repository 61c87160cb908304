"""Formats whose verdict is a score after a marker: Prometheus, UltraFeedback's critique, G-Eval."""

import re

from rlaif.judges.reading.base import Format, Found, Offer
from rlaif.judges.reading.letters import bare_any_case, in_words
from rlaif.judges.reading.numbers import VALUE, scale_text, scores_after, whole_answer

_RESULT_LABEL = re.compile(r"\[RESULT\][\s:*_`\"'(\[]{0,6}([A-Z]|Tie|Both|Neither)\b")
_RESULT_LABEL_ANY_CASE = re.compile(
    r"(?i:\[?\bresult\b\]?[\s:*_`\"'(\[]{0,6}(?:response |assistant |answer )?)(?P<label>[A-Ba-b]|(?i:tie|both|neither))\b"
)

_IN_JSON = scores_after(r"\"score\"\s{0,8}:")
_ALONE = whole_answer()


def _result_labels(text: str, offer: Offer) -> list[Found]:
    return [offer.meaning(match[1]) for match in _RESULT_LABEL.finditer(text)]


def _result_labels_any_case(text: str, offer: Offer) -> list[Found]:
    return [offer.like(match["label"]) for match in _RESULT_LABEL_ANY_CASE.finditer(text)]


def _json_scores(text: str, offer: Offer) -> list[Found]:
    """The value of "score" in a JSON object, also where the reason's quotes break it; or the number alone."""
    return list(_IN_JSON(text, offer)) or list(_ALONE(text, offer))


PROMETHEUS_ABSOLUTE = Format(
    name="prometheus-absolute",
    kinds=("pointwise",),
    form=lambda offer: f"[RESULT] and a whole number from {scale_text(offer)}",
    strict=scores_after(r"\[RESULT\]", whole=True),
    lenient=(
        scores_after(r"(?i:\[result\])", whole=True),
        scores_after(r"(?i:\bresult\b|\bscore\b|\brating\b)", whole=True),
        whole_answer(whole=True),
    ),
    scale=(1, 5),
    syntax=re.compile(r"(?i:\[result\])"),
)
PROMETHEUS_RELATIVE = Format(
    name="prometheus-relative",
    kinds=("pairwise",),
    form=lambda offer: "[RESULT] A or [RESULT] B",
    strict=_result_labels,
    lenient=(_result_labels_any_case, bare_any_case, in_words),
    labels=("A", "B"),
    syntax=re.compile(r"(?i:\[result\])"),
)
ULTRAFEEDBACK_CRITIQUE = Format(
    name="ultrafeedback-critique",
    kinds=("pointwise",),
    form=lambda offer: f"Overall Score: and a number from {scale_text(offer)}",
    strict=scores_after(r"Overall Score"),
    lenient=(scores_after(r"(?i:overall\sscore)"), scores_after(r"(?i:\bscore\b|\brating\b)"), whole_answer()),
    scale=(1, 10),
    syntax=re.compile(rf"(?i:\b(?:overall\s)?score[\s*_`\"'\[(:=]{{1,8}}){VALUE}"),
)
G_EVAL = Format(
    name="g-eval",
    kinds=("pointwise",),
    form=lambda offer: f'a JSON object {{"reason": "...", "score": n}} with n from {scale_text(offer)}',
    strict=_json_scores,
    lenient=(_json_scores, scores_after(r"(?i:\bscore\b|\brating\b)[\"']?"), whole_answer()),
    scale=(1, 5),
    single=lambda offer: offer.choices,
    syntax=re.compile(rf"(?i:[\"']?\bscore\b[\"']?\s{{0,3}}:\s{{0,3}}[\"']?){VALUE}"),
)
FORMATS = (PROMETHEUS_ABSOLUTE, PROMETHEUS_RELATIVE, ULTRAFEEDBACK_CRITIQUE, G_EVAL)
