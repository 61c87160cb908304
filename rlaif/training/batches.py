"""Rows to tensors: prompt trees, packed into rows, grouped into micro-batches by a token budget.

A prompt with K completions is one tree: the prompt's tokens once, then one branch per completion that sees the prompt
and itself. Position ids restart at the prompt's end. The last token of a completion is predicted and, but for reward
models, never read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, compress
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rlaif.training.rows import Completion, Row

PADDING = -1
"""The tree index of padding positions; they see only each other."""


@dataclass(frozen=True)
class Member:
    """A row of the step within its tree: which of the tree's branches are its completions."""

    row: int
    branches: tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """One prompt and its distinct completions, and the rows (by index) that use them."""

    prompt: tuple[int, ...]
    branches: tuple[Completion, ...]
    members: tuple[Member, ...]

    @property
    def length(self) -> int:
        """Tokens the model reads: the prompt once and each branch without its last token."""
        return len(self.prompt) + sum(len(branch) - 1 for branch in self.branches)


@dataclass(frozen=True)
class Layout:
    """Which completion each of N learned tokens belongs to, and which of C completions P data rows of K are made of."""

    completion: Tensor  # (N,), 0..C-1
    position: Tensor  # (N,), the place of the token among the learned ones of its completion, from 0
    members: Tensor  # (P, K), the completions of each data row
    rows: tuple[int, ...]  # (P,), the indexes of the data rows
    sources: tuple[tuple[int, int], ...]  # (C,), a (data row, which of its completions) for each completion

    def sums(self, values_N: Tensor) -> Tensor:
        """The sums over whole completions, shape (C,), of a value per token, shape (N,)."""
        return values_N.new_zeros(len(self.sources)).index_add(0, self.completion, values_N)

    def row_tokens(self) -> tuple[Tensor, Tensor]:
        """The learned tokens of the data rows' first completions, one row after the other: indexes into the N tokens, and the
        data row (0..P-1) of each, both (M,). Rows of one completion each have its tokens."""
        lengths = self.lengths()
        starts = lengths.cumsum(0) - lengths
        first = self.members[:, 0]
        counts = lengths[first]
        row = torch.repeat_interleave(torch.arange(len(first), device=first.device), counts)
        within = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        return starts[first][row] + within, row

    def to(self, device: torch.device) -> "Layout":
        return _moved(self, device)

    def lengths(self) -> Tensor:
        """The learned tokens of each completion, shape (C,)."""
        return torch.bincount(self.completion, minlength=len(self.sources))


def merge(layouts: Sequence[Layout]) -> Layout:
    """The layouts of several micro-batches as one, in their order."""
    starts = [0, *accumulate(len(layout.sources) for layout in layouts)][:-1]
    numbered = list(zip(layouts, starts, strict=True))
    return Layout(
        completion=torch.cat([layout.completion + start for layout, start in numbered]),
        position=torch.cat([layout.position for layout in layouts]),
        members=torch.cat([layout.members + start for layout, start in numbered]),
        rows=tuple(row for layout in layouts for row in layout.rows),
        sources=tuple(source for layout in layouts for source in layout.sources),
    )


@dataclass(frozen=True)
class Batch:
    """One micro-batch: R rows of L positions."""

    input_ids: Tensor  # (R, L)
    position_ids: Tensor  # (R, L), the distance from the start of the tree along the path
    tree: Tensor  # (R, L), which tree a position belongs to, PADDING for none
    branch: Tensor  # (R, L), 0 for the prompt, 1.. for the branches of its tree
    is_plain: bool  # one branch per row, padded on the right: a causal mask is enough
    completion_positions: Tensor  # (N,), flat indexes into (R * L): the position that predicts each learned token
    targets: Tensor  # (N,), the learned tokens
    ends: Tensor  # (C,), flat indexes: the last position of each completion that is read
    layout: Layout
    n_tokens: int  # positions that are no padding

    def to(self, device: torch.device) -> "Batch":
        return replace(_moved(self, device), layout=self.layout.to(device))


T = TypeVar("T", Layout, Batch)


def _moved(value: T, device: torch.device) -> T:
    tensors: dict[str, Any] = {name: item.to(device) for name, item in vars(value).items() if isinstance(item, Tensor)}
    return replace(value, **tensors)


