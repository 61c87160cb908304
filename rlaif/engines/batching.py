"""Batches of token rows for a model in process: alike in length, bounded in number and tokens, padded into a rectangle."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from rlaif.errors import EngineError

T = TypeVar("T")

SORTED_TOGETHER = 4096
"""Requests that are taken and sorted by length at a time: enough for alike rows, few enough to hold."""


def batches(rows: Sequence[T], length: Callable[[T], int], *, most_rows: int, most_tokens: int) -> Iterator[list[T]]:
    """Batches of rows that are sorted by length, the longest first (so running out of memory shows at once).

    length: of a row, in tokens. A batch has at most `most_rows` rows, and `most_tokens` tokens with padding; a longer row goes
    alone.
    """
    batch: list[T] = []
    for row in rows:
        longest = length((batch or [row])[0])
        if batch and (len(batch) >= most_rows or (len(batch) + 1) * longest > most_tokens):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]], padding: int, side: Literal["left", "right"], device: Any) -> dict[str, Any]:
    """`input_ids` and `attention_mask` of rows of token ids, each [rows, longest], on a device."""
    import torch

    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[place, where] = torch.tensor(row, dtype=torch.long)
        mask[place, where] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


@contextlib.contextmanager
def out_of_memory(advice: str) -> Iterator[None]:
    """Turns running out of memory into one message; advice: with what it happened, and what to lower."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise EngineError(
            f"out of memory with {advice}. What was answered is saved: the same command continues"
        ) from None
