"""Methods that learn from pairs of a chosen and a rejected answer."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rlaif.config import Config
from rlaif.training.config.base import DataKind, ReferenceConfig, TrainConfig
from rlaif.training.config.terms import (
    BY_MEANS,
    CONFIDENT,
    COUPLED,
    NEEDS_SMOOTHING,
    OF_THE_MARGIN,
    SMOOTHED,
    WITH_DIVERGENCE,
    PlainTerm,
    Terms,
)


class ReferenceSync(Config):
    """TR-DPO (arXiv 2404.09656): the reference follows the policy."""

    every: int = Field(default=512, ge=1)
    """Steps between updates."""
    mixup: float = Field(default=0.6, gt=0, le=1)
    """Share of the policy in the new reference."""


class DpoConfig(ReferenceConfig):
    """Direct Preference Optimization and its relatives."""

    method: Literal["dpo"] = "dpo"
    """Direct Preference Optimization (arXiv 2305.18290)."""
    loss: Terms = (PlainTerm(name="sigmoid"),)
    """One loss or a weighted list: names, or mappings with name, weight and the loss's own numbers."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference: larger stays closer."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The probability that a preference is the wrong way round (conservative and robust DPO); 0 trusts every pair."""
    use_confidence: bool = False
    """Take each pair's own probability of being the wrong way round from its calibrated confidence."""
    divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """The divergence that holds the policy to the reference (f-DPO, arXiv 2309.16240); reverse_kl is DPO."""
    divergence_alpha: float = Field(default=0.5, gt=0, lt=1)
    """The alpha of alpha_divergence."""
    weighting: Literal["none", "wpo"] = "none"
    """wpo: weigh each pair by how likely the policy is to write it (arXiv 2406.11827)."""
    ld_alpha: float | None = Field(default=None, ge=0, le=1)
    """Weight of the tokens beyond the shorter answer's length (LD-DPO, arXiv 2409.06411); null: all count alike."""
    reference_sync: ReferenceSync | None = None
    """Let the reference follow the policy (TR-DPO); null: it stays."""

    data_kind: ClassVar[DataKind] = "pairs"
    learning_rates: ClassVar[tuple[float, float]] = (1e-5, 1e-6)

    @model_validator(mode="after")
    def _possible_losses(self) -> "DpoConfig":
        names: set[str] = {term.name for term in self.loss}
        for name, usual in NEEDS_SMOOTHING.items():
            if name in names and not self.label_smoothing and not (self.use_confidence and name in CONFIDENT):
                raise ValueError(f"loss {name} needs label_smoothing above 0 (usual: {usual:g})")
        if self.label_smoothing and not names & SMOOTHED:
            raise ValueError(
                f"label_smoothing: no loss of the list uses it ({', '.join(sorted(names))}); leave it out, or add one "
                f"of {', '.join(sorted(SMOOTHED))}"
            )
        if self.use_confidence and self.label_smoothing:
            raise ValueError("use_confidence replaces label_smoothing by each pair's own; leave label_smoothing out")
        if self.use_confidence and not names & CONFIDENT:
            raise ValueError(f"use_confidence works with the losses {', '.join(sorted(CONFIDENT))}; add one of them")
        self._possible_transforms(names)
        return self

    def _possible_transforms(self, names: set[str]) -> None:
        unfit = {
            "divergence": names - WITH_DIVERGENCE if self.divergence != "reverse_kl" else set(),
            "ld_alpha": names & (BY_MEANS | COUPLED | {"rdpo"}) if self.ld_alpha is not None else set(),
        }
        for key, wrong in unfit.items():
            if wrong:
                raise ValueError(f"{key} is not defined for the loss {', '.join(sorted(wrong))}; use another loss")
        if self.weighting == "wpo" and names & COUPLED:
            raise ValueError(
                "weighting: wpo is not defined for aot, which compares sorted pairs; leave one of them out"
            )
        if self.reference_sync is not None and self.quantize != "none":
            raise ValueError(
                "reference_sync is impossible with quantize: weights of few bits can not follow; leave one of them out"
            )
        if self.reference == "none":
            wrong = names - OF_THE_MARGIN
            if wrong or self.divergence != "reverse_kl":
                what = f"loss {', '.join(sorted(wrong))}" if wrong else f"divergence {self.divergence}"
                raise ValueError(f"reference: none is impossible with {what}, which compares each answer with it")
            if self.reference_sync is not None:
                raise ValueError("reference: none leaves nothing to sync; leave reference_sync out")
        elif names == {"sft"}:
            raise ValueError("loss: sft alone uses no pairs; use 'rlaif train sft'")

    def _live_because(self) -> str | None:
        if self.reference_sync is not None:
            return "reference_sync changes the reference while training"
        return self.live_because

    @property
    def reference_kind(self) -> Literal["none", "adapter-off", "cached", "copy"]:
        if self.reference_sync is not None and self.reference in ("auto", "adapter-off"):
            return "copy"
        return super().reference_kind


class StepDpoConfig(DpoConfig):
    """Step-DPO."""

    method: Literal["step-dpo"] = "step-dpo"  # type: ignore[assignment]
    """Step-DPO (arXiv 2406.18629): chosen and rejected are one next reasoning step after the same correct ones."""
    beta: float = Field(default=0.4, gt=0)
    """How strongly the policy is held to the reference: larger stays closer."""

    data_kind: ClassVar[DataKind] = "steps"
    learning_rates: ClassVar[tuple[float, float]] = (5e-6, 5e-7)


