"""The gold format: one pair of responses a line, and which one is better."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from rlaif.errors import DataError
from rlaif.records import describe, read_json_lines
from rlaif.types import SCHEMA_VERSION, Message, Messages, Prompt, Record, Response

Gold = Literal[1, 2, "tie"]
ROW_HINT = (
    "a gold row has id, messages (or prompt, a text), response_1, response_2 (texts, or one assistant message each) and "
    'gold (1, 2 or "tie"), and may have subset, reference, labels, metadata; public sets become such rows with: '
    "rlaif bench convert"
)


class GoldPair(Record):
    """Two responses to one prompt and which one is better, by people or by verification."""

    schema_version: int = SCHEMA_VERSION
    id: str = Field(min_length=1)
    messages: Messages = Field(min_length=1, description="the prompt; in a file `prompt` may hold it as one text")
    response_1: str
    response_2: str
    gold: Gold
    subset: str = Field(default="", description="a part of the set, as set/part; measured by itself")
    reference: str | None = Field(default=None, description="a right answer, for judges that are guided by one")
    labels: tuple[Gold, ...] = Field(default=(), description="of the single annotators, if there were several")
    metadata: dict[str, JsonValue] = {}
    swapped: bool = Field(default=False, description="the responses stand in the other order than in the source")

    @model_validator(mode="before")
    @classmethod
    def _as_written_by_people(cls, row: Any) -> Any:
        if not isinstance(row, dict):
            return row
        row = {key: _text(value) if key in ("response_1", "response_2") else value for key, value in row.items()}
        if isinstance(row.get("prompt"), str) and "messages" not in row:
            row["messages"] = [{"role": "user", "content": row.pop("prompt")}]
        return row

    @property
    def response_ids(self) -> tuple[str, str]:
        """Of response_1 and response_2. They name the order of the source, so swapping a pair leaves its votes valid."""
        ids = (f"{self.id}/1", f"{self.id}/2")
        return ids[::-1] if self.swapped else ids

    @property
    def texts(self) -> tuple[str, str]:
        return self.response_1, self.response_2

    def swap(self) -> "GoldPair":
        """The same pair in the other order: its labels are turned with it."""
        return self.model_copy(
            update={
                "response_1": self.response_2,
                "response_2": self.response_1,
                "gold": _turned(self.gold),
                "labels": tuple(_turned(label) for label in self.labels),
                "swapped": not self.swapped,
            }
        )

    def responses(self) -> tuple[Response, Response]:
        """The pair as two models' answers to one prompt, whose id is the pair's, in the order of the source."""
        metadata = {**self.metadata, **({} if self.reference is None else {"reference": self.reference})}
        prompt = Prompt(id=self.id, messages=self.messages, metadata=metadata)
        first, second = sorted(zip(self.response_ids, self.texts, strict=True))
        return _response(prompt, *first, "response_1"), _response(prompt, *second, "response_2")


def read_gold(*paths: str | Path) -> list[GoldPair]:
    """The pairs of one or several gold files, each id once. Raises DataError naming file, line and what is allowed."""
    seen: dict[str, str] = {}
    pairs: list[GoldPair] = []
    for path in map(Path, paths):
        found = len(pairs)
        for number, row in read_json_lines(path):
            pair = _pair(row, f"{path}:{number}")
            if pair.id in seen:
                raise DataError(f"{path}:{number}: the id '{pair.id}' is used at {seen[pair.id]}; ids must be unique")
            seen[pair.id] = f"{path}:{number}"
            pairs.append(pair)
        if len(pairs) == found:
            raise DataError(f"{path}: no gold pairs in it; {ROW_HINT}")
    return pairs


def responses_of(pairs: Iterable[GoldPair]) -> list[Response]:
    """The rows that a judge is given, to compare across the two models 'response_1' and 'response_2'."""
    return [response for pair in pairs for response in pair.responses()]


def _pair(row: dict[str, object], where: str) -> GoldPair:
    try:
        return GoldPair.model_validate(row)
    except ValidationError as error:
        raise DataError(f"{where}: not a gold pair: {describe(error)}; {ROW_HINT}") from None


def _response(prompt: Prompt, id: str, text: str, model: str) -> Response:
    answer = Message(role="assistant", content=text)
    return Response(id=id, prompt=prompt, sample_index=0, messages=(answer,), model=model, engine="gold")


def _text(value: Any) -> Any:
    """The content of one assistant message; other values are left for the validation to name."""
    one = isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict)
    return value[0].get("content") if one and value[0].get("role") == "assistant" else value


def _turned(gold: Gold) -> Gold:
    return "tie" if gold == "tie" else 2 if gold == 1 else 1
