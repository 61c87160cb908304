"""The fixed answers that responses are compared with."""

import codecs
from collections.abc import Callable
from pathlib import Path

from rlaif.errors import ConfigError
from rlaif.records import read_records_with_places
from rlaif.types import Message, Prompt, Response, content_hash

Baseline = Callable[[Prompt], Response | None]
"""The answer to a prompt, None if there is none."""


def load_baseline(named: str) -> Baseline:
    """The answers in a file of responses (a path ending in .jsonl), or else under a key of the prompts' metadata.

    Raises ConfigError if it is not there, DataError for what is no response.
    """
    if not named.endswith(".jsonl"):
        return lambda prompt: _of_metadata(prompt, named)
    if Path(named).is_file():
        return _of_file(Path(named))
    raise ConfigError(
        f"baseline: no such file '{named}'; name a file of responses, as 'rlaif generate' writes it, or a key of the prompts' "
        "metadata (which does not end in .jsonl)"
    )


def _of_file(path: Path) -> Baseline:
    """The first response to each prompt. Only where each stands is held in memory."""
    places: dict[str, int] = {}
    for place, row in read_records_with_places(path, Response):
        places.setdefault(row.prompt.id, place)

    def answer(prompt: Prompt) -> Response | None:
        if prompt.id not in places:
            return None
        with path.open("rb") as file:
            file.seek(places[prompt.id])
            return Response.model_validate_json(file.readline().removeprefix(codecs.BOM_UTF8))

    return answer


def _of_metadata(prompt: Prompt, key: str) -> Response | None:
    text = prompt.metadata.get(key)
    if not isinstance(text, str) or not text:
        return None
    return Response(
        id=content_hash("baseline", prompt.id, text),
        prompt=prompt,
        sample_index=0,
        messages=(Message(role="assistant", content=text),),
        model="baseline",
        engine="metadata",
    )
