"""What `rlaif judge` would ask, without asking."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.engines import EngineConfig
from rlaif.engines.base import Request
from rlaif.judges.checklists import needs_writing, writing_request
from rlaif.judges.compare import comparisons_of
from rlaif.judges.config import Comparisons, StopRule
from rlaif.judges.ensemble import Ensemble, load_ensemble
from rlaif.judges.judge import Item, LLMJudge
from rlaif.judges.request import judge_request
from rlaif.judges.responses import Responses, open_responses
from rlaif.judges.stopping import VOTE_MARGIN
from rlaif.judges.vote import planned_rounds, planned_votes
from rlaif.types import Prompt, Response


@dataclass
class Count:
    """What is asked of one judge."""

    votes: int = 0
    characters: int = 0
    example: str = ""
    lists: int = 0
    """Checklists to write."""
    bounds: bool = False
    """Whether the votes may be fewer: the length of a checklist is known once it is written."""


def judge_plan(
    responses: str | Path | Iterable[Response],
    judge: str,
    *,
    votes: int,
    models: tuple[EngineConfig, ...],
    comparisons: Comparisons | None,
    stop: StopRule | None = None,
    stop_probability: float | None = None,
    gates: tuple[float, ...] = (VOTE_MARGIN,),
) -> dict[str, Any]:
    """Counts of comparisons and votes, about how many prompt tokens, and one rendered request per LLM judge."""
    ensemble = load_ensemble(
        judge, votes=votes, models=models, comparisons=comparisons, stop=stop, stop_probability=stop_probability, gates=gates
    )  # fmt: skip
    rows = open_responses(responses)
    counts = {llm.name: Count() for llm in ensemble.llms}
    compared = 0
    for group, items in _items(ensemble, rows):
        compared += len(items)
        for llm in ensemble.llms:
            asked_about = [Item(tuple(group))] if llm.is_listwise else [Item((response,)) for response in group]
            _count(counts[llm.name], llm, items if llm.is_pairwise else asked_about)
    bound = ", at most" if ensemble.comparisons == "screened" else ""
    asked = sum(count.votes for count in counts.values())
    stoppable = sum(counts[llm.name].votes for llm in ensemble.pairwise)
    least = compared * min((min(2, llm.votes) for llm in ensemble.pairwise), default=0)
    may_stop = ensemble.stopping.rule != "all" and stoppable > least
    may_be_less = may_stop or any(count.bounds for count in counts.values())
    scored = {"responses for reward models": len(rows) * len(ensemble.rewards)} if ensemble.rewards else {}
    lists = sum(count.lists for count in counts.values())
    return {
        "responses": len(rows),
        f"comparisons{bound}": compared,
        f"LLM votes{', at most' if may_be_less else bound}": asked,
        **({"checklists to write": lists} if lists else {}),
        **scored,
        "judge prompt tokens, about": sum(count.characters for count in counts.values()) // 4,
        "stopping rule": str(ensemble.stopping),
        "example": "\n\n".join(count.example for count in counts.values() if count.example),
    }


def _count(count: Count, llm: LLMJudge, items: Sequence[Item]) -> None:
    """Adds what is asked about some items of one prompt."""
    for item in items:
        if llm.writer is not None and needs_writing(llm, item.responses[0].prompt):
            _count_written(count, llm, item.responses[0].prompt, is_first=item is items[0])
            continue
        for vote in range(planned_votes(llm, item, {})):
            count.votes += 1
            _show(count, llm, judge_request(llm, item, vote, None), 1)


def _count_written(count: Count, llm: LLMJudge, prompt: Prompt, *, is_first: bool) -> None:
    """Adds a list that is still to be written, for the first response to its prompt, and at most so many questions of it."""
    assert llm.writer is not None
    request = writing_request(llm, prompt, None)
    count.lists += is_first
    count.votes += llm.writer.config.most * planned_rounds(llm)
    count.bounds = True
    _show(count, llm, request, is_first + llm.writer.config.most * planned_rounds(llm))


def _show(count: Count, llm: LLMJudge, request: Request, times: int) -> None:
    count.characters += times * sum(len(message.content) for message in request.messages)
    if not count.example:
        turns = "\n\n".join(f"[{message.role}]\n{message.content}" for message in request.messages)
        count.example = f"--- {llm.name} asks {llm.engine.model} ---\n{turns}"


def _items(ensemble: Ensemble, rows: Responses) -> Iterator[tuple[list[Response], list[Item]]]:
    """The responses of each prompt and its comparisons; for `screened`, whose choice needs scores, one stand-in."""
    rule = "ring" if ensemble.comparisons == "screened" else ensemble.comparisons
    for group in rows.groups():
        if rule is None:
            yield group, []
            continue
        items, _ = comparisons_of(group, rule, lambda response: None)
        yield group, items[:1] if ensemble.comparisons == "screened" else items
