"""One row of training data as text, whatever format it was written in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rlaif.types import Messages

Kind = Literal["pairs", "answers", "conversations", "labels", "steps"]
"""What a method trains on.

pairs: a chosen and a rejected completion. answers: the final assistant turn. conversations: every assistant turn.
labels: one completion that is desirable or not. steps: a chosen and a rejected next step of an answer that has begun.
"""


@dataclass(frozen=True)
class Example:
    """A conversation and its completions: chosen and rejected, or one.

    cut: which completions hit the length limit, so that they have no end. opening: the text with which the assistant's
    turn begins; it belongs to the prompt, and the completions are steps after it, without an end. skip_reason: why the
    row can not be trained on although its format is known. shortened: whether turns after the last answer are left off.
    where: the file and line that hold it.
    """

    id: str
    prompt: Messages
    completions: tuple[Messages, ...]
    cut: tuple[bool, ...]
    label: bool | None = None
    margin: float | None = None
    confidence: float | None = None
    tools: tuple[dict[str, Any], ...] = ()
    opening: str = ""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    skip_reason: str = ""
    shortened: bool = False
    where: str = field(default="", compare=False)
