"""Judges that are no language models: programs, reward models, people."""

from typing import Literal

from pydantic import Field, model_validator

from rlaif.config import Config
from rlaif.engines import EngineConfig
from rlaif.judges.programs import Check


class ProgramConfig(Config):
    """A judge that is a program: what can be verified, no model should judge."""

    kind: Literal["program"]
    name: str = ""
    """Shown in results; by default the name of the file."""
    description: str = ""
    """One sentence on what is checked."""
    checks: tuple[Check, ...] = Field(min_length=1)
    """What a response must satisfy."""
    score: Literal["all", "mean"] = "all"
    """all: 1 if every check passes, else 0; mean: the share of checks that pass."""


class RewardModelConfig(Config):
    """A judge that is a model with a scalar head: its reward of one response, normalised, is the score."""

    kind: Literal["reward-model"]
    name: str = ""
    """Shown in results; by default the name of the file."""
    description: str = ""
    """One sentence on what the model rewards."""
    engine: EngineConfig | None = None
    """The reward model; may be given on the command line instead."""
    offset: float = 0.0
    """The reward that is a score of one half: the score is sigmoid((reward - offset) / spread)."""
    spread: float = Field(default=1.0, gt=0)
    """Between two responses the margin is 2p - 1 with p = sigmoid(difference of rewards / spread), as Bradley and Terry have
    it; 1 for a model trained by their loss."""


class HumanConfig(Config):
    """A judge that is people: their labels, from a file, are votes."""

    kind: Literal["human"]
    name: str = ""
    """Shown in results; by default the name of the file."""
    description: str = ""
    """One sentence on who labelled what."""
    labels: str
    """A JSONL file beside this one, or its path. A row names two responses and the better one: {"response_ids": [a, b],
    "preferred": a, b or "tie"}; or one response and its score: {"response_id": a, "score": 4}. Further keys, such as
    annotator, are kept. Several rows on the same responses are several votes."""
    scale: tuple[float, float] = (1, 5)
    """Worst and best score, where the rows have scores."""

    @model_validator(mode="after")
    def _ordered(self) -> "HumanConfig":
        if self.scale[0] >= self.scale[1]:
            raise ValueError(
                f"scale must go from a lower to a higher score, not {self.scale[0]:g} to {self.scale[1]:g}"
            )
        return self
