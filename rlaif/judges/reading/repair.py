"""One further question where an answer could not be read: the verdict alone, in the same conversation."""

from rlaif.judges.reading.base import Format, Offer
from rlaif.judges.reading.thinking import visible_text
from rlaif.types import Message, Messages, NoOutcome

REPAIRABLE: frozenset[NoOutcome] = frozenset({"unparsed", "conflict", "truncated"})
"""A refusal is an answer: it is not asked again."""


def should_repair(reason: NoOutcome | None, text: str) -> bool:
    """Whether a further question may help: there was an answer beside the thinking, and no verdict was read in it."""
    return reason in REPAIRABLE and bool(visible_text(text))


def repair_messages(asked: Messages, text: str, form: Format, offer: Offer) -> Messages:
    """The conversation with the answer that could not be read (its thinking set aside) and the further question."""
    question = f"Answer with your verdict only, and nothing else: {form.form(offer)}."
    return (
        *asked,
        Message(role="assistant", content=visible_text(text)),
        Message(role="user", content=question),
    )
