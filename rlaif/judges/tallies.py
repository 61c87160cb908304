"""What each judge of an ensemble said of a response or a comparison, from the journal alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlaif.judges.aggregate import as_comparison, label_tally, mean_score, pairwise_tally, pointwise_tally, score_margin
from rlaif.judges.ensemble import Ensemble, Judge
from rlaif.judges.human import HumanJudge
from rlaif.judges.journal import Journal
from rlaif.judges.judge import Item, LLMJudge
from rlaif.judges.questions import Question, mean_over_questions, questions_of
from rlaif.judges.reward import REWARD, RewardJudge
from rlaif.judges.vote import Votes, planned_votes
from rlaif.types import JudgeTally, Judgment

Found = Mapping[str, Votes]
"""The counted votes on one item, by judge."""


@dataclass(frozen=True)
class Tallies:
    """The votes of an ensemble's judges, counted."""

    ensemble: Ensemble
    journal: Journal

    def of_response(self, item: Item) -> list[JudgeTally]:
        """Of the judges that score, on one response."""
        return self._scored((item,)) if self.ensemble.scorers else []

    def before_comparing(self, item: Item) -> list[JudgeTally]:
        """Of all that were asked before the judges that compare: those that score or rank, and people."""
        tallies = []
        if self.ensemble.scorers:
            tallies += self._scored(tuple(Item((response,)) for response in item.responses))
        if self.ensemble.rankers:
            found = self.journal.votes(Item(item.group).id)
            tallies += [self._ranked(judge, item, found) for judge in self.ensemble.rankers]
        people = [human for human in self.ensemble.humans if human.compares]
        if people:
            found = self.journal.votes(item.id)
            tallies += [self._labelled(human, item, found) for human in people]
        return tallies

    def of_comparison(self, item: Item) -> list[JudgeTally]:
        """Of all judges, on two responses."""
        tallies = self.before_comparing(item)
        found = self.journal.votes(item.id) if self.ensemble.pairwise else {}
        for judge in self.ensemble.pairwise:
            tally = self._compared(judge.name, judge.model, judge.weight, item, found)
            planned = planned_votes(judge, item, found.get(judge.name, {}))
            tallies.append(tally.model_copy(update={"planned": planned}))
        return tallies

    def _scored(self, singles: tuple[Item, ...]) -> list[JudgeTally]:
        found = [self.journal.votes(item.id) for item in singles]
        return [self._score(judge, singles, found) for judge in self.ensemble.scorers]

    def _score(self, judge: Judge, singles: Sequence[Item], found: Sequence[Found]) -> JudgeTally:
        votes = [each.get(judge.name, {}) for each in found]
        if isinstance(judge, RewardJudge):
            rewards = [reward_of(list(each.values())) for each in votes]
            scores = [None if reward is None else judge.score(reward) for reward in rewards]
            known = [reward for reward in rewards if reward is not None]
            margin = judge.margin(*known) if len(known) == 2 else None
            return pointwise_tally(judge.name, judge.model, judge.weight, _lists(votes), scores, margin)
        questions = [questions_of(judge, item) if isinstance(judge, LLMJudge) else () for item in singles]
        if any(questions):
            return self._score_of_questions(judge, votes, questions)
        scores = [mean_score(list(each.values())) for each in votes]
        return pointwise_tally(judge.name, judge.model, judge.weight, _lists(votes), scores, score_margin(scores))

    def _score_of_questions(
        self, judge: Judge, votes: Sequence[Votes], questions: Sequence[tuple[Question, ...]]
    ) -> JudgeTally:
        by_question = [question_scores(each, asked) for each, asked in zip(votes, questions, strict=True)]
        scores = [mean_over_questions(asked, found) for asked, found in zip(questions, by_question, strict=True)]
        names = [question.name for question in questions[0]]
        table = {name: tuple(found[place] for found in by_question) for place, name in enumerate(names)}
        return pointwise_tally(
            judge.name, judge.model, judge.weight, _lists(votes), scores, score_margin(scores), table
        )

    def _ranked(self, judge: LLMJudge, item: Item, found: Found) -> JudgeTally:
        first, second = (response.id for response in item.responses)
        votes = {vote: as_comparison(each, first, second) for vote, each in found.get(judge.name, {}).items()}
        return self._compared(judge.name, judge.model, judge.weight, item, {judge.name: votes})

    def _labelled(self, human: HumanJudge, item: Item, found: Found) -> JudgeTally:
        first, second = item.responses
        votes = list(found.get(human.name, {}).values())
        return label_tally(human.name, human.model, human.weight, votes, first.id, second.id)

    def _compared(self, name: str, model: str, weight: float, item: Item, found: Found) -> JudgeTally:
        first, second = item.responses
        votes = found.get(name, {})
        ordered = [votes[place] for place in sorted(votes)]
        return pairwise_tally(name, model, weight, ordered, first.id, second.id)


def question_scores(votes: Votes, questions: Sequence[Question]) -> list[float | None]:
    """The mean score of each question over its votes."""
    by_question: list[list[Judgment]] = [[] for _ in questions]
    for vote, judgment in votes.items():
        by_question[vote % len(questions)].append(judgment)
    return [mean_score(judgments) for judgments in by_question]


def reward_of(votes: Sequence[Judgment]) -> float | None:
    """A reward model's own number, if it gave one."""
    return next((vote.parts[REWARD] for vote in votes if vote.parts is not None), None)


def _lists(votes: Sequence[Votes]) -> list[list[Judgment]]:
    return [list(each.values()) for each in votes]
