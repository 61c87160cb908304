"""The rows of one optimiser step: in which order they come, which process takes which, and in how many micro-batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rlaif.training.batches import Batch, plan_step
from rlaif.training.methods import Counts
from rlaif.training.ranks import gathered, rank, world_size
from rlaif.training.rows import Row


class RowIndexes(Dataset[dict[str, int]]):
    """The indexes of the rows that are trained on; a step's rows are planned together."""

    def __init__(self, indexes: Sequence[int]) -> None:
        self.indexes = indexes

    def __len__(self) -> int:
        return len(self.indexes)

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"row": self.indexes[index]}


class StepSampler(Sampler[list[int]]):
    """The rows of each step of an epoch, shuffled by (seed, epoch): the same in every process."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.count, generator=generator).tolist()
        for start in range(0, self.count, self.batch_size):
            yield order[start : start + self.batch_size]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class StepLoader(DataLoader[dict[str, int]]):
    """Loads one step's row indexes at a time."""

    def __init__(self, indexes: Sequence[int], batch_size: int, seed: int) -> None:
        self.steps = StepSampler(len(indexes), batch_size, seed)
        super().__init__(RowIndexes(indexes), batch_sampler=self.steps, collate_fn=_collate)

    def set_epoch(self, epoch: int) -> None:
        self.steps.set_epoch(epoch)


def _collate(items: list[dict[str, int]]) -> dict[str, torch.Tensor]:
    return {"rows": torch.tensor([item["row"] for item in items])}


@dataclass(frozen=True)
class Step:
    """One process's part of an optimiser step.

    rows: of the whole step. counts: of the whole step. batches: this process's micro-batches; the ones from `n_real` on
    only keep it in time with the others, and weigh nothing. n_tokens: positions of the whole step that are no padding.
    """

    rows: tuple[Row, ...]
    counts: Counts
    batches: list[Batch]
    n_real: int
    n_tokens: int


def plan(
    rows: Sequence[Row],
    indexes: Sequence[int],
    budget: int,
    device: torch.device,
    *,
    plain: bool = False,
    read_last: bool = False,
    long_rows: bool = False,
) -> Step:
    """The step over rows[indexes]. budget: most tokens of a micro-batch."""
    own = shares(rows, indexes, world_size())[rank()]
    shape = {"plain": plain, "read_last": read_last, "long_rows": long_rows}
    batches = plan_step(rows, own, budget, **shape) if own else []
    n_real = len(batches)
    everyone = gathered((n_real, sum(batch.n_tokens for batch in batches)))
    padding = max(n for n, _ in everyone) - n_real
    if padding:
        filler = batches[:1] or plan_step(rows, indexes[:1], budget, **shape)
        batches += filler * padding
    chosen = tuple(rows[index] for index in indexes)
    moved = [batch.to(device) for batch in batches]
    return Step(chosen, Counts.of(chosen), moved, n_real, sum(n_tokens for _, n_tokens in everyone))


def shares(rows: Sequence[Row], indexes: Sequence[int], count: int) -> list[list[int]]:
    """`indexes` divided among `count` processes: rows of one prompt stay together, and tokens are spread evenly."""
    if count == 1:
        return [list(indexes)]
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in indexes:
        groups.setdefault(rows[index].prompt, []).append(index)

    def tokens(group: list[int]) -> int:
        return len(rows[group[0]].prompt) + sum(len(c) for index in group for c in rows[index].completions)

    parts: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for group in sorted(groups.values(), key=tokens, reverse=True):
        lightest = loads.index(min(loads))
        parts[lightest] += group
        loads[lightest] += tokens(group)
    return parts
