"""Checklists that a judge's model writes: one of each prompt that brings none, kept beside the votes."""

import re
from pathlib import Path

from rlaif.engines import CHANGES_ANSWERS
from rlaif.engines.base import Completion, Request
from rlaif.judges.config import ChecklistItem
from rlaif.judges.defences import defended, own_control_tokens
from rlaif.judges.judge import LLMJudge
from rlaif.judges.questions import own_items
from rlaif.judges.reading import visible_text
from rlaif.prompts import conversation_text
from rlaif.records import RecordWriter, read_records
from rlaif.types import Message, Prompt, Record, Sampling, content_hash

_ITEM = re.compile(r"^\s{0,8}(?:\d{1,2}[.):]|[-*•])\s{1,4}(?P<item>\S.*)$")


class WrittenChecklist(Record):
    """What a model wrote when it was asked for a prompt's checklist."""

    id: str
    prompt_id: str
    judge: str
    model: str
    items: tuple[str, ...]
    """Empty where no list could be read."""
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
    data = {
        "prompt": conversation_text(prompt.messages),
        "messages": [message.as_dict() for message in prompt.messages],
        "metadata": prompt.metadata,
    }
    shown = defended(
        data,
        fences=judge.config.fences,
        escape=judge.config.escape_control_tokens,
        own=own_control_tokens(judge.engine.model),
    )
    for message, turn in zip(prompt.messages, shown["messages"], strict=True):
        turn["role"] = message.role
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
    items = read_items(sample.text, judge.writer.config.most, truncated=sample.finish_reason == "length")
    return WrittenChecklist(
        id=completion.key, prompt_id=prompt.id, judge=judge.name, model=judge.engine.model, items=items, raw=sample.text
    )


def read_items(text: str, most: int, *, truncated: bool = False) -> tuple[str, ...]:
    """The questions of a numbered or bulleted list, each once, at most so many. truncated: the last line may be cut off."""
    lines = visible_text(text).splitlines()
    if truncated:
        lines = lines[:-1]
    found = [match["item"].strip(" *_`") for line in lines if (match := _ITEM.match(line))]
    questions = [item for item in found if item.endswith("?")]
    return tuple(dict.fromkeys(questions))[:most]