def grow_trees(rows: Sequence[Row], indexes: Sequence[int], share_prompts: bool = True) -> list[Tree]:
    """The trees of rows[indexes], in the order of their first row.

    Rows with the same prompt ids share a tree (unless told not to); identical completions in it are one branch.
    """
    grouped: dict[object, list[int]] = {}
    for index in indexes:
        grouped.setdefault(rows[index].prompt if share_prompts else index, []).append(index)
    trees = []
    for group in grouped.values():
        branches: dict[Completion, int] = {}
        members = tuple(
            Member(
                index, tuple(branches.setdefault(completion, len(branches)) for completion in rows[index].completions)
            )
            for index in group
        )
        trees.append(Tree(rows[group[0]].prompt, tuple(branches), members))
    return trees


def pack(trees: Sequence[Tree], capacity: int | None = None) -> list[list[Tree]]:
    """Trees into rows (first fit, longest first) of `capacity`, but never shorter than the longest tree, which is also
    what they have without it: dense masks skip nothing, so longer rows would only cost attention."""
    ordered = sorted(trees, key=lambda tree: -tree.length)
    capacity = max(capacity or 0, ordered[0].length if ordered else 0)
    packed: list[list[Tree]] = []
    room: list[int] = []
    for tree in ordered:
        fitting = next((index for index, free in enumerate(room) if tree.length <= free), None)
        if fitting is None:
            packed.append([tree])
            room.append(capacity - tree.length)
        else:
            packed[fitting].append(tree)
            room[fitting] -= tree.length
    return packed


def plan_step(
    rows: Sequence[Row],
    indexes: Sequence[int],
    budget: int,
    *,
    plain: bool = False,
    read_last: bool = False,
    long_rows: bool = False,
) -> list[Batch]:
    """The micro-batches of one optimiser step: all of rows[indexes], each micro-batch of at most `budget` positions
    (padding counted) unless one row alone is longer. `plain`: one completion per row, no trees. `read_last`: the last
    token of each completion is read too, as reward models need it. `long_rows`: a micro-batch is one row of many trees,
    without padding; for attention that skips what trees do not see of each other."""
    if long_rows and not plain:
        packed = pack(grow_trees(rows, indexes), budget)
        return [_tree_batch([trees], read_last) for trees in packed]
    if plain:
        trees = sorted(grow_trees(rows, indexes, share_prompts=False), key=_longest_path, reverse=True)
        units = [[tree] for tree in trees]
        sizes = [(len(tree.branches), _longest_path(tree)) for tree in trees]
    else:
        units = sorted(pack(grow_trees(rows, indexes)), key=_row_length, reverse=True)
        sizes = [(1, _row_length(unit)) for unit in units]
    batches: list[list[list[Tree]]] = []
    height = width = 0
    for unit, (n_rows, length) in zip(units, sizes, strict=True):
        if not batches or (height + n_rows) * width > budget:
            batches.append([])
            height, width = 0, length
        batches[-1].append(unit)
        height += n_rows
    return [_plain_batch(units, read_last) if plain else _tree_batch(units, read_last) for units in batches]


def _row_length(trees: Sequence[Tree]) -> int:
    return sum(tree.length for tree in trees)


def _longest_path(tree: Tree) -> int:
    return len(tree.prompt) + max(len(branch) - 1 for branch in tree.branches)


