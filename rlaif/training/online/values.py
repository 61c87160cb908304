"""What a finished session says of each response, as a reward: derived from its journal, without asking anything.

A response that a judge could not speak about has no value, and the reason why: never 0, which would be a reward.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rlaif.judges.aggregate import ensemble_score
from rlaif.judges.ensemble import Judge, compares
from rlaif.judges.judge import Item, LLMJudge
from rlaif.judges.reward import RewardJudge
from rlaif.judges.session import Session
from rlaif.judges.tallies import reward_of
from rlaif.judges.verdicts import Verdicts
from rlaif.training.online.groups import Group
from rlaif.types import Response, Verdict

ONE_ORDER = "could be read in one of its two orders only, where the order may have decided"


@dataclass(frozen=True)
class Scored:
    """What one source says of one response."""

    value: float | None
    """None if it could not say."""
    reason: str | None = None
    """Why there is no value."""


@dataclass(frozen=True)
class Margins:
    """What was said of the comparisons of a session, by the ids of the two responses."""

    known: Mapping[tuple[str, str], float]
    """In [-1, 1], in favour of the first."""
    unread: Mapping[str, str]
    """Of each response in a comparison without a margin: why there is none, the first reason."""

    def of(self, response: Response, other: Response) -> float | None:
        """In favour of the first; None if the two were not compared, or it could not be read."""
        if (margin := self.known.get((response.id, other.id))) is not None:
            return margin
        margin = self.known.get((other.id, response.id))
        return None if margin is None else -margin


def score_of(session: Session, response: Response) -> Scored:
    """What judges that score say of a response: the ensemble's score in [0, 1], or of one reward model its own reward.

    Without a score from each judge that has a weight there is none: it would not compare with those of other responses.
    """
    item = Item((response,))
    deciding = [judge for judge in session.ensemble.scorers if judge.weight > 0]
    tallies = {tally.judge: tally for tally in session.tallies.of_response(item)}
    for judge in deciding:
        if tallies[judge.name].score is None:
            return Scored(None, why_silent(session, judge, [item]))
    if len(deciding) == 1 and isinstance(deciding[0], RewardJudge):
        return Scored(reward_of(list(session.journal.votes(item.id)[deciding[0].name].values())))
    return Scored(ensemble_score(list(tallies.values())))


def margins_of(session: Session) -> Margins:
    """What was said of each comparison of the session, by the judges of an ensemble that could speak: a margin that lacks one
    favours neither response, unlike a score that does."""
    known: dict[tuple[str, str], float] = {}
    unread: dict[str, str] = {}
    for verdict in Verdicts(session):
        first, second = verdict.responses
        reason = _why_unread(session, verdict)
        if reason is None and verdict.margin is not None:
            known[first.id, second.id] = verdict.margin
        elif reason is not None:
            unread.setdefault(first.id, reason)
            unread.setdefault(second.id, reason)
    return Margins(known, unread)


def _why_unread(session: Session, verdict: Verdict) -> str | None:
    """Why a verdict is no margin between two responses; None if it is one."""
    judges = {judge.name: judge for judge in session.ensemble.judges if judge.weight}
    for tally in verdict.judges:
        judge = judges.get(tally.judge)
        asked_twice = isinstance(judge, LLMJudge) and compares(judge) and judge.votes > 1
        if asked_twice and tally.margin is not None and tally.order_consistent is None:
            return f"{tally.judge}: a comparison {ONE_ORDER}"
    if verdict.margin is not None:
        return None
    items = [Item(verdict.responses), *(Item((response,)) for response in verdict.responses)]
    ranked = [Item(tuple(group)) for group in session.responses.groups() if group[0].prompt.id == verdict.prompt.id]
    comparing = next(judge for judge in judges.values() if compares(judge))
    return why_silent(session, comparing, [*items, *ranked])


def why_silent(session: Session, judge: Judge, items: Sequence[Item]) -> str:
    """Why a judge said nothing of any of these: it could not be asked, could not be read, or was not meant to."""
    prompts = {item.responses[0].prompt.id for item in items}
    names = {item.id for item in items} | {f"checklist of {prompt}" for prompt in prompts}
    for failure in session.failures:
        if failure["judge"] == judge.name and failure["comparison_id"] in names:
            return f"{judge.name}: {failure['reason']}: {failure['detail']}"
    for item in items:
        for vote in session.journal.votes(item.id).get(judge.name, {}).values():
            if vote.outcome is None:
                return f"{judge.name}: {vote.reason}"
    for row in session.skipped:
        if row.get("judge") == judge.name and row.get("prompt_id") in prompts:
            return f"{judge.name}: {row['reason']}"
    return f"{judge.name}: no vote"


def in_group(margins: Margins, group: Group, *, every: bool) -> dict[str, Scored]:
    """Of each text of a group: the mean margin in its favour over its comparisons, in [-1, 1].

    every: each response was compared with every other: the mean is over the other responses, equal texts among them, which
    tie. Else over the comparisons with other texts that were asked. A comparison that could not be read is left out; where
    all are, there is no value. Where all texts are equal everything ties.
    """
    if len(group.responses) == 1:
        return {group.responses[0].text: Scored(None, "a single response has nothing in its group to be compared with")}
    if len(group.distinct) == 1:
        return {group.responses[0].text: Scored(0.0)}
    return {response.text: _mean_margin(margins, group, response, every=every) for response in group.distinct}


def _mean_margin(margins: Margins, group: Group, response: Response, *, every: bool) -> Scored:
    found: list[float] = []
    for other in group.distinct:
        margin = margins.of(response, other)
        if margin is not None:
            found += [margin] * (group.copies[other.text] if every else 1)
    if not found:
        return Scored(None, margins.unread.get(response.id, "no comparison"))
    ties = group.copies[response.text] - 1 if every else 0
    return Scored(fmean([*found, *[0.0] * ties]))


def against(margins: Margins, responses: Iterable[Response], baseline: Response) -> dict[str, Scored]:
    """Of each text: the margin in its favour against the baseline answer, in [-1, 1]; 0 for the baseline's own text."""
    scored: dict[str, Scored] = {}
    for response in responses:
        if response.text == baseline.text:
            scored[response.text] = Scored(0.0)
        else:
            margin = margins.of(response, baseline)
            reason = margins.unread.get(response.id, "no comparison") if margin is None else None
            scored[response.text] = Scored(margin, reason)
    return scored
