"""Checklists that a judge's model writes: one of each prompt that brings none, kept beside the votes."""

import re
from pathlib import Path

from rlaif.engines import CHANGES_ANSWERS
from rlaif.engines.base import Completion, Request
from rlaif.judges.config import ChecklistItem
from rlaif.judges.defences import shown_data
from rlaif.judges.judge import LLMJudge
from rlaif.judges.questions import own_items
from rlaif.judges.reading import visible_text
from rlaif.records import RecordWriter, read_records
from rlaif.types import Message, Prompt, Record, Sampling, content_hash

_MARK = r"(?:\d{1,2}[.):、]|[-*•])"
_ITEM = re.compile(rf"^\s{{0,8}}(?:\*\*)?{_MARK}(?:\*\*)?\s{{0,4}}(?:\[[ xX]?\]\s{{1,4}})?(?P<item>\S.*)$")
"""A line of a numbered or bulleted list, with or without a box to tick."""
_QUESTION = re.compile(r".*[?？]")
"""Up to the last question mark: what may follow is a remark."""


class WrittenChecklist(Record):
    """What a model wrote when it was asked for a prompt's checklist."""

    id: str
    prompt_id: str
    judge: str
    model: str
    items: tuple[str, ...]
    """Empty where no list could be read."""
    dropped: tuple[str, ...] = ()
    """Lines of the list that are not asked: without a question mark, cut off, said before, or beyond the most."""
    raw: str

    def as_items(self) -> tuple[ChecklistItem, ...]:
        return tuple(ChecklistItem(item=item) for item in self.items)


class Checklists:
    """The lists written for one judge in this and earlier runs. Few and short beside the votes, they are held in memory."""

    def __init__(self, path: Path | None) -> None:
        """path: a JSONL file that is appended to; None keeps them in memory only."""
        self._writer = RecordWriter[WrittenChecklist](path) if path is not None else None
        self._lists: dict[str, WrittenChecklist] = {}
        if path is not None and path.exists():
            self._lists = {written.id: written for written in read_records(path, WrittenChecklist)}

    def get(self, id: str) -> WrittenChecklist | None:
        return self._lists.get(id)

    def add(self, written: WrittenChecklist) -> None:
        """Keeps a list. It is on the disk when this returns."""
        self._lists[written.id] = written
        if self._writer is not None:
            self._writer.write(written)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def needs_writing(judge: LLMJudge, prompt: Prompt) -> bool:
    """Whether the judge's model is asked for the prompt's items."""
    return judge.writer is not None and own_items(prompt) is None


def writing_request(judge: LLMJudge, prompt: Prompt, endpoint: str | None) -> Request:
    """Asks for the checklist of a prompt; the key knows everything that could change the answer."""
    assert judge.writer is not None
    how = judge.writer.config
    shown = shown_data(
        prompt, {}, fences=judge.config.fences, escape=judge.config.escape_control_tokens, model=judge.reader
    )
    text = judge.writer.template.render(
        {**shown, "fences": judge.config.fences, "most": how.most}, row=f"prompt {prompt.id}"
    )
    messages = (Message(role="user", content=text),)
    sampling = Sampling(temperature=how.temperature, max_tokens=how.max_tokens, seed=how.seed)
    key = content_hash(
        "checklist",
        prompt.id,
        [message.as_dict() for message in messages],
        judge.engine.model_dump(mode="json", include=CHANGES_ANSWERS),
        endpoint,
        sampling.model_dump(mode="json"),
        how.most,
        length=24,
    )
    return Request(key=key, messages=messages, sampling=sampling)


def written_checklist(judge: LLMJudge, prompt: Prompt, completion: Completion) -> WrittenChecklist:
    """The answer to a writing request, with the items that could be read in it."""
    assert judge.writer is not None
    (sample,) = completion.samples
    most, truncated = judge.writer.config.most, sample.finish_reason == "length"
    items, dropped = read_items(sample.text, most, truncated=truncated)
    return WrittenChecklist(
        id=completion.key,
        prompt_id=prompt.id,
        judge=judge.name,
        model=judge.engine.model,
        items=items,
        dropped=dropped,
        raw=sample.text,
    )


def read_items(text: str, most: int, *, truncated: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The questions of a numbered or bulleted list, each once and at most so many; and the other lines of the list.

    truncated: the answer was cut off, so its last line is no item.
    """
    lines = visible_text(text).splitlines()
    listed = [match["item"].replace("**", "").strip(" *_`") for line in lines if (match := _ITEM.match(line))]
    last = listed.pop() if truncated and listed and _ITEM.match(lines[-1]) else None
    items: dict[str, None] = {}
    dropped = []
    for line in listed:
        question = _QUESTION.match(line)
        if question is None or question[0] in items or len(items) == most:
            dropped.append(line)
        else:
            items[question[0]] = None
    return tuple(items), (*dropped, *([last] if last is not None else []))
