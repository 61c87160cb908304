"""Values of a data file as messages: texts, lists of messages, ShareGPT turns, dialogues written as one text."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from rlaif.errors import DataError
from rlaif.inputs import TURN_NAMES
from rlaif.types import Message, Messages

SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def read_turns(value: Any, role: Literal["user", "assistant"]) -> Messages:
    """A list of messages, one message, or one text as a single turn of `role`.

    Raises DataError for anything else, and ValidationError for a list of what are not messages.
    """
    if isinstance(value, str):
        return (Message(role=role, content=value),)
    if isinstance(value, dict) and value:
        value = [value]
    if not isinstance(value, list) or not value:
        raise DataError(f"expected a text or a list of messages, found {json.dumps(value, default=str)[:60]}")
    return tuple(Message.model_validate(_turn(turn)) for turn in value)


def read_list(value: Any, key: str) -> list[Any]:
    """A list, or JSON text of one (as CSV and Parquet files hold it)."""
    value = read_json(value, key)
    if not isinstance(value, list):
        raise DataError(f"{key}: expected a list, found {json.dumps(value, default=str)[:60]}")
    return value


def read_json(value: Any, key: str) -> Any:
    """The value, parsed if it is text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise DataError(f"{key}: broken JSON: {error.msg} at column {error.colno}") from None


def parse_dialogue(text: Any) -> Messages | None:
    r"""The turns of a text like "\n\nHuman: ...\n\nAssistant: ..."; None if it is not such a text."""
    if not begins_dialogue(text) or "\n\nAssistant:" not in text:
        return None
    _, *parts = SPEAKER.split(text.strip())
    roles: list[Literal["user", "assistant"]] = ["user" if name == "Human" else "assistant" for name in parts[::2]]
    turns = zip(roles, parts[1::2], strict=True)
    return tuple(Message(role=role, content=content.strip()) for role, content in turns)


def begins_dialogue(text: Any) -> bool:
    """Whether the text is such a dialogue by its first words, though perhaps without an assistant turn."""
    return isinstance(text, str) and text.lstrip().startswith("Human:")


def is_open_dialogue(text: Any) -> bool:
    r"""Whether the text is such a dialogue up to the assistant's turn, as a prompt; its answer begins with a space."""
    return isinstance(text, str) and text.rstrip().endswith("\n\nAssistant:") and parse_dialogue(text) is not None


def to_last_answer(turns: Messages) -> Messages:
    """Without what follows the last assistant turn; as they are if there is none."""
    end = max((index for index, turn in enumerate(turns, start=1) if turn.role == "assistant"), default=len(turns))
    return turns[:end]


def goes_on(turns: Messages) -> bool:
    """Whether turns follow the last answer, which have none themselves: `to_last_answer` leaves them off."""
    return len(to_last_answer(turns)) < len(turns)


def split_pair(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages] | None:
    """Two whole conversations as (prompt, chosen, rejected); None if they share no prompt.

    The prompt is what both begin with, and ends where the assistant is to speak in both.
    """
    chosen, rejected = to_last_answer(chosen), to_last_answer(rejected)
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and not _is_before_answer(chosen, rejected, shared):
        shared -= 1
    return (chosen[:shared], chosen[shared:], rejected[shared:]) if shared else None


def is_blank(turn: Message) -> bool:
    """Whether the turn says nothing: no content, no thinking and no tool calls."""
    extra = turn.model_extra or {}
    return not (turn.content.strip() or extra.get("tool_calls") or extra.get("reasoning_content"))


def tools_of(row: dict[str, Any], *conversations: str) -> tuple[dict[str, Any], ...]:
    """The row's `tools`, or those that stand in a turn of one of its conversations."""
    for tools in (row.get("tools"), *_tools_in_turns(row, conversations)):
        if tools:
            found = read_list(tools, "tools")
            if not all(isinstance(tool, dict) for tool in found):
                raise DataError("tools: expected a list of JSON schemas of functions")
            return tuple(found)
    return ()


def without_filled_nulls(value: Any) -> Any:
    """Without the keys whose value is null: tables fill every missing key with it."""
    if isinstance(value, dict):
        return {key: without_filled_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_filled_nulls(item) for item in value]
    return value


def _is_before_answer(chosen: Messages, rejected: Messages, index: int) -> bool:
    return chosen[index - 1].role != "assistant" and chosen[index].role == rejected[index].role == "assistant"


def _tools_in_turns(row: dict[str, Any], conversations: tuple[str, ...]) -> Iterator[Any]:
    for key in conversations:
        if isinstance(row.get(key), list):
            yield from (turn["tools"] for turn in row[key] if isinstance(turn, dict) and turn.get("tools"))


def _turn(turn: Any) -> Any:
    """One turn with the keys of a Message; what is not a turn is left for the validation to name."""
    if not isinstance(turn, dict):
        return turn
    turn = {key: value for key, value in turn.items() if key != "tools" and value is not None}
    if "from" in turn and "value" in turn:
        turn = _sharegpt_turn(turn)
    if "role" in turn:
        turn["role"] = TURN_NAMES.get(str(turn["role"]), turn["role"])
        turn["content"] = _text(turn.get("content", ""))
    if turn.get("tool_calls"):
        turn["tool_calls"] = [_tool_call(call) for call in read_list(turn["tool_calls"], "tool_calls")]
    return turn


def _sharegpt_turn(turn: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    if turn["from"] == "function_call":
        calls = read_json(turn["value"], "function_call")
        functions = calls if isinstance(calls, list) else [calls]
        calls = [{"type": "function", "function": function} for function in functions]
        return {**rest, "role": "assistant", "content": "", "tool_calls": calls}
    return {**rest, "role": turn["from"], "content": turn["value"]}


def _text(content: Any) -> Any:
    """Content parts of type text as one text; other values as they are."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type", "unknown") if isinstance(part, dict) else type(part).__name__
            raise DataError(f"content: a part of type {kind}; only text can be trained on")
    return "".join(part["text"] for part in content)


def _tool_call(call: Any) -> Any:
    """A tool call whose arguments are an object, as chat templates expect them, and not JSON text."""
    call = read_json(call, "tool_calls")
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise DataError(f"tool_calls: expected a function with a name, found {json.dumps(call, default=str)[:60]}")
    if isinstance(function.get("arguments"), str):
        function = {**function, "arguments": read_json(function["arguments"] or "{}", "arguments of a tool call")}
    return {**call, "function": function} if "function" in call else function
