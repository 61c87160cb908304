"""Which responses are compared: pairs of one prompt's responses, never across prompts."""

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

from rlaif.judges.config import Comparisons
from rlaif.judges.judge import Item
from rlaif.types import Response


def by_prompt(responses: Iterable[Response]) -> dict[str, list[Response]]:
    """The responses of each prompt, in a fixed order (model, sample index), whatever their order in the file was."""
    groups: dict[str, list[Response]] = {}
    for response in responses:
        groups.setdefault(response.prompt.id, []).append(response)
    for group in groups.values():
        group.sort(key=lambda response: (response.model, response.sample_index, response.id))
    return groups


def comparisons_of(
    group: Sequence[Response], rule: Comparisons, score: Callable[[Response], float | None]
) -> tuple[list[Item], str]:
    """The comparisons of one prompt's responses, and the reason if there are none.

    all: every pair; ring: each with the next; screened: the best by score against a random one that scores lower;
    models: each sample of one model with the same sample of every other. Only `models` compares responses with the same
    text (they tie); elsewhere there is nothing to prefer.
    """
    whole = tuple(group)
    if rule == "models":
        pairs = [pair for pair in combinations(group, 2) if pair[0].sample_index == pair[1].sample_index]
        return [Item(pair, whole) for pair in pairs], "" if pairs else "responses of one model only"
    if rule == "screened":
        return _screened(group, whole, score)
    pairs = list(combinations(group, 2))
    if rule == "ring" and len(group) > 2:
        pairs = list(zip(group, [*group[1:], group[0]], strict=True))
    items = [Item(pair, whole) for pair in pairs if pair[0].text != pair[1].text]
    return items, "" if items else "fewer than two different responses"


def _screened(
    group: Sequence[Response], whole: tuple[Response, ...], score: Callable[[Response], float | None]
) -> tuple[list[Item], str]:
    scored = [(value, response) for response in group if (value := score(response)) is not None]
    if not scored:
        return [], "no response has a score"
    random_by_prompt = random.Random(group[0].prompt.id)
    best = max(value for value, _ in scored)
    winners = [response for value, response in scored if value == best]
    losers = [response for value, response in scored if value < best]
    if not losers:
        return [], f"all {len(scored)} responses score {best:g}"
    pair = [random_by_prompt.choice(winners), random_by_prompt.choice(losers)]
    random_by_prompt.shuffle(pair)
    return [Item((pair[0], pair[1]), whole)], ""
