"""What `rlaif judge` would ask, without asking."""

from pathlib import Path
from typing import Any

from rlaif.engines import EngineConfig
from rlaif.judges.compare import by_prompt, comparisons_of
from rlaif.judges.config import Comparisons
from rlaif.judges.ensemble import Ensemble, load_ensemble
from rlaif.judges.judge import Item, judge_request
from rlaif.judges.run import read_responses
from rlaif.judges.vote import orders
from rlaif.types import Response


def judge_plan(
    responses: Path,
    judge: str,
    *,
    votes: int,
    models: tuple[EngineConfig, ...],
    comparisons: Comparisons | None,
) -> dict[str, Any]:
    """Counts of comparisons and votes, about how many prompt tokens, and one rendered request per LLM judge."""
    ensemble = load_ensemble(judge, votes=votes, models=models, comparisons=comparisons)
    rows = read_responses(responses)
    items = _comparisons(ensemble, rows)
    singles = [Item((row,)) for row in rows]
    asked = characters = 0
    examples = []
    for llm in ensemble.llms:
        judged = items if llm.is_pairwise else singles
        asked += len(judged) * (min(llm.votes, orders(llm)) if llm.config.temperature == 0 else llm.votes)
        requests = [judge_request(llm, item, vote, None) for item in judged for vote in range(llm.votes)]
        characters += sum(len(message.content) for request in requests for message in request.messages)
        if requests:
            turns = "\n\n".join(f"[{message.role}]\n{message.content}" for message in requests[0].messages)
            examples.append(f"--- {llm.name} asks {llm.engine.model} ---\n{turns}")
    bound = "" if ensemble.comparisons != "screened" else ", at most"
    return {
        "responses": len(rows),
        f"comparisons{bound}": len(items),
        f"LLM votes{bound}": asked,
        "judge prompt tokens, about": characters // 4,
        "example": "\n\n".join(examples),
    }


def _comparisons(ensemble: Ensemble, rows: list[Response]) -> list[Item]:
    """The comparisons; for `screened`, whose choice needs scores, one stand-in per prompt."""
    if ensemble.comparisons is None:
        return []
    found: list[Item] = []
    for group in by_prompt(rows).values():
        rule = "ring" if ensemble.comparisons == "screened" else ensemble.comparisons
        items, _ = comparisons_of(group, rule, lambda response: None)
        found += items[:1] if ensemble.comparisons == "screened" else items
    return found
