"""Training rows: the data file read, rendered with the chat template and tokenised; what is left out is told why.

Prompt and completion are tokenised as separate pieces, as at inference. A completion ends with its stop token and
nothing after it; a completion that was cut off for length has none, because the policy never ended there.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from rlaif.chat import encode, render_completion, render_prompt, stop_token_ids
from rlaif.errors import DataError, EngineError, TrainError
from rlaif.records import describe, read_json_lines
from rlaif.training.config import Truncation
from rlaif.types import Message, Messages

FORMATS = (
    "dpo: {prompt, chosen, rejected}; sft: the same (chosen is trained), {prompt, completion}, {messages}, "
    "or response rows as 'rlaif generate' writes them"
)


@dataclass(frozen=True)
class Example:
    """One row as text: a conversation and its answers (chosen, rejected; or one). cut: which hit the length limit."""

    id: str
    prompt: Messages
    completions: tuple[Messages, ...]
    cut: tuple[bool, ...]


@dataclass(frozen=True)
class Row:
    """One row as token ids: the prompt, and one (SFT) or two (chosen, rejected) completions."""

    id: str
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    @property
    def completion_tokens(self) -> int:
        return sum(map(len, self.completions))


@dataclass(frozen=True)
class Skipped:
    """A row that is not trained on, and why."""

    id: str
    reason: str


@dataclass
class Rows:
    """What a data file comes to: the rows to train on and the ones left out."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def hash(self) -> str:
        """Of all token ids, so of the data, the template and the truncation at once."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps([row.id, row.prompt, row.completions]).encode())
        return digest.hexdigest()[:16]


def read_examples(path: Path, method: Literal["dpo", "sft"]) -> Iterator[Example]:
    """The rows of a JSONL file. Raises DataError with file and line for a row of no known format."""
    for number, row in read_json_lines(path):
        try:
            yield _pair(row, number) if method == "dpo" else _single(row, number)
        except ValidationError as error:
            raise DataError(f"{path}:{number}: not a message: {describe(error)}") from None
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from None


def tokenize(
    examples: Iterator[Example], tokenizer: Any, max_length: int, truncation: Truncation, generation_config: Any = None
) -> Rows:
    """Token ids of each example, or the reason why it is left out. Raises TrainError for `raise` and a row too long."""
    stops = stop_token_ids(tokenizer, generation_config)
    result = Rows()
    for example in examples:
        try:
            row = _tokenize_one(example, tokenizer, stops)
            result.rows.append(_fit(row, max_length, truncation))
        except _Skip as skip:
            result.skipped.append(Skipped(example.id, str(skip)))
        except EngineError as error:
            raise TrainError(str(error)) from None
    return result


class _Skip(Exception):
    """Why a row is left out."""


def _tokenize_one(example: Example, tokenizer: Any, stops: set[int]) -> Row:
    if len(example.completions) == 2 and example.completions[0] == example.completions[1]:
        raise _Skip("chosen and rejected are the same text")
    if any(len(turns) != 1 or turns[0].role != "assistant" for turns in example.completions):
        raise _Skip("an answer is not exactly one assistant turn")
    try:
        prompt = tuple(encode(tokenizer, render_prompt(tokenizer, example.prompt)))
        completions = tuple(
            _completion_ids(tokenizer, render_completion(tokenizer, example.prompt, turns), stops, cut)
            for turns, cut in zip(example.completions, example.cut, strict=True)
        )
    except DataError as error:
        raise _Skip(str(error)) from None
    if not prompt:
        raise _Skip("the prompt has no tokens")
    if not all(completions):
        raise _Skip("an answer has no tokens")
    if len(completions) == 2 and completions[0] == completions[1]:
        raise _Skip("chosen and rejected are the same tokens")
    return Row(example.id, prompt, completions)


def _completion_ids(tokenizer: Any, text: str, stops: set[int], cut: bool) -> tuple[int, ...]:
    """The ids up to and with the last stop token; of a completion that was cut off, up to before it."""
    ids = encode(tokenizer, text)
    ends = [index for index, token in enumerate(ids) if token in stops]
    if not ends:
        return tuple(ids) if cut or tokenizer.eos_token_id is None else (*ids, tokenizer.eos_token_id)
    return tuple(ids[: ends[-1]] if cut else ids[: ends[-1] + 1])


def _fit(row: Row, max_length: int, truncation: Truncation) -> Row:
    """The row within max_length. Completions are never cut: that would lose their stop token."""
    longest = max(map(len, row.completions))
    total = len(row.prompt) + longest
    if total <= max_length:
        return row
    if truncation == "raise":
        raise TrainError(
            f"row {row.id}: {total} tokens, more than max_length {max_length}; raise --max-length, or set "
            "truncation to 'drop' or 'truncate-prompt-left'"
        )
    if truncation == "drop" or longest >= max_length:
        raise _Skip(f"too long: {total} tokens, max_length is {max_length}")
    return Row(row.id, row.prompt[-(max_length - longest) :], row.completions)


def _pair(row: dict[str, Any], number: int) -> Example:
    if not {"prompt", "chosen", "rejected"} <= row.keys():
        raise _unknown_format(row, "dpo")
    prompt = _turns(row["prompt"], "user")
    return Example(
        id=str(row.get("id") or f"line-{number}"),
        prompt=prompt,
        completions=tuple(_answer(row[side], prompt) for side in ("chosen", "rejected")),
        cut=tuple(row.get(f"{side}_finish_reason") == "length" for side in ("chosen", "rejected")),
    )


def _single(row: dict[str, Any], number: int) -> Example:
    cut = False
    if {"prompt", "chosen"} <= row.keys():
        prompt, answer = _turns(row["prompt"], "user"), row["chosen"]
        cut = row.get("chosen_finish_reason") == "length"
    elif {"prompt", "completion"} <= row.keys():
        prompt, answer = _turns(row["prompt"], "user"), row["completion"]
    elif "messages" in row and isinstance(row.get("prompt"), dict):
        prompt, answer = _turns(row["prompt"].get("messages"), "user"), row["messages"]
        cut = row.get("finish_reason") == "length"
    elif "messages" in row and "prompt" not in row:
        turns = _turns(row["messages"], "user")
        prompt, answer = turns[:-1], [turn.as_dict() for turn in turns[-1:]]
        if not prompt or turns[-1].role != "assistant":
            raise DataError("'messages' must hold a prompt and end with an assistant turn")
    else:
        raise _unknown_format(row, "sft")
    identity = str(row.get("id") or f"line-{number}")
    return Example(id=identity, prompt=prompt, completions=(_answer(answer, prompt),), cut=(cut,))


def _unknown_format(row: dict[str, Any], method: str) -> DataError:
    return DataError(f"no {method} row: found the keys {', '.join(sorted(row)) or '(none)'}; understood are {FORMATS}")


def _turns(value: Any, role: Literal["user", "assistant"]) -> Messages:
    """A list of messages, or one string as a single turn."""
    if isinstance(value, str):
        return (Message(role=role, content=value),)
    if not isinstance(value, list) or not value:
        raise DataError(f"expected a text or a list of messages, found {json.dumps(value)[:60]}")
    return tuple(Message.model_validate(turn) for turn in value)


def _answer(value: Any, prompt: Messages) -> Messages:
    """The answer's turns; where they repeat the prompt's turns first, those are taken off."""
    turns = _turns(value, "assistant")
    return turns[len(prompt) :] if len(turns) > len(prompt) and turns[: len(prompt)] == prompt else turns
