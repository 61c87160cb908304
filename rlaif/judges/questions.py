"""What a judge asks of one response when it asks several things: criteria, or the items of a checklist."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from rlaif.errors import DataError
from rlaif.judges.config import ChecklistConfig, ChecklistItem, PointwiseConfig, check_distinct
from rlaif.types import Prompt

if TYPE_CHECKING:
    from rlaif.judges.judge import Item, LLMJudge

CHECKLIST = "checklist"
"""The key of a prompt's metadata under which its own items stand."""
_ITEMS = TypeAdapter(tuple[ChecklistItem, ...])


@dataclass(frozen=True)
class Question:
    """One thing that is asked of a response."""

    name: str
    """The criterion's name, or the checklist item itself."""
    text: str
    """What a template shows of it beside its name."""
    weight: float = 1.0


def asks_several(judge: "LLMJudge") -> bool:
    """Whether each vote of the judge is several questions."""
    config = judge.config
    return isinstance(config, ChecklistConfig) or (isinstance(config, PointwiseConfig) and bool(config.criteria))


def questions_of(judge: "LLMJudge", item: "Item") -> tuple[Question, ...]:
    """The judge's questions on a response, each once; none if it asks a single one, or has no checklist for the prompt.

    Raises DataError for a prompt whose metadata has a checklist that is none.
    """
    config = judge.config
    if isinstance(config, PointwiseConfig):
        return tuple(Question(name, each.description, each.weight) for name, each in config.criteria.items())
    if not isinstance(config, ChecklistConfig):
        return ()
    prompt = item.responses[0].prompt
    own = own_items(prompt)
    theirs = judge.written.get(prompt.id, ()) if own is None else own
    asked_anyway = {each.item for each in config.items}
    items = (*config.items, *(each for each in theirs if each.item not in asked_anyway))
    return tuple(Question(each.item, each.item, each.weight) for each in items)


def own_items(prompt: Prompt) -> tuple[ChecklistItem, ...] | None:
    """The checklist in a prompt's metadata, None if it brings none. Raises DataError if it can not be one."""
    given: Any = prompt.metadata.get(CHECKLIST)
    if given is None:
        return None
    try:
        items = _ITEMS.validate_python(given)
        check_distinct(items)
    except ValidationError:
        raise DataError(
            f"prompt {prompt.id}: metadata.{CHECKLIST} is no checklist; it is a list of questions, each a text or "
            '{"item": text, "weight": above 0}'
        ) from None
    except ValueError as error:
        raise DataError(f"prompt {prompt.id}: metadata.{CHECKLIST}: {error}") from None
    return items


def mean_over_questions(questions: Sequence[Question], scores: Sequence[float | None]) -> float | None:
    """The weighted mean of the questions' scores; None if one has none: responses that lack one would not compare."""
    known = [(question.weight, score) for question, score in zip(questions, scores, strict=True) if score is not None]
    if len(known) < len(questions) or not known:
        return None
    return sum(weight * score for weight, score in known) / sum(weight for weight, _ in known)