class SpinConfig(DpoConfig):
    """SPIN."""

    method: Literal["spin"] = "spin"  # type: ignore[assignment]
    """SPIN (arXiv 2401.01335): the data's answer is preferred to one the policy writes as training starts."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the policy's own answers."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus of the policy's own answers."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Most tokens of an own answer."""

    data_kind: ClassVar[DataKind] = "answers"
    learning_rates: ClassVar[tuple[float, float]] = (5e-6, 5e-7)


class TdpoConfig(ReferenceConfig):
    """Token-level DPO."""

    method: Literal["tdpo"] = "tdpo"
    """Token-level DPO (arXiv 2404.11999)."""
    version: Literal[1, 2] = 2
    """Which of the paper's two losses."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference: larger stays closer."""
    alpha: float = Field(default=0.5, ge=0)
    """Weight of the difference of the divergences (version 2)."""

    data_kind: ClassVar[DataKind] = "pairs"
    learning_rates: ClassVar[tuple[float, float]] = (5e-5, 5e-6)
    live_because: ClassVar[str | None] = "tdpo needs the reference's whole distribution at every token"

    @model_validator(mode="after")
    def _has_reference(self) -> "TdpoConfig":
        if self.reference == "none":
            raise ValueError("reference: none is impossible: tdpo measures the divergence from it")
        return self


class RainbowConfig(ReferenceConfig):
    """RainbowPO."""

    method: Literal["rainbowpo"] = "rainbowpo"
    """RainbowPO (arXiv 2410.04203)."""
    beta: float = Field(default=10.0, gt=0)
    """Scale of the margin of mean log-probs."""
    alpha: float = Field(default=0.25, ge=0, le=1)
    """How much of the reference's margin is taken off; the rest is the home advantage."""
    home_advantage: float = Field(default=0.1, ge=0)
    """The margin that stands in for the reference's."""

    data_kind: ClassVar[DataKind] = "pairs"
    learning_rates: ClassVar[tuple[float, float]] = (1e-5, 1e-6)

    @model_validator(mode="after")
    def _has_reference(self) -> "RainbowConfig":
        if self.reference == "none":
            raise ValueError("reference: none: set alpha to 0 instead, which leaves the reference out")
        return self

    @property
    def reference_kind(self) -> Literal["none", "adapter-off", "cached", "copy"]:
        return "none" if self.alpha == 0 else super().reference_kind


class _WithoutReference(TrainConfig):
    """Pairs, and no reference."""

    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of the negative log-likelihood of the chosen answer, per token."""

    data_kind: ClassVar[DataKind] = "pairs"


class SimpoConfig(_WithoutReference):
    """SimPO."""

    method: Literal["simpo"] = "simpo"
    """Simple Preference Optimization (arXiv 2405.14734)."""
    beta: float = Field(default=2.0, gt=0)
    """Scale of the margin of mean log-probs."""
    gamma_beta_ratio: float = Field(default=0.25, ge=0)
    """The target margin, as a share of beta."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The probability that a preference is the wrong way round."""

    learning_rates: ClassVar[tuple[float, float]] = (8e-6, 8e-7)


class AlphapoConfig(_WithoutReference):
    """AlphaPO."""

    method: Literal["alphapo"] = "alphapo"
    """AlphaPO (arXiv 2501.03884): SimPO with a reward of another shape."""
    beta: float = Field(default=2.5, gt=0)
    """Scale of the margin."""
    gamma_beta_ratio: float = Field(default=0.04, ge=0)
    """The target margin, as a share of beta."""
    alpha: float = 0.25
    """Shape of the reward (1 - p^-alpha) / alpha; towards 0 it is SimPO's log p."""

    learning_rates: ClassVar[tuple[float, float]] = (7e-6, 7e-7)


class CpoConfig(_WithoutReference):
    """CPO."""

    method: Literal["cpo"] = "cpo"
    """Contrastive Preference Optimization (arXiv 2401.08417)."""
    loss: Literal["sigmoid", "hinge"] = "sigmoid"
    """sigmoid is the paper's."""
    beta: float = Field(default=0.1, gt=0)
    """Scale of the margin of summed log-probs."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The probability that a preference is the wrong way round (sigmoid)."""
    sft_weight: float = Field(default=1.0, ge=0)
    """Weight of the negative log-likelihood of the chosen answer, per token."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-5, 1e-6)

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> "CpoConfig":
        if self.loss == "hinge" and self.label_smoothing:
            raise ValueError("label_smoothing: hinge does not use it; leave it out, or use loss: sigmoid")
        return self


class OrpoConfig(TrainConfig):
    """ORPO."""

    method: Literal["orpo"] = "orpo"
    """Odds Ratio Preference Optimization (arXiv 2403.07691): SFT on the chosen answer and its odds in one loss."""
    beta: float = Field(default=0.1, gt=0)
    """Weight of the odds ratio (the paper's lambda)."""

    data_kind: ClassVar[DataKind] = "pairs"
    learning_rates: ClassVar[tuple[float, float]] = (8e-5, 8e-6)
