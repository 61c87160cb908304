"""Several scored completions of one prompt, as UltraFeedback is published: which two of them make the pair."""

import math
from typing import Any

from rlaif.types import content_hash

SCORES = ("fine-grained_score", "overall_score")
"""The mean of a completion's ratings, as the authors' own reward model uses it; only where that is missing the score of the
critique, since many an overall_score of 10 was a 1 that was misread (issue 8 of OpenBMB/UltraFeedback)."""
TOO_FEW = f"fewer than two of its completions have a response and a score ({' or '.join(SCORES)})"
TIED = "its completions all have the same score"


def ranked(completions: list[dict[str, Any]], prompt: str) -> tuple[str, str, float | None, str]:
    """The chosen and the rejected text, the difference of their scores, and why there are none.

    Chosen is the first with the highest score, rejected one of those with a lower score (and another text), drawn by the
    prompt: Zephyr's rule, but without ties, and the same whenever the data is read.
    """
    scored = _scored(completions)
    if not scored:
        return "", "", None, TOO_FEW
    best, chosen = max(scored, key=lambda pair: pair[0])
    lower = [(score, text) for score, text in scored if score < best]
    if not lower:
        return chosen, "", None, TIED
    lower = [(score, text) for score, text in lower if text != chosen] or lower
    score, rejected = lower[int(content_hash(prompt), 16) % len(lower)]
    return chosen, rejected, best - score, ""


def _scored(completions: list[dict[str, Any]]) -> list[tuple[float, str]]:
    """(score, text) of the completions that have the first kind of score that two of them have; none if no kind is.

    Kinds are not mixed: one goes to 5, the other to 10.
    """
    for key in SCORES:
        found = [
            (float(completion[key]), completion["response"])
            for completion in completions
            if isinstance(completion.get("response"), str) and _is_score(completion.get(key))
        ]
        if len(found) > 1:
            return found
    return []


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
