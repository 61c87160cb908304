"""What a vote asks: the messages with the judge's defences, and a key that knows all that could change the answer."""

from typing import Any

from rlaif.engines import CHANGES_ANSWERS
from rlaif.engines.base import Request
from rlaif.judges.config import AnyLLMConfig, ChecklistConfig, PairwiseConfig, PointwiseConfig
from rlaif.judges.defences import defended, own_control_tokens, shown_data
from rlaif.judges.judge import Asking, Item, LLMJudge, asking
from rlaif.judges.reading import Offer, repair_messages, should_repair
from rlaif.types import Judgment, Message, Messages, Response, Sampling, content_hash


def judge_request(judge: LLMJudge, item: Item, vote: int, endpoint: str | None) -> Request:
    """The request of one vote; its key is the judgment's id, which knows everything that could change the answer."""
    how = asking(judge, item, vote)
    offer = judge.config.offer(len(how.shown))
    messages = _judge_messages(judge, how, offer)
    key = content_hash(
        item.id,
        judge.name,
        [message.as_dict() for message in messages],
        judge.engine.model_dump(mode="json", include=CHANGES_ANSWERS),
        endpoint,
        (judge.config.reading, judge.config.format, judge.config.mode, judge.config.repair),
        (offer.choices, scale_of(judge.config)),
        (judge.config.temperature, judge.config.top_p, judge.config.max_tokens, judge.config.seed),
        vote,
        [response.id for response in how.shown],
        length=24,
    )
    sampling = Sampling(
        temperature=judge.config.temperature,
        top_p=judge.config.top_p,
        max_tokens=judge.config.max_tokens,
        seed=judge.config.seed,
    )
    return Request(
        key=key, messages=messages, sampling=sampling, choices=judge.config.constrained_choices(len(how.shown))
    )


def repair_request(judge: LLMJudge, request: Request, judgment: Judgment) -> Request | None:
    """The one further question after a vote whose answer could not be read; None if there is nothing to ask."""
    if not judge.config.repair or not should_repair(judgment.reason, judgment.raw):
        return None
    messages = repair_messages(
        request.messages, judgment.raw, judge.config.reader, judge.config.offer(len(judgment.shown))
    )
    key = content_hash(request.key, "repair", [message.as_dict() for message in messages], length=24)
    return request.model_copy(update={"key": key, "messages": messages})


def _judge_messages(judge: LLMJudge, how: Asking, offer: Offer) -> Messages:
    values: dict[str, Any] = {
        **_shown_data(judge, how.shown),
        "labels": offer.labels if judge.is_listwise else offer.choices,
        "fences": judge.config.fences,
    }
    if offer.scale is not None:
        values["scale"] = offer.scale
    if how.question is not None and isinstance(judge.config, ChecklistConfig):
        values["item"] = _defended(judge, how.question.text)
    elif how.question is not None:
        values["criterion"] = {"name": how.question.name, "description": how.question.text}
    system = [Message(role="system", content=judge.config.system)] if judge.config.system else []
    text = how.template.render(values, row=f"prompt {how.shown[0].prompt.id}")
    return (*system, Message(role="user", content=text))


def _shown_data(judge: LLMJudge, shown: tuple[Response, ...]) -> dict[str, Any]:
    """What others wrote, prompts and responses, as a template gets it: with the judge's defences."""
    data = shown_data(
        shown[0].prompt,
        _responses(judge, shown),
        fences=judge.config.fences,
        escape=judge.config.escape_control_tokens,
        model=judge.reader,
    )
    if judge.is_listwise:
        labels = judge.config.offer(len(shown)).labels
        data["responses"] = [
            {"label": label, "text": text} for label, text in zip(labels, data["responses"], strict=True)
        ]
    return data


def _responses(judge: LLMJudge, shown: tuple[Response, ...]) -> dict[str, Any]:
    texts = [response.text for response in shown]
    if judge.is_listwise:
        return {"responses": texts}
    return dict(zip(("response_a", "response_b") if judge.is_pairwise else ("response",), texts, strict=True))


def _defended(judge: LLMJudge, value: Any) -> Any:
    return defended(
        value,
        fences=judge.config.fences,
        escape=judge.config.escape_control_tokens,
        own=own_control_tokens(judge.reader),
    )


def scale_of(config: AnyLLMConfig) -> tuple[int, int] | None:
    """The scale of a judge that has one."""
    return config.scale if isinstance(config, PairwiseConfig | PointwiseConfig) else None
