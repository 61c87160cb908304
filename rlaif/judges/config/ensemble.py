"""Several judges, and how what they say becomes one verdict."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rlaif.config import Config
from rlaif.engines import EngineConfig
from rlaif.judges.confidence import ConfidenceMap

Aggregate = Literal["mean", "majority", "median", "weighted", "bradley-terry", "dawid-skene"]
StopRule = Literal["all", "cannot-lose", "posterior"]
Comparisons = Literal["all", "ring", "screened", "models"]


class Member(Config):
    """One judge of an ensemble."""

    judge: str
    """A shipped name or a path (also beside the ensemble's file)."""
    name: str | None = None
    """Shown in results; needed when one judge is in the ensemble twice, with two models."""
    weight: float = 1.0
    """Its say; 0 shows the judge beside the others without a say. Below 0 only with `negative_weights`."""
    cost: float = Field(default=1.0, ge=0)
    """The price of one vote, in any unit: cheaper judges are asked first, dearer ones only while nothing is decided."""
    engine: EngineConfig | None = None
    """The model that judges, instead of the one in the judge's own file."""
    votes: int | None = Field(default=None, ge=1)
    """Votes per comparison, instead of the ensemble's."""


class EnsembleConfig(Config):
    """Several judges and how their margins become one verdict."""

    kind: Literal["ensemble"]
    name: str = ""
    """Shown in results; by default the name of the file."""
    description: str = ""
    """One sentence on what the panel is for."""
    members: tuple[Member, ...] = Field(min_length=1)
    """The judges."""
    aggregate: Aggregate = "mean"
    """mean: the weighted mean of the judges' margins; median: their weighted median; majority: one judge, one vote;
    weighted: votes by weight; bradley-terry: strengths fitted to all comparisons of a prompt, with ties; dawid-skene: the
    weights are each judge's log-odds of being right, which only gold labels can tell."""
    stop: StopRule | None = None
    """cannot-lose (default): no vote is asked that can change neither the outcome nor on which side of a gate it lies;
    posterior: stop once a side leads with `stop_probability`; all: every vote (the default of bradley-terry)."""
    stop_probability: float = Field(default=0.95, gt=0.5, lt=1)
    """For `stop: posterior`."""
    negative_weights: bool = False
    """Allow weights below 0: the judge's votes are turned round. For judges that gold labels show to be reliably wrong."""
    calibration: ConfidenceMap | None = None
    """From a margin to the probability of being right, as fitted on gold labels by rlaif calibrate."""
    comparisons: Comparisons | None = None
    """Which pairs of a prompt's responses are compared, unless the command says."""

    @model_validator(mode="after")
    def _some_weight(self) -> "EnsembleConfig":
        weights = [member.weight for member in self.members]
        if not any(weights):
            raise ValueError("all weights are 0, so nobody decides; give at least one member a weight above 0")
        if min(weights) < 0 and not self.negative_weights:
            raise ValueError(
                f"the weight {min(weights):g} is below 0, which turns a judge's votes round; use 0 to leave it without a say, "
                "or set negative_weights: true if gold labels show that it is reliably wrong"
            )
        names = [member.name or Path(member.judge).stem for member in self.members]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"two members are called '{doubled[0]}'; give one of them another name")
        return self

    @model_validator(mode="after")
    def _anchored(self) -> "EnsembleConfig":
        unweighted = [member.name or member.judge for member in self.members if "weight" not in member.model_fields_set]
        if self.aggregate == "dawid-skene" and unweighted:
            raise ValueError(
                f"dawid-skene needs each judge's log-odds of being right, measured on gold labels, as its weight; "
                f"{', '.join(unweighted)} has none. Without gold labels it can follow judges that are wrong together: use "
                "mean or majority"
            )
        return self

    @model_validator(mode="after")
    def _possible_stop(self) -> "EnsembleConfig":
        if self.aggregate == "bradley-terry" and self.stop not in (None, "all"):
            raise ValueError(
                f"stop: {self.stop} looks at one comparison, and bradley-terry fits all of a prompt together; use stop: all"
            )
        return self

    @property
    def stop_rule(self) -> StopRule:
        """The rule, with the default filled in."""
        return self.stop or ("all" if self.aggregate == "bradley-terry" else "cannot-lose")
