"""What a run may say of its rewards: one judge of any kind a source. Importing this loads no torch."""

from typing import Any, Literal

from pydantic import Field, model_validator

from rlaif.config import Config
from rlaif.engines import EngineConfig

SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$"
"""Names of sources are names of folders, too."""
POLICY = "policy"
"""As the model of a judge, without an endpoint: the policy itself, with its weights as they are at that moment."""
GroupComparisons = Literal["ring", "all", "baseline"]


def is_policy(engine: EngineConfig) -> bool:
    """Whether the model of a judge is the policy that is trained, and not one that an endpoint serves under this name."""
    return engine.model == POLICY and not engine.base_url


class RewardSourceConfig(Config):
    """One source of rewards. The name or path of a judge alone is short for {judge: ...}."""

    judge: str
    """A judge or ensemble of any kind: a shipped name ('rlaif ls judges' lists them) or a path."""
    weight: float = 1.0
    """How much of the reward it is. Below 0 it is a penalty: what the judge scores high is rewarded less. 0 is refused: leave
    the source out instead."""
    name: str | None = Field(default=None, pattern=SAFE_NAME)
    """How metrics and its folder of judgments are called; by default as the judge. Letters, digits, and _ . @ -"""
    votes: int | None = Field(default=None, ge=1)
    """Votes on each response or comparison; by default 1 of judges that score and 2 (one in each order) of those that
    compare."""
    model: str | None = None
    """The model that judges, instead of the one in the judge's file; policy: the policy itself, as it learns."""
    engine: EngineConfig | None = None
    """The same with its settings: {model: ..., base_url: ...}."""
    comparisons: GroupComparisons | None = None
    """For judges that compare: which of a prompt's G responses are. ring (the default): each with the next, G comparisons; all:
    each with every other, G (G - 1) / 2, a finer reward; baseline: each with a fixed answer, G. Of a judge that ranks, ring is
    as all: one ranking holds every comparison."""
    baseline: str | None = None
    """For comparisons: baseline, where the fixed answer of each prompt is: a file of responses as 'rlaif generate' writes it (a
    path that ends in .jsonl; of several responses to a prompt the first), or else the key of the prompts' metadata that
    holds its text."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"judge": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _possible(self) -> "RewardSourceConfig":
        if self.weight == 0:
            raise ValueError(
                f"the weight of the judge '{self.judge}' is 0, so it would be asked for nothing; leave it out, or give it "
                "a weight"
            )
        if self.model is not None and self.engine is not None:
            raise ValueError("model and engine both name the model that judges; leave one out")
        if self.comparisons == "baseline" and self.baseline is None:
            raise ValueError(
                "comparisons: baseline needs baseline: a file of responses (.jsonl), or the key of the prompts' metadata "
                "that holds the answer to compare with"
            )
        if self.comparisons != "baseline" and self.baseline is not None:
            raise ValueError("baseline belongs to comparisons: baseline; add that, or leave baseline out")
        return self

    @property
    def judge_model(self) -> EngineConfig | None:
        """The model that judges instead of the one in the judge's file, if one is given."""
        return EngineConfig(model=self.model) if self.model is not None else self.engine
