"""Methods that learn answers (SFT), or to score them (reward models)."""

from typing import ClassVar, Literal

from pydantic import Field

from rlaif.training.config.base import DataKind, TrainConfig


class SftConfig(TrainConfig):
    """SFT."""

    method: Literal["sft"] = "sft"
    """Supervised fine-tuning on answers."""
    learn: Literal["answer", "all-turns"] = "answer"
    """What is learnt of a conversation: its last answer, or all assistant turns."""

    learning_rates: ClassVar[tuple[float, float]] = (2e-4, 2e-5)

    @property
    def data_kind(self) -> DataKind:  # type: ignore[override]
        return "answers" if self.learn == "answer" else "conversations"


class RewardConfig(TrainConfig):
    """A reward model."""

    method: Literal["rm"] = "rm"
    """A reward model of the Bradley-Terry kind: a score for every answer."""
    use_margin: bool = False
    """The chosen answer must score higher by the pair's margin (Llama 2, arXiv 2307.09288, equation 2)."""
    centering: float = Field(default=0.01, ge=0)
    """Pulls the scores of a pair towards a mean of zero (arXiv 2312.09244)."""

    data_kind: ClassVar[DataKind] = "pairs"
    learning_rates: ClassVar[tuple[float, float]] = (1e-4, 1e-5)
