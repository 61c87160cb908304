"""What `rlaif revise` would ask, without asking."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from rlaif.engines import EngineConfig
from rlaif.judges.responses import open_responses
from rlaif.revision.constitution import load_constitution
from rlaif.revision.conversation import Reviser, answer_of, critique_messages, revision_messages
from rlaif.types import Messages, Response, Sampling

STAND_IN = "(the critique)"
"""Stands in the example where the model's critique will stand."""


def revise_plan(
    responses: str | Path | Iterable[Response],
    constitution: str,
    model: EngineConfig,
    *,
    rounds: int,
    sampling: Sampling,
    limit: int | None = None,
) -> dict[str, Any]:
    """Counts of requests, about how many prompt tokens beside the critiques, and one rendered conversation."""
    reviser = Reviser(load_constitution(constitution), model, sampling, rounds)
    rows = open_responses(responses)
    count = characters = 0
    example = ""
    for response in islice((response for group in rows.groups() for response in group), limit):
        count += 1
        for principle in reviser.principles(response):
            answer = answer_of(response)
            critique = critique_messages(reviser, response, principle, answer)
            revision = revision_messages(reviser, response, principle, answer, critique, STAND_IN)
            characters += sum(len(message.content) for message in (*critique, *revision))
            example = example or f"--- {model.model} is asked, by '{principle.name}' ---\n{_text(revision)}"
    requests = 2 * rounds * count
    return {
        "responses": count,
        "constitution": f"{reviser.constitution.name} ({len(reviser.constitution.config.principles)} principles)",
        "model": f"{model.model} ({model.resolved_engine})",
        "requests, at most": requests,
        "prompt tokens beside the critiques, about": characters // 4,
        "answer tokens, at most": requests * sampling.max_tokens,
        "example": example,
    }


def _text(messages: Messages) -> str:
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)
