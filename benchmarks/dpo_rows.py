"""The rows both sides of the benchmark train on: random token ids of fixed lengths.

Both sides are given the ids and never tokenise, so they train on exactly the same tokens.
"""

import random
from typing import TypedDict

PAIRS, PROMPT_TOKENS, COMPLETION_TOKENS, FIRST_ID, LAST_ID = 4, 260, 120, 1000, 40000


class IdRow(TypedDict):
    """One pair as token ids."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def id_rows(pairs: int = PAIRS, prompt: int = PROMPT_TOKENS, completion: int = COMPLETION_TOKENS) -> list[IdRow]:
    """The same pairs in every process."""
    generator = random.Random(0)

    def ids(length: int) -> list[int]:
        return [generator.randint(FIRST_ID, LAST_ID) for _ in range(length)]

    return [
        IdRow(prompt_ids=ids(prompt), chosen_ids=ids(completion), rejected_ids=ids(completion)) for _ in range(pairs)
    ]
