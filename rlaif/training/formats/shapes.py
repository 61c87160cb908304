"""What a row is, recognised by its keys and values: a pair, an answer, a conversation, or a pair of steps."""

from dataclasses import dataclass
from typing import Any, Literal

from rlaif.errors import DataError
from rlaif.training.formats.ranked import ranked
from rlaif.training.formats.turns import (
    begins_dialogue,
    goes_on,
    is_blank,
    is_open_dialogue,
    parse_dialogue,
    read_list,
    read_turns,
    split_pair,
    to_last_answer,
)
from rlaif.training.formats.values import label_of, margin_of, probability_of
from rlaif.types import Message, Messages

NO_ASSISTANT = "a dialogue without an assistant turn (which begins with 'Assistant:' after an empty line)"
NO_PROMPT = "chosen and rejected share no prompt"
CONTINUED = "the prompt ends with an assistant turn, which the answer would have to continue"
CONVERSATION_KEYS = ("messages", "conversations")
QUESTION_KEYS = ("prompt", "instruction", "question", "query")
ANSWER_KEYS = ("completion", "output")


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected answer to one prompt. reason: why it can not be used. shortened: see Example."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    cut: tuple[bool, bool] = (False, False)
    margin: float | None = None
    confidence: float | None = None
    reason: str = ""
    shortened: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Answer:
    """One answer to a prompt, perhaps with a label that says whether it is desirable."""

    prompt: Messages
    answer: Messages
    cut: bool = False
    label: bool | None = None
    confidence: float | None = None
    reason: str = ""
    shortened: bool = False


@dataclass(frozen=True)
class Conversation:
    """A whole conversation; a label, if any, is of its final answer."""

    turns: Messages
    cut: bool = False
    label: bool | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Step:
    """A chosen and a rejected next step of an answer that begins with `opening`."""

    prompt: Messages
    opening: str
    chosen: str
    rejected: str
    margin: float | None = None
    confidence: float | None = None


Shape = Pair | Answer | Conversation | Step


def recognise(row: dict[str, Any]) -> Shape | None:
    """What the row is; None if it is nothing known. Raises DataError or ValidationError for values that are unusable."""
    medium = next((key for key in ("images", "image", "videos", "audios") if row.get(key)), None)
    if medium:
        raise DataError(f"{medium}: only text can be trained on")
    has_pair = {"chosen", "rejected"} <= row.keys()
    if has_pair and "initial_reason_steps" in row:
        return _step(row)
    if has_pair:
        return _pair(row)
    if isinstance(row.get("prompt"), dict) and "messages" in row:
        return _response(row)
    if any(key in row for key in ANSWER_KEYS) and (prompt := _asked(row)):
        return _answer(row, prompt)
    if turns := _conversation(row):
        return Conversation(turns, _is_cut(row), label_of(row), probability_of(row))
    return _ranked(row)


def _step(row: dict[str, Any]) -> Step | None:
    prompt = _asked(row)
    parts = [row["initial_reason_steps"], row["chosen"], row["rejected"]]
    if prompt is None:
        return None
    if not all(isinstance(part, str) for part in parts):
        raise DataError("initial_reason_steps, chosen and rejected: each must be a text, one step")
    opening, chosen, rejected = parts
    # Spaces at the end of the opening go before the steps: a token that begins with its space is what a model says.
    spaces = opening[len(opening.rstrip(" ")) :]
    opening = opening[: len(opening) - len(spaces)]
    return Step(prompt, opening, spaces + chosen, spaces + rejected, margin_of(row), probability_of(row))


def _pair(row: dict[str, Any]) -> Pair | None:
    chosen, rejected = parse_dialogue(row["chosen"]), parse_dialogue(row["rejected"])
    if chosen is None or rejected is None:
        chosen, rejected = _answer_turns(row, "chosen"), _answer_turns(row, "rejected")
    prompt = _asked(row)
    if prompt is None and chosen[0].role == rejected[0].role == "assistant":
        prompt = _conversation(row)
        if prompt is None and begins_dialogue(row["chosen"]) and begins_dialogue(row["rejected"]):
            return Pair((), chosen, rejected, reason=NO_ASSISTANT)
        if prompt is None:
            return None
    reason, shortened = "", (goes_on(chosen), goes_on(rejected))
    if prompt is not None:
        prompt, chosen, rejected, reason = _explicit(prompt, chosen, rejected)
    elif split := split_pair(_with_system(row, chosen), _with_system(row, rejected)):
        prompt, chosen, rejected = split
    else:
        prompt, reason = (), NO_PROMPT
    cut = (_is_cut(row, "chosen_"), _is_cut(row, "rejected_"))
    return Pair(prompt, chosen, rejected, cut, margin_of(row), probability_of(row), reason, shortened)


