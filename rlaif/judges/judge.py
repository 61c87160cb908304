"""A judge that is a language model, and how it is asked about an item, vote by vote."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rlaif.engines import EngineConfig
from rlaif.judges.config import AnyLLMConfig, ChecklistItem, ListwiseConfig, PairwiseConfig, WriterConfig
from rlaif.judges.questions import Question, asks_several, questions_of
from rlaif.prompts import Template
from rlaif.types import Response, content_hash


@dataclass(frozen=True)
class Item:
    """What is judged: one response, a comparison of two responses to one prompt, or all of a prompt's responses."""

    responses: tuple[Response, ...]
    group: tuple[Response, ...] = ()
    """Of a comparison: all the prompt's responses, which judges that rank are asked about."""

    @cached_property
    def id(self) -> str:
        return content_hash([(response.id, response.text) for response in self.responses])


@dataclass(frozen=True)
class LLMJudge:
    """A loaded LLM judge: its configuration, its templates and the model that answers."""

    name: str
    config: AnyLLMConfig
    templates: tuple[Template, ...]
    """The prompt and its variants."""
    engine: EngineConfig
    weight: float
    votes: int
    cost: float = 1.0
    source: str = ""
    """The judge's file, or its shipped name."""
    writer: "Writer | None" = None
    """How its model is asked for a prompt's checklist."""
    written: Mapping[str, tuple[ChecklistItem, ...]] = field(default_factory=dict, compare=False)
    """The items that were written, by prompt id."""
    read_by: str = ""
    """The model folder whose tokenizer reads the prompts, where the model's name is not that of one."""

    @property
    def model(self) -> str:
        return self.engine.model

    @property
    def reader(self) -> str:
        """Whose control tokens are escaped."""
        return self.read_by or self.engine.model

    @property
    def is_pairwise(self) -> bool:
        return isinstance(self.config, PairwiseConfig)

    @property
    def is_listwise(self) -> bool:
        return isinstance(self.config, ListwiseConfig)


@dataclass(frozen=True)
class Writer:
    """How a model is asked for a checklist."""

    config: WriterConfig
    template: Template


@dataclass(frozen=True)
class Asking:
    """How one vote is asked."""

    shown: tuple[Response, ...]
    template: Template
    question: Question | None
    """Of a judge that asks several."""


def asking(judge: LLMJudge, item: Item, vote: int) -> Asking:
    """What the vote of an index shows and asks: every order and question with the first variant of the prompt, then every
    one with the next."""
    questions = questions_of(judge, item)
    both_orders = 2 if judge.is_pairwise or judge.is_listwise else 1
    variant = vote // (len(questions) or both_orders) % len(judge.templates)
    question = questions[vote % len(questions)] if questions else None
    return Asking(shown_order(item, vote), judge.templates[variant], question)


def votes_wanted(judge: LLMJudge, item: Item) -> int:
    """How many single questions the judge's votes on an item are; 0 where it has no checklist for the prompt, or may not rank
    so many responses."""
    if isinstance(judge.config, ListwiseConfig) and len(item.responses) > judge.config.most:
        return 0
    return judge.votes * (len(questions_of(judge, item)) if asks_several(judge) else 1)


def distinct_votes(judge: LLMJudge, item: Item) -> int:
    """How many votes ask different things: every order, or question, with every variant of the prompt."""
    variants = len(judge.templates)
    if judge.is_listwise:
        return 2 * math.lcm(len(item.responses), variants)
    if judge.is_pairwise:
        return 2 * variants
    return variants * (len(questions_of(judge, item)) or 1)


def shown_order(item: Item, vote: int) -> tuple[Response, ...]:
    """The responses in the order of this vote: orders alternate, and the id of the item decides which is first.

    More than two: each order is followed by its reverse, and every second vote begins one response further on, so that
    every response comes first, and before every other, equally often.
    """
    count, start = len(item.responses), int(item.id, 16)
    if count <= 2:
        swapped = count == 2 and (start % 2 == 1) != (vote % 2 == 1)
        return item.responses[::-1] if swapped else item.responses
    begin = (start + vote // 2) % count
    turned = item.responses[begin:] + item.responses[:begin]
    return turned[::-1] if vote % 2 else turned
