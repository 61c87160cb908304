"""What `rlaif judge` would ask, without asking."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.engines import EngineConfig
from rlaif.judges.compare import comparisons_of
from rlaif.judges.config import Comparisons, StopRule
from rlaif.judges.ensemble import Ensemble, load_ensemble
from rlaif.judges.judge import Item, LLMJudge, judge_request
from rlaif.judges.responses import Responses, open_responses
from rlaif.judges.stopping import VOTE_MARGIN
from rlaif.judges.vote import planned_votes
from rlaif.types import Response


@dataclass
class Count:
    """What is asked of one judge."""

    votes: int = 0
    characters: int = 0
    example: str = ""


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
    for singles, items in _items(ensemble, rows):
        compared += len(items)
        for llm in ensemble.llms:
            _count(counts[llm.name], llm, items if llm.is_pairwise else singles)
    bound = ", at most" if ensemble.comparisons == "screened" else ""
    asked = sum(count.votes for count in counts.values())
    least = compared * min((min(2, llm.votes) for llm in ensemble.pairwise), default=0)
    may_stop = ensemble.stopping.rule != "all" and asked > least
    return {
        "responses": len(rows),
        f"comparisons{bound}": compared,
        f"LLM votes{', at most' if may_stop else bound}": asked,
        "judge prompt tokens, about": sum(count.characters for count in counts.values()) // 4,
        "stopping rule": str(ensemble.stopping),
        "example": "\n\n".join(count.example for count in counts.values() if count.example),
    }


def _count(count: Count, llm: LLMJudge, items: Sequence[Item]) -> None:
    for item in items:
        for vote in range(planned_votes(llm, {})):
            messages = judge_request(llm, item, vote, None).messages
            count.votes += 1
            count.characters += sum(len(message.content) for message in messages)
            if not count.example:
                turns = "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)
                count.example = f"--- {llm.name} asks {llm.engine.model} ---\n{turns}"


def _items(ensemble: Ensemble, rows: Responses) -> Iterator[tuple[list[Item], list[Item]]]:
    """The responses of each prompt and its comparisons; for `screened`, whose choice needs scores, one stand-in."""
    rule = "ring" if ensemble.comparisons == "screened" else ensemble.comparisons
    for group in rows.groups():
        singles = [Item((response,)) for response in group]
        if rule is None:
            yield singles, []
            continue
        items, _ = comparisons_of(group, rule, lambda response: None)
        yield singles, items[:1] if ensemble.comparisons == "screened" else items
