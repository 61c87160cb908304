"""The votes that LLMBar's authors published: six judges, fifteen prompting strategies, both orders.

They become rows of a journal of judgments, so that voting and calibration run on real votes without a model. The judge
is called "GPT-4/Vanilla" (judge/strategy), the comparison has the id of the gold pair.
"""

from collections.abc import Iterator

from rlaif.gold.llmbar import pair_id
from rlaif.gold.sources import Row, Unusable
from rlaif.types import Judgment, NoOutcome, Outcome, Preferred, Tie, content_hash

FILES = ("votes.jsonl", "votes.jsonl.gz")
ORDERS = {"ab": 0, "ba": 1}
WINNERS = {"1": 0, "2": 1, None: None}


def judgments(row: Row) -> Iterator[Judgment]:
    """The vote of a row: the last step of a strategy; earlier steps are not votes."""
    if row.values.get("last") is not True:
        raise Unusable("an earlier step of a strategy of several steps, not its vote")
    subset = row.text("subset").removeprefix("LLMBar/")
    comparison = pair_id(subset, row.integer("idx"))
    ids = (f"{comparison}/1", f"{comparison}/2")
    vote = row.one_of("order", ORDERS)
    judge = f"{row.text('judge')}/{row.text('strategy')}"
    outcome, reason = _outcome(row, ids)
    yield Judgment(
        id=content_hash(comparison, judge, vote, length=24),
        comparison_id=comparison,
        judge=judge,
        model=row.text("judge"),
        template_hash=content_hash(row.text("strategy")),
        vote=vote,
        shown=ids[::-1] if vote else ids,
        raw=row.values.get("completion") or "",
        outcome=outcome,
        reason=reason,
        parts=_ratings(row, ids),
    )


def _outcome(row: Row, ids: tuple[str, str]) -> tuple[Outcome | None, NoOutcome | None]:
    """The recorded winner. Two equal ratings are a tie: the winner recorded for them was drawn."""
    ratings = _ratings(row, ids)
    if ratings is not None:
        first, second = ratings.values()
        if first is None or second is None:
            return None, "unparsed"
        if first == second:
            return Tie(), None
    winner = row.one_of("winner", WINNERS)
    return (None, "unparsed") if winner is None else (Preferred(response_id=ids[winner]), None)


def _ratings(row: Row, ids: tuple[str, str]) -> dict[str, float | None] | None:
    if "score_1" not in row.values:
        return None
    texts = (row.text("score_1"), row.text("score_2"))
    return {name: float(text) if text else None for name, text in zip(ids, texts, strict=True)}
