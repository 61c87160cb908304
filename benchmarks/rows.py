"""The rows both sides train on: random token ids, the same in every process.

Both sides are given the ids and never tokenise, so they train on exactly the same tokens. A row is a plain dict:
{prompt_ids, chosen_ids, rejected_ids} for pairs, {prompt_ids, completion_ids, label} for single completions.
`scale` divides all lengths (smoke tests).
"""

import math
import random
from typing import Any

IdRow = dict[str, Any]
FIRST_ID, LAST_ID = 1000, 40000
PROMPT, COMPLETION = 260, 120


def pair_rows(scale: int = 1, pairs: int = 4, prompt: int = PROMPT, completion: int = COMPLETION) -> list[IdRow]:
    """Pairs of equal lengths, each with a prompt of its own."""
    draw = _Ids(scale)
    return [_pair(draw(prompt), draw(completion), draw(completion)) for _ in range(pairs)]


def mixed_rows(scale: int = 1, pairs: int = 8) -> list[IdRow]:
    """Pairs of mixed lengths with a long tail: prompts and completions log-normal, of 50 to 1,000 tokens together."""
    draw, lengths = _Ids(scale), random.Random(0)

    def length() -> int:
        return min(max(round(lengths.lognormvariate(math.log(110), 0.9)), 25), 500)

    return [_pair(draw(length()), draw(length()), draw(length())) for _ in range(pairs)]


def shared_rows(scale: int = 1, pairs: int = 4) -> list[IdRow]:
    """Pairs that all have the same prompt."""
    draw = _Ids(scale)
    prompt = draw(PROMPT)
    return [_pair(prompt, draw(COMPLETION), draw(COMPLETION)) for _ in range(pairs)]


def unpaired_rows(scale: int = 1, prompts: int = 4) -> list[IdRow]:
    """One desirable and one undesirable completion of each prompt.

    All desirable ones come first: neighbours have different prompts, so that a completion moved to the next row, by
    which KTO estimates its KL, does not meet its own prompt.
    """
    draw = _Ids(scale)
    prompt_ids = [draw(PROMPT) for _ in range(prompts)]
    return [
        {"prompt_ids": ids, "completion_ids": draw(COMPLETION), "label": label}
        for label in (True, False)
        for ids in prompt_ids
    ]


def answer_rows(scale: int = 1, rows: int = 8) -> list[IdRow]:
    """Prompts with one completion each."""
    draw = _Ids(scale)
    return [{"prompt_ids": draw(PROMPT), "completion_ids": draw(COMPLETION)} for _ in range(rows)]


def completions(row: IdRow) -> list[list[int]]:
    """The completions of a row: chosen and rejected, or the one."""
    return [row[key] for key in ("chosen_ids", "rejected_ids", "completion_ids") if key in row]


def sequence_tokens(rows: list[IdRow]) -> int:
    """The tokens of all sequences of prompt and completion, padding not counted."""
    return sum(len(row["prompt_ids"]) + len(ids) for row in rows for ids in completions(row))


def id_source(scale: int = 1) -> "_Ids":
    """Draws lists of ids: called with a length. The same ids in the same order, wherever it is made."""
    return _Ids(scale)


def _pair(prompt: list[int], chosen: list[int], rejected: list[int]) -> IdRow:
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


class _Ids:
    """Draws lists of ids from a seeded generator."""

    def __init__(self, scale: int) -> None:
        self.generator, self.scale = random.Random(0), scale

    def __call__(self, length: int) -> list[int]:
        return [self.generator.randint(FIRST_ID, LAST_ID) for _ in range(max(2, length // self.scale))]