class _Builder:
    """Collects rows of positions, then pads them into one Batch. What is kept per position is a flat list of numbers, and
    becomes a tensor by way of numpy: on a GPU a step must not wait for its planning."""

    def __init__(self, read_last: bool) -> None:
        self.kept = None if read_last else -1
        self.rows: list[_PositionRow] = []
        self.predictors = _Predictors()
        self.ends: list[tuple[int, int]] = []  # row, position in it
        self.members: list[tuple[int, ...]] = []
        self.data_rows: list[int] = []
        self.sources: list[tuple[int, int]] = []
        self.n_trees = 0

    def start_row(self) -> None:
        self.rows.append(_PositionRow())

    def add_prompt(self, prompt: tuple[int, ...]) -> int:
        """Appends a prompt to the current row; returns the position of its last token."""
        row = self.rows[-1]
        row.extend(prompt, 0, self.n_trees, 0)
        return len(row) - 1

    def add_branch(self, branch: Completion, prompt_end: int, prompt_length: int, number: int) -> int:
        """Appends a completion after `prompt_end` of the current row; returns its index in the batch."""
        row, completion = self.rows[-1], len(self.sources)
        start = len(row)
        read = branch.ids[: self.kept]
        row.extend(read, prompt_length, self.n_trees, number)
        places = [prompt_end, *range(start, start + len(branch) - 1)]
        self.predictors.extend(len(self.rows) - 1, places, branch, completion)
        self.ends.append((len(self.rows) - 1, len(row) - 1 if read else prompt_end))
        self.sources.append((-1, -1))
        return completion

    def add_members(self, tree: Tree, completions: Sequence[int]) -> None:
        for member in tree.members:
            chosen = tuple(completions[branch] for branch in member.branches)
            self.members.append(chosen)
            self.data_rows.append(member.row)
            for side, completion in enumerate(chosen):
                self.sources[completion] = (member.row, side)
        self.n_trees += 1

    def build(self, is_plain: bool) -> Batch:
        width = max(map(len, self.rows))
        predictors, ends = self.predictors, torch.tensor(self.ends)
        return Batch(
            input_ids=_padded([row.tokens for row in self.rows], width, 0),
            position_ids=_padded([row.positions for row in self.rows], width, 0),
            tree=_padded([row.trees for row in self.rows], width, PADDING),
            branch=_padded([row.branches for row in self.rows], width, 0),
            is_plain=is_plain,
            completion_positions=_tensor(predictors.rows) * width + _tensor(predictors.places),
            targets=_tensor(predictors.targets),
            ends=ends[:, 0] * width + ends[:, 1],
            layout=Layout(
                completion=_tensor(predictors.completions),
                position=_tensor(predictors.orders),
                members=torch.tensor(self.members),
                rows=tuple(self.data_rows),
                sources=tuple(self.sources),
            ),
            n_tokens=sum(map(len, self.rows)),
        )


class _PositionRow:
    """The positions of a row: token, position id, tree and branch of each."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.trees: list[int] = []
        self.branches: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def extend(self, ids: Sequence[int], first_position: int, tree: int, branch: int) -> None:
        self.tokens.extend(ids)
        self.positions.extend(range(first_position, first_position + len(ids)))
        self.trees.extend([tree] * len(ids))
        self.branches.extend([branch] * len(ids))


class _Predictors:
    """What is learned: each target, the row and place in it that predict it, its completion and its order in that."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.places: list[int] = []
        self.targets: list[int] = []
        self.completions: list[int] = []
        self.orders: list[int] = []

    def extend(self, row: int, places: Sequence[int], branch: Completion, completion: int) -> None:
        """places: of the positions that predict each token of `branch`."""
        targets: Sequence[int] = branch.ids
        if branch.learned is not None:
            places, targets = list(compress(places, branch.learned)), list(compress(targets, branch.learned))
        self.rows.extend([row] * len(targets))
        self.places.extend(places)
        self.targets.extend(targets)
        self.completions.extend([completion] * len(targets))
        self.orders.extend(range(len(targets)))


def _padded(rows: Sequence[list[int]], width: int, filling: int) -> Tensor:
    return torch.stack([_tensor(row + [filling] * (width - len(row))) for row in rows])


def _tensor(numbers: list[int]) -> Tensor:
    return torch.from_numpy(np.array(numbers, dtype=np.int64))


def _tree_batch(units: Sequence[Sequence[Tree]], read_last: bool) -> Batch:
    builder = _Builder(read_last)
    for trees in units:
        builder.start_row()
        for tree in trees:
            end = builder.add_prompt(tree.prompt)
            completions = [
                builder.add_branch(branch, end, len(tree.prompt), number + 1)
                for number, branch in enumerate(tree.branches)
            ]
            builder.add_members(tree, completions)
    return builder.build(is_plain=False)


def _plain_batch(units: Sequence[Sequence[Tree]], read_last: bool) -> Batch:
    builder = _Builder(read_last)
    for (tree,) in units:
        completions = []
        for branch in tree.branches:
            builder.start_row()
            end = builder.add_prompt(tree.prompt)
            completions.append(builder.add_branch(branch, end, len(tree.prompt), 1))
        builder.add_members(tree, completions)
    return builder.build(is_plain=True)
