"""The verdicts of a session, derived from its journal without asking anything."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlaif.judges.aggregate import ensemble_margin, ensemble_score, outcome_of_margin
from rlaif.judges.bradley_terry import fit_strengths
from rlaif.judges.judge import Item
from rlaif.judges.session import Session
from rlaif.types import JudgeTally, Score, Verdict, content_hash


@dataclass(frozen=True)
class Verdicts:
    """Of all that a session asked about, one by one."""

    session: Session

    def __iter__(self) -> Iterator[Verdict]:
        """In the order of the responses."""
        if self.session.ensemble.comparisons is None:
            for item in self.session.singles():
                yield self._told(self._response_verdict(item))
            return
        for _, items, _ in self.session.compared():
            tallies = [self.session.tallies.of_comparison(item) for item in items]
            for item, found, margin in zip(items, tallies, self._margins(items, tallies), strict=True):
                first, second = item.responses
                outcome = outcome_of_margin(margin, first.id, second.id)
                yield self._told(self._verdict(item, found, margin, outcome))

    def _margins(self, items: Sequence[Item], tallies: Sequence[list[JudgeTally]]) -> list[float | None]:
        """Of the comparisons of one prompt."""
        margins = [ensemble_margin(found, self.session.ensemble.aggregate) for found in tallies]
        if self.session.ensemble.aggregate != "bradley-terry":
            return margins
        place: dict[str, int] = {}
        for item in items:
            for response in item.responses:
                place.setdefault(response.id, len(place))
        pairs = [tuple(place[response.id] for response in item.responses) for item in items]
        known = [(i, j, margin) for (i, j), margin in zip(pairs, margins, strict=True) if margin is not None]
        if not known:
            return margins
        fitted = fit_strengths(len(place), known).margins
        return [None if margin is None else float(fitted[i, j]) for (i, j), margin in zip(pairs, margins, strict=True)]

    def _response_verdict(self, item: Item) -> Verdict:
        tallies = self.session.tallies.of_response(item)
        score = ensemble_score(tallies)
        return self._verdict(item, tallies, None, Score(score=score) if score is not None else None)

    def _verdict(self, item: Item, tallies: list[JudgeTally], margin: float | None, outcome: object) -> Verdict:
        calibration = self.session.ensemble.calibration
        return Verdict.model_validate(
            {
                "id": content_hash(item.id, self.session.ensemble.name, [tally.judgments for tally in tallies]),
                "responses": item.responses,
                "outcome": outcome,
                "margin": margin,
                "confidence": calibration.confidence(margin) if calibration and margin else None,
                "ensemble": self.session.ensemble.name,
                "votes_planned": sum(tally.asked if tally.planned is None else tally.planned for tally in tallies),
                "votes_asked": sum(tally.asked for tally in tallies),
                "votes_counted": sum(tally.counted for tally in tallies),
                "votes_unparsed": sum(tally.unparsed for tally in tallies),
                "stopping_rule": str(self.session.ensemble.stopping),
                "gates": self.session.ensemble.stopping.gates
                if self.session.ensemble.stopping.rule == "cannot-lose"
                else (),
                "judges": tuple(tallies),
            }
        )

    def _told(self, verdict: Verdict) -> Verdict:
        for tally in verdict.judges:
            self.session.stats[tally.judge].count_tally(tally, verdict)
        return verdict
