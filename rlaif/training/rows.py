"""Training rows: examples rendered with the chat template and tokenised; what is left out is told why.

Prompt and completion are tokenised as separate pieces, as at inference. Only what the assistant says is learned, each
turn with its stop token and nothing after it; a completion that was cut off for length has none, because the policy
never ended there, and neither has a step, because the answer goes on.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from rlaif.chat import FIXED_KEYWORDS, Piece, encode_all, render_pieces, render_prompt, stop_token_ids
from rlaif.errors import DataError, EngineError, TrainError
from rlaif.training.config import Truncation
from rlaif.training.formats import Example
from rlaif.types import Message, Messages

BATCH_EXAMPLES = 512


@dataclass(frozen=True)
class Completion:
    """ids: its tokens; learned: which of them are in the loss, None for all."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_learned(self) -> int:
        return len(self.ids) if self.learned is None else sum(self.learned)


@dataclass(frozen=True)
class Row:
    """One row as token ids: the prompt, and one or two (chosen, rejected) completions.

    label: whether a single completion is desirable. margin: of a preference, from the judges. confidence: the
    probability that the preference or label is right.
    """

    id: str
    prompt: tuple[int, ...]
    completions: tuple[Completion, ...]
    label: bool | None = None
    margin: float | None = None
    confidence: float | None = None

    @property
    def completion_tokens(self) -> int:
        """The tokens in the loss."""
        return sum(completion.n_learned for completion in self.completions)


@dataclass(frozen=True)
class Skipped:
    """A row that is not trained on, and why."""

    id: str
    reason: str


@dataclass
class Rows:
    """What a data file comes to: the rows to train on and the ones left out.

    shortened: ids of rows that are trained on without the turns after their last answer.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)

    def hash(self) -> str:
        """Of everything in the rows, so of the data, the template and the truncation at once."""
        digest = hashlib.sha256()
        for row in self.rows:
            completions = [(completion.ids, completion.learned) for completion in row.completions]
            parts = [row.id, row.prompt, completions, row.label, row.margin, row.confidence]
            digest.update(json.dumps(parts).encode())
        return digest.hexdigest()[:16]


def tokenize(
    examples: Iterable[Example],
    tokenizer: Any,
    max_length: int,
    truncation: Truncation,
    generation_config: Any = None,
    *,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Rows:
    """Token ids of each example, or the reason why it is left out.

    chat_template_kwargs: keywords for the chat template, as enable_thinking; an example's own go before them.
    Raises TrainError for `raise` and a row too long, for a model without a chat template, and for a keyword that is
    not the template's.
    """
    taken = FIXED_KEYWORDS & (chat_template_kwargs or {}).keys()
    if taken:
        raise TrainError(f"chat_template_kwargs: {', '.join(sorted(taken))} can not be set; it follows from the data")
    stops = stop_token_ids(tokenizer, generation_config)
    stop_texts = tuple(tokenizer.convert_ids_to_tokens(sorted(stops)))
    result = Rows()
    for batch in _batches(examples):
        try:
            texts = [_render(example, tokenizer, stop_texts, chat_template_kwargs or {}) for example in batch]
        except EngineError as error:
            raise TrainError(str(error)) from None
        ids = _encode(texts, tokenizer)
        for example, text in zip(batch, texts, strict=True):
            try:
                row = _row(example, text, ids, stops, tokenizer.eos_token_id)
                result.rows.append(_fit(row, max_length, truncation, example.where))
            except _Skip as skip:
                result.skipped.append(Skipped(example.id, str(skip)))
                continue
            if example.shortened:
                result.shortened.append(example.id)
    return result


class _Skip(Exception):
    """Why a row is left out."""


@dataclass(frozen=True)
class _Text:
    """An example rendered: the prompt, and the pieces of each completion."""

    prompt: str
    completions: tuple[tuple[Piece, ...], ...]

    @property
    def parts(self) -> Iterator[str]:
        yield self.prompt
        yield from (piece.text for pieces in self.completions for piece in pieces)


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    remaining = iter(examples)
    while batch := list(islice(remaining, BATCH_EXAMPLES)):
        yield batch


def _render(
    example: Example, tokenizer: Any, stop_texts: tuple[str, ...], keywords: Mapping[str, Any]
) -> _Text | _Skip:
    """The example as text, or why it is left out."""
    reason = example.skip_reason or _unfit(example)
    if reason:
        return _Skip(reason)
    keywords = {**keywords, **example.chat_template_kwargs}
    try:
        text = _rendered(example, tokenizer, stop_texts, keywords)
        if not all(map(_is_unicode, text.parts)):
            return _Skip("the text holds half of a character (a lone surrogate), which has no tokens")
        if marks := _marks(example):
            shown = "".join(_rendered(_marked(example, marks), tokenizer, stop_texts, keywords).parts)
            if hidden := next((name for name, mark in marks if mark not in shown), ""):
                return _Skip(
                    f"the chat template does not show the tool {hidden}; use a model whose template knows tools"
                )
    except DataError as error:
        return _Skip(str(error))
    if _hides_reasoning(example, text):
        return _Skip(
            "the chat template does not show the answer's reasoning; use a model whose template knows it, or write it into "
            "the content"
        )
    return text


def _rendered(example: Example, tokenizer: Any, stop_texts: tuple[str, ...], keywords: Mapping[str, Any]) -> _Text:
    """The example as text. Raises DataError if the template does not take it."""
    head = render_prompt(tokenizer, example.prompt, tools=example.tools, chat_template_kwargs=keywords)
    if example.opening:
        steps = tuple((Piece(turns[0].content, learned=True),) for turns in example.completions)
        return _Text(head + example.opening, steps)
    return _Text(head, tuple(
        render_pieces(tokenizer, head, example.prompt, turns, stop_texts, cut=cut, tools=example.tools,
                      chat_template_kwargs=keywords)
        for turns, cut in zip(example.completions, example.cut, strict=True)
    ))  # fmt: skip


def _hides_reasoning(example: Example, text: _Text) -> bool:
    """Whether the last turn of an answer has a reasoning beside its content that is not in the text."""
    for turns, pieces in zip(example.completions, text.completions, strict=True):
        last = turns[-1].as_dict()
        reasoning = next((given for key in REASONING if isinstance(given := last.get(key), str)), "").strip()
        if reasoning not in "".join(piece.text for piece in pieces):
            return True
    return False


REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys under which a turn's reasoning is given."""


