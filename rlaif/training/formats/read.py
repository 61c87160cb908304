"""The rows of a data file as examples of one kind."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlaif.chat import FIXED_KEYWORDS
from rlaif.errors import DataError
from rlaif.inputs import read_rows
from rlaif.records import describe
from rlaif.training.formats.example import Example, Kind
from rlaif.training.formats.fields import empty_fields, fields_of
from rlaif.training.formats.kinds import examples_of
from rlaif.training.formats.shapes import CONVERSATION_KEYS, Shape, Step, recognise
from rlaif.training.formats.turns import tools_of, without_filled_nulls
from rlaif.training.formats.values import template_keywords, typed_cells

PAIR_FORMATS = (
    "{prompt, chosen, rejected}, {chosen, rejected} as whole conversations (lists of messages, or texts like "
    "'Human: ... Assistant: ...'), {instruction, input, chosen, rejected}, {conversations, chosen, rejected}, {instruction, "
    "completions} with a response and a fine-grained_score (or overall_score) in each completion"
)
ANSWER_FORMATS = (
    "{prompt, completion}, {messages}, {conversations}, {instruction, input, output}, response rows as "
    f"'rlaif generate' writes them, and of preference pairs the chosen answer: {PAIR_FORMATS}"
)
FORMATS: dict[Kind, tuple[str, str]] = {
    "pairs": ("preference pair", PAIR_FORMATS),
    "answers": ("answer", ANSWER_FORMATS),
    "conversations": ("conversation", ANSWER_FORMATS),
    "labels": (
        "labelled answer",
        "{prompt, completion, label}, {instruction, input, output, kto_tag}, {messages, label}, with true or false (or 1 or "
        f"0) for the label, and preference pairs: {PAIR_FORMATS}",
    ),
    "steps": ("pair of steps", "{prompt, initial_reason_steps, chosen, rejected}"),
}
"""What a row of each kind is called, and the keys by which it is recognised."""

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
FIRST_ROWS = 100
"""How many rows tell which fields the others must fill."""


def read_examples(path: Path, kind: Kind) -> Iterator[Example]:
    """The examples of a JSONL, JSON, CSV or Parquet file, or of a data set named as 'owner/name:split'.

    A row that leaves a field of the file's format empty is an example with that as its skip_reason. Raises DataError with
    file and line for a row that is not of this kind, or that holds unusable values.
    """
    path = Path(path)
    if path.suffix == ".txt":
        raise DataError(f"{path}: plain text holds no answers; allowed: .jsonl .json .csv .parquet")
    rows = read_rows(path)
    first = list(islice(rows, FIRST_ROWS))
    fields = fields_of({key for _, raw in first for key in raw}, kind)
    for where, raw in chain(first, rows):
        row = _tidy(raw, path.suffix)
        row_id = _row_id(row, where)
        try:
            examples = _examples(row, kind, row_id)
        except (ValidationError, DataError) as error:
            if not (empty := empty_fields(raw, fields)):
                reason = f"not a message: {describe(error)}" if isinstance(error, ValidationError) else str(error)
                raise DataError(f"{where}: {reason}") from None
            examples = [Example(row_id, (), (), (), skip_reason=f"empty or missing: {', '.join(empty)}")]
        yield from (replace(example, where=where) for example in examples)


def _tidy(raw: dict[str, Any], suffix: str) -> dict[str, Any]:
    """The row without nulls, with the values that the kind of file can not hold as such."""
    row = {key: value for key, value in raw.items() if value is not None}
    if suffix == ".csv":
        return typed_cells(row)
    return row if suffix in JSON_SUFFIXES else without_filled_nulls(row)


def _examples(row: dict[str, Any], kind: Kind, id: str) -> list[Example]:
    shape = recognise(row)
    examples = None if shape is None else examples_of(shape, kind, id)
    if examples is None:
        raise _unknown(row, shape, kind)
    tools = tools_of(row, *CONVERSATION_KEYS, "prompt", "chosen", "rejected")
    keywords = template_keywords(row, FIXED_KEYWORDS)
    return [replace(example, tools=tools, chat_template_kwargs=keywords) for example in examples]


def _row_id(row: dict[str, Any], where: str) -> str:
    """The row's own id, or the place where it stands: line-3, entry-3, row-3."""
    if row.get("id") not in (None, ""):
        return str(row["id"])
    place = where.rpartition(":")[2].strip()
    return f"line-{place}" if place.isdigit() else place.replace(" ", "-")


def _unknown(row: dict[str, Any], shape: Shape | None, kind: Kind) -> DataError:
    name, formats = FORMATS[kind]
    hint = ""
    if shape is None and "text" in row:
        hint = " (plain language modelling on 'text' is not supported: give the turns of a conversation as messages)"
    elif kind == "labels" and shape is not None:
        hint = " (an answer needs a label: true or false)"
    elif isinstance(shape, Step):
        hint = " (initial_reason_steps: the row is a pair of steps, for a method that trains on steps)"
    keys = ", ".join(sorted(row)) or "(none)"
    return DataError(f"no {name}: found the keys {keys}{hint}; understood are {formats}")
