"""Rows to tensors: prompt trees, packed into rows, grouped into micro-batches by a token budget.

A prompt with K completions is one tree: the prompt's tokens once, then one branch per completion that sees the prompt
and itself. Position ids restart at the prompt's end. The last token of a completion is predicted and, but for reward
models, never read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeVar

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
    """Collects rows of positions, then pads them into one Batch."""

    def __init__(self, read_last: bool) -> None:
        self.kept = None if read_last else -1
        self.rows: list[list[tuple[int, int, int, int]]] = []  # per position: token, position id, tree, branch
        self.predictors: list[tuple[int, int, int, int, int]] = []  # row, position in it, target, completion, place
        self.ends: list[tuple[int, int]] = []  # row, position in it
        self.members: list[tuple[int, ...]] = []
        self.data_rows: list[int] = []
        self.sources: list[tuple[int, int]] = []
        self.n_trees = 0

    def start_row(self) -> None:
        self.rows.append([])

    def add_prompt(self, prompt: tuple[int, ...]) -> int:
        """Appends a prompt to the current row; returns the position of its last token."""
        row = self.rows[-1]
        row.extend((token, position, self.n_trees, 0) for position, token in enumerate(prompt))
        return len(row) - 1

    def add_branch(self, branch: Completion, prompt_end: int, prompt_length: int, number: int) -> int:
        """Appends a completion after `prompt_end` of the current row; returns its index in the batch."""
        row, completion = self.rows[-1], len(self.sources)
        start = len(row)
        read = branch.ids[: self.kept]
        row.extend((token, prompt_length + i, self.n_trees, number) for i, token in enumerate(read))
        place = 0
        for i, target in enumerate(branch.ids):
            if branch.learned is None or branch.learned[i]:
                predictor = prompt_end if i == 0 else start + i - 1
                self.predictors.append((len(self.rows) - 1, predictor, target, completion, place))
                place += 1
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
        cells = torch.tensor([row + [(0, 0, PADDING, 0)] * (width - len(row)) for row in self.rows])
        predictors, ends = torch.tensor(self.predictors), torch.tensor(self.ends)
        input_ids, position_ids, tree, branch = cells.unbind(-1)
        return Batch(
            input_ids=input_ids,
            position_ids=position_ids,
            tree=tree,
            branch=branch,
            is_plain=is_plain,
            completion_positions=predictors[:, 0] * width + predictors[:, 1],
            targets=predictors[:, 2],
            ends=ends[:, 0] * width + ends[:, 1],
            layout=Layout(
                completion=predictors[:, 3],
                position=predictors[:, 4],
                members=torch.tensor(self.members),
                rows=tuple(self.data_rows),
                sources=tuple(self.sources),
            ),
            n_tokens=sum(map(len, self.rows)),
        )


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
