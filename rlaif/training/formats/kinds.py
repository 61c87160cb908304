"""What a recognised row is to a method: the examples of each kind."""

from rlaif.training.formats.example import Example, Kind
from rlaif.training.formats.shapes import Answer, Conversation, Pair, Shape, Step
from rlaif.training.formats.turns import goes_on, is_blank, to_last_answer
from rlaif.types import Message, Messages

SAME = "chosen and rejected are the same text"
UNDESIRABLE = "its label says that the answer is not desirable"
EMPTY = "the answer is empty"
NO_ANSWER = "the conversation holds no assistant turn after a user turn"
NO_QUESTION = "the conversation has no turn before the answer"


def examples_of(shape: Shape, kind: Kind, id: str) -> list[Example] | None:
    """The examples that a row of this shape gives; None if it is not of this kind."""
    match kind, shape:
        case "steps", Step():
            return [_steps(shape, id)]
        case "pairs", Pair():
            completions = (shape.chosen, shape.rejected)
            return [
                Example(id, shape.prompt, completions, shape.cut, margin=shape.margin, confidence=shape.confidence,
                        skip_reason=shape.reason, shortened=any(shape.shortened))
            ]  # fmt: skip
        case "labels", Pair():
            return _unpaired(shape, id)
        case "labels", Answer(label=bool()):
            return [_labelled(shape, id)]
        case "labels", Conversation(label=bool()):
            return [_labelled(_final_answer(shape), id)]
        case "answers" | "conversations", Pair():
            return [_imitated(_chosen(shape), id)]
        case "answers" | "conversations", Answer():
            return [_imitated(shape, id)]
        case "answers", Conversation():
            return [_imitated(_final_answer(shape), id)]
        case "conversations", Conversation():
            return [_imitated(_all_answers(shape), id)]
    return None


def _steps(step: Step, id: str) -> Example:
    """Two completions that the template never ends, even if nothing opens the answer: the answer goes on after them."""
    completions = tuple((Message(role="assistant", content=text),) for text in (step.chosen, step.rejected))
    return Example(
        id, step.prompt, completions, (True, True), margin=step.margin, confidence=step.confidence,
        opening=step.opening,
    )  # fmt: skip


def _chosen(pair: Pair) -> Answer:
    return Answer(pair.prompt, pair.chosen, pair.cut[0], reason=pair.reason, shortened=pair.shortened[0])


def _unpaired(pair: Pair, id: str) -> list[Example]:
    reason = pair.reason or (SAME if pair.chosen == pair.rejected else "")
    sides = (("chosen", pair.chosen, True), ("rejected", pair.rejected, False))
    return [
        _labelled(Answer(pair.prompt, turns, cut, label, pair.confidence, reason, shortened), f"{id}/{name}")
        for (name, turns, label), cut, shortened in zip(sides, pair.cut, pair.shortened, strict=True)
    ]


def _labelled(answer: Answer, id: str) -> Example:
    return Example(
        id, answer.prompt, (answer.answer,), (answer.cut,), label=answer.label, confidence=answer.confidence,
        skip_reason=answer.reason, shortened=answer.shortened,
    )  # fmt: skip


def _imitated(answer: Answer, id: str) -> Example:
    """An answer to be learned as it is: neither an undesirable nor an empty one."""
    says_nothing = all(is_blank(turn) for turn in answer.answer if turn.role == "assistant")
    reason = answer.reason or (UNDESIRABLE if answer.label is False else EMPTY if says_nothing else "")
    return Example(
        id, answer.prompt, (answer.answer,), (answer.cut,), skip_reason=reason, shortened=answer.shortened
    )  # fmt: skip


def _final_answer(conversation: Conversation) -> Answer:
    turns = to_last_answer(conversation.turns)
    return _divided(conversation, turns, len(turns) - 1)


def _all_answers(conversation: Conversation) -> Answer:
    """From the first answer to a user on: a greeting before it belongs to the prompt."""
    turns = to_last_answer(conversation.turns)
    asked = next((index for index, turn in enumerate(turns) if turn.role == "user"), len(turns))
    first = next((index for index in range(asked, len(turns)) if turns[index].role == "assistant"), len(turns))
    return _divided(conversation, turns, first)


def _divided(conversation: Conversation, turns: Messages, first: int) -> Answer:
    prompt, answer = turns[:first], turns[first:]
    reason = ""
    if not answer or answer[0].role != "assistant":
        reason = NO_ANSWER
    elif not prompt:
        reason = NO_QUESTION
    shortened = goes_on(conversation.turns)
    return Answer(prompt, answer, conversation.cut, conversation.label, conversation.confidence, reason, shortened)