def _ranked(row: dict[str, Any]) -> Pair | None:
    """Two of several scored completions."""
    prompt = _asked(row)
    if prompt is None or "completions" not in row:
        return None
    completions = read_list(row["completions"], "completions")
    if not all(isinstance(completion, dict) for completion in completions):
        return None
    chosen, rejected, margin, reason = ranked(completions, prompt[-1].content)
    return Pair(
        prompt, read_turns(chosen, "assistant"), read_turns(rejected, "assistant"), margin=margin, reason=reason
    )


def _explicit(prompt: Messages, chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages, str]:
    """Prompt, chosen, rejected and what is wrong with them, where the row names its prompt.

    The answers may repeat the prompt's turns first; or be whole conversations, which then must hold the prompt.
    """
    rest = _after_prompt(prompt, chosen), _after_prompt(prompt, rejected)
    if all(side[0].role == "assistant" for side in rest):
        return prompt, *rest, _prompt_fault(prompt)
    split = split_pair(chosen, rejected)
    asked = prompt[-1].content.strip()
    if split is None or all(turn.content.strip() != asked for turn in split[0]):
        return prompt, *rest, "an answer begins with a turn that is neither the assistant's nor the prompt's"
    return *split, ""


def _after_prompt(prompt: Messages, turns: Messages) -> Messages:
    repeats = len(turns) > len(prompt) and turns[: len(prompt)] == prompt
    return to_last_answer(turns[len(prompt) :] if repeats else turns)


def _response(row: dict[str, Any]) -> Answer:
    prompt = read_turns(row["prompt"].get("messages"), "user")
    turns = read_turns(row["messages"], "assistant")
    answer = _after_prompt(prompt, turns)
    return Answer(prompt, answer, _is_cut(row), label_of(row), probability_of(row), shortened=goes_on(turns))


def _answer(row: dict[str, Any], prompt: Messages) -> Answer:
    key = next(key for key in ANSWER_KEYS if key in row)
    turns, reason = _answer_turns(row, key), _prompt_fault(prompt)
    answer = _after_prompt(prompt, turns)
    return Answer(prompt, answer, _is_cut(row), label_of(row), probability_of(row), reason, goes_on(turns))


def _answer_turns(row: dict[str, Any], key: str) -> Messages:
    value = row[key]
    if isinstance(value, str) and is_open_dialogue(row.get("prompt")):
        value = value.strip()
    return read_turns(value, "assistant")


def _conversation(row: dict[str, Any]) -> Messages | None:
    key = next((key for key in CONVERSATION_KEYS if key in row), None)
    return _with_system(row, read_turns(read_list(row[key], key), "user")) if key else None


def _asked(row: dict[str, Any]) -> Messages | None:
    """The conversation before the answer, where the row names it: history, then the question. None if it does not."""
    value = _question(row)
    if not value:
        return None
    turns = parse_dialogue(value) if is_open_dialogue(value) else None
    turns = turns or read_turns(value, "user")
    if len(turns) > 1 and turns[-1].role == "assistant" and is_blank(turns[-1]):
        turns = turns[:-1]
    return _with_system(row, (*_history(row), *turns))


def _question(row: dict[str, Any]) -> Any:
    if "instruction" not in row or row.get("prompt"):
        return next((row[key] for key in QUESTION_KEYS if row.get(key)), None)
    parts = [row[key] for key in ("instruction", "input") if row.get(key)]
    if not all(isinstance(part, str) for part in parts):
        raise DataError("instruction, input: expected texts")
    return "\n\n".join(parts)


def _history(row: dict[str, Any]) -> Messages:
    turns: list[Message] = []
    for entry in read_list(row.get("history") or [], "history"):
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise DataError("history: expected a list of [question, answer]")
        for role, text in zip(("user", "assistant"), entry, strict=True):
            turns.append(Message.model_validate({"role": role, "content": text}))
    return tuple(turns)


def _with_system(row: dict[str, Any], turns: Messages) -> Messages:
    system = row.get("system")
    if not isinstance(system, str) or not system or turns[0].role in ("system", "developer"):
        return turns
    return (Message(role="system", content=system), *turns)


def _prompt_fault(prompt: Messages) -> str:
    return CONTINUED if prompt[-1].role == "assistant" else ""


def _is_cut(row: dict[str, Any], side: Literal["", "chosen_", "rejected_"] = "") -> bool:
    return row.get(f"{side}finish_reason") == "length"