def _marks(example: Example) -> list[tuple[str, str]]:
    """A text like no other for every tool that the row offers or calls, in their order, beside the tool's name."""
    names = [*map(_tool_name, example.tools), *_called(example.prompt)]
    names += [name for turns in example.completions for name in _called(turns)]
    return [(name, f"zq{number}x{len(names)}qz") for number, name in enumerate(names)]


def _marked(example: Example, marks: list[tuple[str, str]]) -> Example:
    """The example with each tool renamed to its mark."""
    remaining = iter(mark for _, mark in marks)

    def renamed(tool: Mapping[str, Any]) -> dict[str, Any]:
        inner = tool.get("function")
        if isinstance(inner, Mapping):
            return {**tool, "function": {**inner, "name": next(remaining)}}
        return {**tool, "name": next(remaining)}

    def turn(message: Message) -> Message:
        given = message.as_dict()
        if not given.get("tool_calls"):
            return message
        return Message.model_validate({**given, "tool_calls": [renamed(call) for call in given["tool_calls"]]})

    return replace(
        example,
        tools=tuple(renamed(tool) for tool in example.tools),
        prompt=tuple(map(turn, example.prompt)),
        completions=tuple(tuple(map(turn, turns)) for turns in example.completions),
    )


def _called(turns: Messages) -> list[str]:
    return [_tool_name(call) for turn in turns for call in turn.as_dict().get("tool_calls") or ()]


def _tool_name(tool: Mapping[str, Any]) -> str:
    """The name of a tool or of a call, in the nested form of OpenAI or flat."""
    inner = tool.get("function")
    return str((inner if isinstance(inner, Mapping) else tool).get("name", ""))


def _unfit(example: Example) -> str:
    """Why the completions can not be learned from, before any rendering; empty if they can."""
    if len(example.completions) == 2 and example.completions[0] == example.completions[1]:
        return "chosen and rejected are the same text"
    for turns in example.completions:
        if not turns or turns[0].role != "assistant" or turns[-1].role != "assistant":
            return "an answer does not begin and end with an assistant turn"
    return ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encode(texts: list[_Text | _Skip], tokenizer: Any) -> dict[str, tuple[int, ...]]:
    """The token ids of every distinct piece of text."""
    distinct = list(dict.fromkeys(part for text in texts if isinstance(text, _Text) for part in text.parts))
    return dict(zip(distinct, encode_all(tokenizer, distinct), strict=True))


def _row(example: Example, text: _Text | _Skip, ids: dict[str, tuple[int, ...]], stops: set[int], eos: Any) -> Row:
    if isinstance(text, _Skip):
        raise text
    prompt = ids[text.prompt]
    completions = tuple(
        _completion(pieces, ids, stops, None if cut or example.opening else eos)
        for pieces, cut in zip(text.completions, example.cut, strict=True)
    )
    if not prompt:
        raise _Skip("the prompt has no tokens")
    if not all(completion.n_learned for completion in completions):
        raise _Skip("an answer has no tokens")
    if len(completions) == 2 and completions[0].ids == completions[1].ids:
        raise _Skip("chosen and rejected are the same tokens")
    return Row(example.id, prompt, completions, example.label, example.margin, example.confidence)


def _completion(
    pieces: tuple[Piece, ...], ids: dict[str, tuple[int, ...]], stops: set[int], eos: int | None
) -> Completion:
    """The pieces one after the other; with `eos`, it is appended if the template did not end the last turn."""
    tokens = tuple(token for piece in pieces for token in ids[piece.text])
    learned = tuple(piece.learned for piece in pieces for _ in ids[piece.text])
    if eos is not None and (not tokens or tokens[-1] not in stops):
        tokens, learned = (*tokens, eos), (*learned, True)
    return Completion(tokens, None if all(learned) else learned)


def _fit(row: Row, max_length: int, truncation: Truncation, where: str) -> Row:
    """The row within max_length. Completions are never cut: that would lose their stop token."""
    longest = max(map(len, row.completions))
    total = len(row.prompt) + longest
    if total <= max_length:
        return row
    if truncation == "raise":
        prefix = f"{where}: " if where else ""
        raise TrainError(
            f"{prefix}row {row.id}: {total} tokens, more than max_length {max_length}; raise --max-length, or set "
            "truncation to 'drop' or 'truncate-prompt-left'"
        )
    if truncation == "drop" or longest >= max_length:
        raise _Skip(f"too long: {total} tokens, max_length is {max_length}")
    return replace(row, prompt=row.prompt[-(max_length - longest) :])
