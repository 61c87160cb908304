"""What a judge YAML file may say: an LLM judge (pairwise or pointwise), a program judge, or an ensemble of judges."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlaif import resources
from rlaif.config import Config, read_yaml, validate
from rlaif.engines import EngineConfig
from rlaif.errors import ConfigError, did_you_mean
from rlaif.judges.programs import Check
from rlaif.prompts import Template

SHARED_VARIABLES = {"prompt", "messages", "metadata", "labels"}
PAIRWISE_VARIABLES = SHARED_VARIABLES | {"response_a", "response_b"}
POINTWISE_VARIABLES = SHARED_VARIABLES | {"response", "scale"}

Aggregate = Literal["mean", "majority"]
Comparisons = Literal["all", "ring", "screened", "models"]


class LLMJudgeConfig(Config):
    """What the two kinds of LLM judge share."""

    name: str = ""
    """Shown in results; by default the name of the file."""
    description: str = ""
    """One sentence on what the judge looks at."""
    prompt: str
    """The Jinja template of the user turn: a file beside this one, or a shipped name of `prompts/`."""
    system: str | None = None
    """The system turn, as plain text; none by default."""
    engine: EngineConfig | None = None
    """The model that judges; may be given on the command line instead."""
    reading: Literal["auto", "text"] = "auto"
    """auto: one constrained label with its log-probs where the engine can, else the text; text: always the text."""
    temperature: float = Field(default=0.0, ge=0)
    """Of the judge's sampling; at 0 a judge repeats itself, so further votes are not asked."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)
    """For an answer read as text."""
    seed: int = 0


class PairwiseConfig(LLMJudgeConfig):
    """A judge that is shown two responses, in both orders, and names the better one."""

    kind: Literal["pairwise"]
    labels: tuple[str, str] = ("A", "B")
    """What the first and the second shown response are called."""
    tie: str | None = None
    """The label of a tie; without it a tie can not be voted."""

    @model_validator(mode="after")
    def _distinct_labels(self) -> "PairwiseConfig":
        if len(set(self.choices)) < len(self.choices) or not all(
            0 < len(label.strip()) <= 20 for label in self.choices
        ):
            raise ValueError(
                f"labels and tie must be different texts of 1 to 20 characters, not {', '.join(self.choices)}"
            )
        return self

    @property
    def choices(self) -> tuple[str, ...]:
        return self.labels if self.tie is None else (*self.labels, self.tie)


class PointwiseConfig(LLMJudgeConfig):
    """A judge that gives one response a score on a scale of whole numbers."""

    kind: Literal["pointwise"]
    scale: tuple[int, int] = (1, 5)
    """Worst and best score."""

    @model_validator(mode="after")
    def _ascending(self) -> "PointwiseConfig":
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale must go from a lower to a higher score, not {self.scale[0]} to {self.scale[1]}")
        return self

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(str(score) for score in range(self.scale[0], self.scale[1] + 1))


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


class Member(Config):
    """One judge of an ensemble."""

    judge: str
    """A shipped name or a path (also beside the ensemble's file)."""
    name: str | None = None
    """Shown in results; needed when one judge is in the ensemble twice, with two models."""
    weight: float = Field(default=1.0, ge=0)
    """Its say; 0 shows the judge beside the others without a say."""
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
    """mean: the weighted mean of the judges' margins; majority: of their signs."""
    comparisons: Comparisons | None = None
    """Which pairs of a prompt's responses are compared, unless the command says."""

    @model_validator(mode="after")
    def _some_weight(self) -> "EnsembleConfig":
        if not any(member.weight for member in self.members):
            raise ValueError("all weights are 0, so nobody decides; give at least one member a weight above 0")
        names = [member.name or Path(member.judge).stem for member in self.members]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"two members are called '{doubled[0]}'; give one of them another name")
        return self


JudgeConfig = Annotated[PairwiseConfig | PointwiseConfig | ProgramConfig, Field(discriminator="kind")]
KINDS: dict[str, type[PairwiseConfig | PointwiseConfig | ProgramConfig | EnsembleConfig]] = {
    "pairwise": PairwiseConfig,
    "pointwise": PointwiseConfig,
    "program": ProgramConfig,
    "ensemble": EnsembleConfig,
}


def load_judge_file(name: str, beside: Path | None = None) -> tuple[Any, Path]:
    """The configuration in a judge file (one of KINDS), found by shipped name or path, and the file.

    Raises ConfigError for anything wrong in it.
    """
    path = resources.find("judges", name, beside)
    data = read_yaml(path)
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        found = f"unknown kind '{kind}'{did_you_mean(str(kind), KINDS)}" if kind is not None else "missing key 'kind'"
        raise ConfigError(f"{path}: {found}; allowed: {', '.join(KINDS)}")
    config = validate({"name": path.stem, **data}, KINDS[kind], str(path))
    return config, path


def load_template(config: PairwiseConfig | PointwiseConfig, path: Path) -> Template:
    """The judge's prompt template, its variables checked against what its kind is shown."""
    allowed = PAIRWISE_VARIABLES if isinstance(config, PairwiseConfig) else POINTWISE_VARIABLES
    template = Template.load(resources.find("prompts", config.prompt, path.parent), allowed)
    needed = {"response_a", "response_b"} if isinstance(config, PairwiseConfig) else {"response"}
    missing = sorted(needed - template.variables)
    if missing:
        raise ConfigError(
            f"{template.where}: does not show {', '.join(missing)}, so a {config.kind} judge can not use it"
        )
    return template
