"""Methods that learn from answers that are each labelled desirable or undesirable."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rlaif.training.config.base import DataKind, ReferenceConfig


class _Unpaired(ReferenceConfig):
    """Labelled answers and a reference."""

    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference: larger stays closer."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the desirable answers."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the undesirable answers."""

    data_kind: ClassVar[DataKind] = "labels"
    learning_rates: ClassVar[tuple[float, float]] = (1e-5, 1e-6)

    @model_validator(mode="after")
    def _has_reference(self) -> "_Unpaired":
        if self.reference == "none":
            raise ValueError(f"reference: none is impossible: {self.method} compares each answer with the reference")
        return self


class KtoConfig(_Unpaired):
    """KTO."""

    method: Literal["kto"] = "kto"
    """Kahneman-Tversky Optimization (arXiv 2402.01306)."""
    use_confidence: bool = False
    """Weigh each answer by 1 - 2 times its probability of being labelled wrongly, from its calibrated confidence."""

    live_because: ClassVar[str | None] = "kto pairs each prompt with another row's answer, anew in every step"


class BcoConfig(_Unpaired):
    """BCO."""

    method: Literal["bco"] = "bco"
    """Binary Classifier Optimization (arXiv 2404.04656)."""

    learning_rates: ClassVar[tuple[float, float]] = (5e-6, 5e-7)


class ApoUnpairedConfig(_Unpaired):
    """APO-zero, unpaired."""

    method: Literal["apo-unpaired"] = "apo-unpaired"
    """Anchored Preference Optimization of single answers (APO-zero, arXiv 2408.06266)."""

    learning_rates: ClassVar[tuple[float, float]] = (2e-6, 2e-7)
