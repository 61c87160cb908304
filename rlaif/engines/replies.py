"""What an endpoint sends back, read from JSON: the answers of a chat completion, or what is said of a fault.

Servers differ in small things, so only what is used is looked at.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_MESSAGE = 500


class NotChat(Exception):
    """JSON, but not a chat completion that can be read."""


@dataclass(frozen=True)
class Answer:
    """One choice of a chat completion."""

    index: int
    text: str
    finish_reason: str | None
    first_tokens: tuple[tuple[str, float], ...]
    """(text, log-prob) of the candidates for the first token; empty if the endpoint gives none."""
    is_refusal: bool = False
    """The text stands where servers put a refusal to answer."""


@dataclass(frozen=True)
class Reply:
    """A chat completion: its answers by index, and the tokens counted, where the endpoint counts them."""

    answers: tuple[Answer, ...]
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class Fault:
    """What the server says of a request that failed, in one short line, with the code and field it names."""

    message: str
    code: str | None = None
    parameter: str | None = None


def read_reply(data: Mapping[str, Any]) -> Reply:
    """A chat completion's JSON. Raises NotChat."""
    if not data.get("choices"):
        raise NotChat(f"a reply without choices: {_line(data.get('error'))}")
    try:
        answers = sorted((_answer(choice) for choice in data["choices"]), key=lambda answer: answer.index)
        usage = data.get("usage") or {}
        return Reply(tuple(answers), usage.get("prompt_tokens"), usage.get("completion_tokens"))
    except (TypeError, AttributeError, KeyError, ValueError, IndexError):
        raise NotChat(f"a reply that is no chat completion: {_line(data)}") from None


def read_fault(status: int, content: bytes) -> Fault:
    """The body of an HTTP error: {"error": {...}}, as OpenAI has it, or what other servers make of that."""
    try:
        body = json.loads(content)
    except ValueError:
        return Fault(_line(content.decode(errors="replace")) or f"HTTP {status} without a word")
    said = body.get("error", body) if isinstance(body, Mapping) else body
    if not isinstance(said, Mapping):
        return Fault(_line(said))
    message = said.get("message")
    return Fault(
        _line(message if isinstance(message, str) else json.dumps(body, ensure_ascii=False)),
        code=_text_or_none(said.get("code")),
        parameter=_text_or_none(said.get("param")),
    )


def _answer(choice: Mapping[str, Any]) -> Answer:
    message = choice["message"]
    text, refusal = _text(message.get("content")), str(message.get("refusal") or "")
    return Answer(
        index=choice.get("index") or 0,
        text=text or refusal,
        finish_reason=choice.get("finish_reason"),
        first_tokens=_first_tokens((choice.get("logprobs") or {}).get("content")),
        is_refusal=bool(refusal and not text),
    )


def _text(content: Any) -> str:
    """The answer's text, without any reasoning: some servers send a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if part.get("type") == "text")
    return str(content or "")


def _first_tokens(content: Any) -> tuple[tuple[str, float], ...]:
    candidates = (content[0].get("top_logprobs") or ()) if content else ()
    return tuple((candidate["token"], float(candidate["logprob"])) for candidate in candidates)


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _line(said: object) -> str:
    """One short line."""
    line = " ".join(str(said).split())
    return line if len(line) <= LONGEST_MESSAGE else line[:LONGEST_MESSAGE] + " …"
