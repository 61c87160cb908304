"""Conversations to token ids, the same way for every engine and for training.

The prompt is rendered once with the chat template and the assistant's opening, and tokenised by itself, exactly as at
inference; a completion is tokenised as a separate piece, so no token ever spans the boundary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.errors import DataError, EngineError
from rlaif.types import Messages

TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "</s>", "<|end_of_text|>")
FIXED_KEYWORDS = frozenset(
    {"conversation", "messages", "tools", "tokenize", "return_dict", "add_generation_prompt", "continue_final_message"}
)
"""What the caller may not hand to a chat template: it follows from the conversation and from how it is used."""


@dataclass(frozen=True)
class Piece:
    """A part of a rendered completion, tokenised by itself. learned: whether the assistant says it."""

    text: str
    learned: bool


def render_prompt(
    tokenizer: Any,
    messages: Messages,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """The prompt as text, ending with the opening of the assistant's turn.

    tools: the functions that the assistant may call, as JSON schemas. chat_template_kwargs: keywords that the model's
    template knows, as enable_thinking.
    Raises EngineError if the tokenizer has no chat template, DataError if the template refuses the conversation.
    """
    return _render(tokenizer, messages, True, tools, chat_template_kwargs)


def render_completion(tokenizer: Any, prompt: Messages, completion: Messages) -> str:
    """The text that follows the rendered prompt when `completion` is the answer.

    Raises DataError if the rendered prompt is not a prefix of the whole rendered conversation.
    """
    head = render_prompt(tokenizer, prompt)
    whole = _render(tokenizer, (*prompt, *completion), False, (), None)
    _check_prefix(whole, head)
    return whole[len(head) :]


def render_pieces(
    tokenizer: Any,
    head: str,
    prompt: Messages,
    completion: Messages,
    stop_texts: tuple[str, ...],
    *,
    cut: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Piece, ...]:
    """The text that follows `head`, the rendered prompt: each assistant turn is a learned piece that ends with its stop.

    What stands between two assistant turns, up to the opening of the second, is a piece that is not learned; what
    follows the stop of the last turn is left off, and with `cut` so is that stop. A turn that the template does not end
    is learned as it is.
    Raises DataError if what the model is shown before one of the turns at inference is not a prefix of the whole.
    """
    whole = _render(tokenizer, (*prompt, *completion), False, tools, chat_template_kwargs)
    spoken = [index for index, turn in enumerate(completion) if turn.role == "assistant"]
    shown = [
        _render(tokenizer, (*prompt, *completion[:index]), True, tools, chat_template_kwargs) if index else head
        for index in spoken
    ]
    for text in shown:
        _check_prefix(whole, text)
    starts = [len(text) for text in shown]
    pieces: list[Piece] = []
    end = starts[0] if starts else 0
    for index, start, next_start in zip(spoken, starts, [*starts[1:], len(whole)], strict=True):
        if start > end:
            pieces.append(Piece(whole[end:start], learned=False))
        if index == spoken[-1]:
            end = start + _last_stop(whole[start:], stop_texts, keep=not cut)
        else:
            until = _render(tokenizer, (*prompt, *completion[: index + 1]), False, tools, chat_template_kwargs)
            turn = until[start:] if until.startswith(whole[:start]) else ""
            end = start + _turn_length(whole[start:next_start], turn, completion[index].content, stop_texts)
        pieces.append(Piece(whole[start:end], learned=True))
    return tuple(pieces)


def conversation_ids(tokenizer: Any, messages: Messages, *, to_turn_end: bool) -> list[int]:
    """Token ids of a whole conversation, whose last turn is the assistant's.

    to_turn_end: up to the token that ends that turn, in the pieces that training makes of a prompt and its answer; else
    all that the chat template writes, often a line break more, in one piece. A reward model reads its score at the last
    token, so it must be the one at which it learned to.
    Raises DataError for a conversation that the template or the tokenizer does not take.
    """
    if not to_turn_end:
        return encode(tokenizer, _unicode(_render(tokenizer, messages, False, (), None)))
    stops = stop_token_ids(tokenizer)
    head = render_prompt(tokenizer, messages[:-1])
    stop_texts = tuple(tokenizer.convert_ids_to_tokens(sorted(stops)))
    pieces = render_pieces(tokenizer, head, messages[:-1], messages[-1:], stop_texts)
    ids = [token for text in (head, *(piece.text for piece in pieces)) for token in encode(tokenizer, _unicode(text))]
    if tokenizer.eos_token_id is not None and ids[-1] not in stops:
        ids.append(tokenizer.eos_token_id)
    return ids


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of already rendered text: special tokens in it are read, none are added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_all(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The same for many texts at once, which is faster."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    return [tuple(ids) for ids in encoded["input_ids"]]


def stop_token_ids(tokenizer: Any, generation_config: Any = None) -> set[int]:
    """Every token id that ends an assistant's turn: the model's declared ones and the known turn ends it has."""
    found: set[int] = set()
    declared = getattr(generation_config, "eos_token_id", None)
    if declared is not None:
        found.update(declared if isinstance(declared, list | tuple) else [declared])
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    known = set(getattr(tokenizer, "all_special_tokens", ())) | set(getattr(tokenizer, "added_tokens_encoder", {}))
    for token in TURN_ENDS:
        if token in known:
            found.add(tokenizer.convert_tokens_to_ids(token))
    return found


def _unicode(text: str) -> str:
    """The text. Raises DataError if it holds a lone surrogate, which has no tokens."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError("the text holds half of a character (a lone surrogate), which has no tokens") from None
    return text


def _turn_length(segment: str, turn: str, content: str, stop_texts: tuple[str, ...]) -> int:
    """The length of the assistant turn with which `segment` begins, its stop included.

    segment: up to the next assistant turn. turn: as the template writes this turn when it is the last; empty if what
    stands before it is then different too. Templates that write the last turn differently (a block of thinking) make
    it no beginning of the segment; then the turn ends with the first stop after its content.
    """
    if turn and segment.startswith(turn):
        return _last_stop(turn, stop_texts, keep=True)
    content = content.strip()
    after = len(segment) - len(segment.lstrip()) + len(content)
    ends = [place + len(stop) for stop in stop_texts if (place := segment.find(stop, after)) >= 0]
    if not ends or not segment.lstrip().startswith(content):
        raise DataError("the chat template writes an earlier assistant turn so that its end can not be found")
    return min(ends)


def _last_stop(segment: str, stop_texts: tuple[str, ...], *, keep: bool) -> int:
    """The length of the segment up to its last stop, with it or without; all of it if there is none."""
    place, length = max((segment.rfind(stop), len(stop)) for stop in stop_texts) if stop_texts else (-1, 0)
    if place < 0:
        return len(segment)
    return place + length if keep else place


def _check_prefix(whole: str, head: str) -> None:
    if not whole.startswith(head):
        raise DataError(
            "the chat template renders the prompt differently when an answer follows, so the prompt is not a prefix "
            "of the conversation"
        )


def _render(
    tokenizer: Any,
    messages: Messages,
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]],
    chat_template_kwargs: Mapping[str, Any] | None,
) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise EngineError(
            f"{tokenizer.name_or_path}: the model has no chat template, so conversations can not be shown to it; "
            "use a chat (instruct) model, or put a chat_template.jinja into the model folder"
        )
    from jinja2.exceptions import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            [message.as_dict() for message in messages],
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **(chat_template_kwargs or {}),
        )
    except TemplateError as error:
        raise DataError(f"the model's chat template refuses the conversation: {error}") from None
    return text
