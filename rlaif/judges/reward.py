"""A reward model as a judge: the reward of a response, from its scalar head, is a score."""

import math
from dataclasses import dataclass

from rlaif.engines import CHANGES_ANSWERS, EngineConfig
from rlaif.engines.base import ScoreCompletion, ScoreRequest
from rlaif.judges.config import RewardModelConfig
from rlaif.judges.judge import Item
from rlaif.types import Judgment, Score, content_hash

REWARD = "reward"
"""The key of the model's own reward in a judgment's parts."""


@dataclass(frozen=True)
class RewardJudge:
    """A reward model with the scale of its rewards."""

    name: str
    config: RewardModelConfig
    engine: EngineConfig
    weight: float
    cost: float = 1.0
    source: str = ""
    """The judge's file, or its shipped name."""

    @property
    def model(self) -> str:
        return self.engine.model

    def score(self, reward: float) -> float:
        """In [0, 1]: sigmoid((reward - offset) / spread)."""
        return (1 + math.tanh((reward - self.config.offset) / (2 * self.config.spread))) / 2

    def margin(self, first: float, second: float) -> float:
        """Of two rewards, in [-1, 1]: 2p - 1 with p = sigmoid(difference / spread) (Bradley & Terry 1952)."""
        return math.tanh((first - second) / (2 * self.config.spread))


def score_request(judge: RewardJudge, item: Item) -> ScoreRequest:
    """The conversation to score; its key is the judgment's id."""
    (response,) = item.responses
    messages = (*response.prompt.messages, *response.messages)
    key = content_hash(
        item.id,
        judge.name,
        [message.as_dict() for message in messages],
        judge.engine.model_dump(mode="json", include=CHANGES_ANSWERS),
        (judge.config.offset, judge.config.spread),
        length=24,
    )
    return ScoreRequest(key=key, messages=messages)


def reward_judgment(judge: RewardJudge, item: Item, completion: ScoreCompletion) -> Judgment:
    """The reward as a judgment; the model's own number stands in its parts."""
    assert completion.reward is not None, "failures are no judgments"
    return Judgment(
        id=completion.key,
        comparison_id=item.id,
        judge=judge.name,
        model=judge.engine.model,
        template_hash=content_hash(judge.config.offset, judge.config.spread),
        vote=0,
        shown=(item.responses[0].id,),
        raw=repr(completion.reward),
        outcome=Score(score=judge.score(completion.reward)),
        parts={REWARD: completion.reward},
        latency_seconds=completion.latency_seconds,
        prompt_tokens=completion.prompt_tokens,
    )
