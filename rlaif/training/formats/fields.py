"""The fields that every row of a file must fill, told from the keys of its first rows."""

from collections.abc import Collection, Mapping
from typing import Any

from rlaif.training.formats.example import Kind
from rlaif.training.formats.shapes import ANSWER_KEYS, CONVERSATION_KEYS, QUESTION_KEYS
from rlaif.training.formats.values import LABELS

PAIR = ("chosen", "rejected")
OPENING = "initial_reason_steps"
RANKED = "completions"


def fields_of(keys: Collection[str], kind: Kind) -> tuple[str, ...]:
    """What a row must fill in a file with these keys; nothing if no format of this kind has them."""
    question, conversation = _first(QUESTION_KEYS, keys), _first(CONVERSATION_KEYS, keys)
    answer, label = _first(ANSWER_KEYS, keys), _first(LABELS, keys)
    has_pair, has_opening = set(PAIR) <= set(keys), OPENING in keys
    if kind == "steps":
        return (*question, OPENING, *PAIR) if has_pair and has_opening and question else ()
    if has_pair:
        return () if has_opening else (*(question or conversation), *PAIR)
    if question and RANKED in keys and not (answer or conversation):
        return (*question, RANKED)
    if kind == "pairs" or (kind == "labels" and not label):
        return ()
    asked = (*question, *answer) if question and answer else conversation
    return (*asked, *(label if kind == "labels" else ())) if asked else ()


def empty_fields(row: Mapping[str, Any], fields: Collection[str]) -> list[str]:
    """Which of the fields the row leaves empty; none if it holds other things instead."""
    empty = [key for key in fields if row.get(key) in (None, "", [], {})]
    says_nothing = all(value in (None, "") for value in row.values())
    return empty if says_nothing or row.keys() & set(fields) else []


def _first(names: Collection[str], keys: Collection[str]) -> tuple[str, ...]:
    """The first of the names that is among the keys, if any."""
    return tuple(name for name in names if name in keys)[:1]
