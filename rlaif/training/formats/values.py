"""The values beside the texts of a row: label, margin, confidence, and keywords for the chat template."""

import math
from typing import Any

from rlaif.errors import DataError
from rlaif.training.formats.turns import read_json

NUMBERS = ("margin", "confidence", "score_chosen", "score_rejected")
LABELS = ("label", "kto_tag")


def label_of(row: dict[str, Any]) -> bool | None:
    """Whether the completion is desirable; None if the row does not say. 1 and 0 are true and false, as data sets store
    them. Raises DataError for anything else."""
    for key in LABELS:
        if key in row:
            label = row[key]
            if not isinstance(label, bool | int | float) or label not in (0, 1):
                raise DataError(f"{key}: expected true or false (or 1 or 0), found {label!r}")
            return bool(label)
    return None


def margin_of(row: dict[str, Any]) -> float | None:
    """By how much chosen is better: `margin`, or the difference of the scores. Raises DataError if not numbers."""
    if "margin" in row:
        return _number(row, "margin")
    if {"score_chosen", "score_rejected"} <= row.keys():
        return _number(row, "score_chosen") - _number(row, "score_rejected")
    return None


def probability_of(row: dict[str, Any]) -> float | None:
    """The row's `confidence`. Raises DataError if it is not a number in [0, 1]."""
    if "confidence" not in row:
        return None
    value = _number(row, "confidence")
    if not 0 <= value <= 1:
        raise DataError(f"confidence: expected a probability in [0, 1], found {value}")
    return value


def template_keywords(row: dict[str, Any], fixed: frozenset[str]) -> dict[str, Any]:
    """The row's `chat_template_kwargs`. Raises DataError if it is no object, or names what follows from the data."""
    keywords = read_json(row.get("chat_template_kwargs") or {}, "chat_template_kwargs")
    if not isinstance(keywords, dict):
        raise DataError(f"chat_template_kwargs: expected an object, found {keywords!r}")
    taken = fixed & keywords.keys()
    if taken:
        raise DataError(f"chat_template_kwargs: {', '.join(sorted(taken))} can not be set; it follows from the data")
    return keywords


def typed_cells(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a CSV file, whose cells are all text, with its numbers and labels as such where they can be read."""
    typed: dict[str, Any] = dict(row)
    for key in LABELS:
        if key in row:
            typed[key] = {"true": True, "1": True, "false": False, "0": False}.get(row[key].lower(), row[key])
    for key in NUMBERS:
        if key in row:
            try:
                typed[key] = float(row[key])
            except ValueError:
                continue  # told as "expected a number" when it is used
    return typed


def _number(row: dict[str, Any], key: str) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{key}: expected a number, found {value!r}")
    return float(value)
