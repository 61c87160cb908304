"""The probability of each choice, read from the log-probs that an engine gives for the first token of an answer."""

import math
from collections.abc import Callable, Iterable, Sequence

TOP_TOKENS = 20
"""How many candidates for the first token are asked for: the most that vLLM (by default) and OpenAI give."""

MASKED_LOGPROB = -1000.0
"""At or below this a candidate was forbidden by a constraint: vLLM masks with -inf, its server writes -9999."""

UNSEEN_MASS = 1e-3
"""Probability that may be missing or undecided before the choices' probabilities count as unknown."""


def choice_probabilities(choices: Sequence[str], candidates: Iterable[tuple[str, float]]) -> dict[str, float] | None:
    """The probability of each choice, summing to 1, or None if any of them can not be known.

    candidates: (text, log-prob) of the likeliest first tokens. If together they are all that was possible and every
    one begins exactly one choice, the answer was constrained, and a choice's probability is the sum over the tokens
    that begin it ('Yes' may be written as 'Yes', 'Y'+'es' or 'Ye'+'s'). Otherwise only a token that is a whole choice
    (blanks around it aside) counts, and the choices found share the probability.
    """
    possible = [(text, math.exp(logprob)) for text, logprob in candidates if logprob > MASKED_LOGPROB]
    if any(a != b and b.startswith(a) for a in choices for b in choices):
        return None
    constrained = _sums(choices, possible, _begins)
    if sum(constrained.values()) >= 1 - UNSEEN_MASS:
        return _shares(choices, constrained)
    return _shares(choices, _sums(choices, possible, _is_whole))


def _begins(token: str, choice: str) -> bool:
    return bool(token) and choice.startswith(token)


def _is_whole(token: str, choice: str) -> bool:
    return token.strip() == choice


def _sums(
    choices: Sequence[str], possible: Iterable[tuple[str, float]], matches: Callable[[str, str], bool]
) -> dict[str, float]:
    """The probability of the tokens that match exactly one choice, by choice; choices without any are left out."""
    sums: dict[str, float] = {}
    for token, probability in possible:
        matching = [choice for choice in choices if matches(token, choice)]
        if len(matching) == 1:
            sums[matching[0]] = sums.get(matching[0], 0.0) + probability
    return sums


def _shares(choices: Sequence[str], sums: dict[str, float]) -> dict[str, float] | None:
    total = sum(sums.values())
    if total <= 0 or any(choice not in sums for choice in choices):
        return None
    return {choice: sums[choice] / total for choice in choices}
