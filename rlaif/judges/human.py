"""People as a judge: their labels, from a file, are its votes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.errors import DataError
from rlaif.judges.config import HumanConfig
from rlaif.judges.judge import Item
from rlaif.records import read_json_lines
from rlaif.types import Judgment, Outcome, Preferred, Score, Tie, content_hash

FORMS = '{"response_ids": [a, b], "preferred": a, b or "tie"} or {"response_id": a, "score": number}, with ids of the responses'


class Label(NamedTuple):
    """One row of a file of labels."""

    responses: tuple[str, ...]
    """The labelled responses' ids, in the row's order, which need not be that in which somebody saw them."""
    outcome: Outcome
    row: str
    """The row itself."""


@dataclass(frozen=True)
class HumanJudge:
    """A loaded file of labels."""

    name: str
    config: HumanConfig
    weight: float
    path: Path
    labels: dict[frozenset[str], tuple[Label, ...]]
    """By the ids of the labelled responses."""
    source: str = ""
    """The judge's file, or its shipped name."""

    @property
    def model(self) -> str:
        return "human"

    @property
    def compares(self) -> bool:
        """Whether the labels are on comparisons; else they are scores."""
        return any(len(ids) == 2 for ids in self.labels)

    def rows(self) -> Iterator[Label]:
        """All labels."""
        for labels in self.labels.values():
            yield from labels

    def judgments(self, item: Item) -> Iterator[Judgment]:
        """The labels on an item as votes, in the order of the file."""
        for vote, label in enumerate(self.labels.get(frozenset(response.id for response in item.responses), ())):
            yield Judgment(
                id=content_hash(item.id, self.name, label.row, vote, length=24),
                comparison_id=item.id,
                judge=self.name,
                model=self.model,
                template_hash=content_hash(self.config.scale),
                vote=vote,
                shown=label.responses if len(label.responses) == 1 else (),
                raw=label.row,
                outcome=label.outcome,
            )


def load_human(name: str, config: HumanConfig, weight: float, beside: Path, source: str) -> HumanJudge:
    """The judge of a file of labels. Raises DataError, with file and line, for a row that is no label."""
    path = labels_file(config, beside)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; labels names a JSONL file of human labels, beside {source} or by its path"
        )
    found: dict[frozenset[str], list[Label]] = {}
    for number, row in read_json_lines(path):
        label = _label(row, config, f"{path}:{number}")
        found.setdefault(frozenset(label.responses), []).append(label)
    if not found:
        raise DataError(f"{path}: no labels in it; a row is {FORMS}")
    if len({len(ids) for ids in found}) > 1:
        raise DataError(f"{path}: scores and comparisons in one file; put them into two, each with a judge of its own")
    return HumanJudge(name, config, weight, path, {ids: tuple(labels) for ids, labels in found.items()}, source)


def labels_file(config: HumanConfig, beside: Path) -> Path:
    """The file of labels: beside the judge's file, or by its path."""
    return beside / config.labels if (beside / config.labels).is_file() else Path(config.labels)


def _label(row: dict[str, Any], config: HumanConfig, where: str) -> Label:
    text = json.dumps(row, ensure_ascii=False)
    if "response_ids" in row:
        return Label(*_preference(row, where), row=text)
    if "response_id" in row:
        return Label((str(row["response_id"]),), _score(row, config, where), text)
    raise DataError(f"{where}: no label; a label is {FORMS}")


def _preference(row: dict[str, Any], where: str) -> tuple[tuple[str, ...], Outcome]:
    ids, preferred = row["response_ids"], row.get("preferred")
    if not isinstance(ids, list) or len(ids) != 2 or not all(isinstance(each, str) for each in ids) or ids[0] == ids[1]:
        raise DataError(f"{where}: response_ids must be two different ids, found {json.dumps(ids)}")
    if preferred == "tie":
        return tuple(ids), Tie()
    if preferred not in ids:
        raise DataError(f'{where}: preferred is {json.dumps(preferred)}; it is one of the two response_ids, or "tie"')
    return tuple(ids), Preferred(response_id=preferred)


def _score(row: dict[str, Any], config: HumanConfig, where: str) -> Score:
    low, high = config.scale
    given = row.get("score")
    if isinstance(given, bool) or not isinstance(given, int | float) or not low <= given <= high:
        raise DataError(
            f"{where}: score is {json.dumps(given)}; it is a number from {low:g} to {high:g} (scale in the judge's file)"
        )
    return Score(score=(given - low) / (high - low))
