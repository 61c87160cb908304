"""What a judge YAML file may say: an LLM judge (pairwise or pointwise), a program judge, or an ensemble of judges."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlaif import resources
from rlaif.config import Config, read_yaml, validate
from rlaif.engines import EngineConfig
from rlaif.errors import ConfigError, did_you_mean
from rlaif.judges.confidence import ConfidenceMap
from rlaif.judges.programs import Check
from rlaif.judges.reading import FORMATS, Format, FormatName, Mode, Offer
from rlaif.prompts import Template

SHARED_VARIABLES = {"prompt", "messages", "metadata", "labels", "fences"}
PAIRWISE_VARIABLES = SHARED_VARIABLES | {"response_a", "response_b", "scale"}
POINTWISE_VARIABLES = SHARED_VARIABLES | {"response", "scale"}

Aggregate = Literal["mean", "majority", "median", "weighted", "bradley-terry", "dawid-skene"]
StopRule = Literal["all", "cannot-lose", "posterior"]
Comparisons = Literal["all", "ring", "screened", "models"]


class LLMJudgeConfig(Config):
    """What the two kinds of LLM judge share."""

    name: str = ""
    """Shown in results; by default the name of the file."""
    description: str = ""
    """One sentence on what the judge looks at."""
    prompt: str
    """The Jinja template of the user turn: a file beside this one, or a shipped name of `prompts/`."""
    variants: tuple[str, ...] = ()
    """Further templates: votes beyond the first orders are asked with the next one, so that they say something new."""
    system: str | None = None
    """The system turn, as plain text; none by default."""
    fences: bool = True
    """Each text of the data (prompt, responses, metadata) stands between two lines that bear a hash of the text itself,
    which nothing inside can close. Templates know it as `fences`; `{{ response.raw }}` writes a text without its fence."""
    escape_control_tokens: bool = True
    r"""Control tokens of chat templates in the data are shown as text, `<|im_start|>` as `<\|im_start|>`, so that no response
    opens a turn of its own."""
    engine: EngineConfig | None = None
    """The model that judges; may be given on the command line instead."""
    reading: Literal["auto", "text"] = "auto"
    """auto: one constrained label with its log-probs where the engine and the format can, else the text; text: always the
    text."""
    format: FormatName = "label"
    """How the verdict is written in the text. label: [[A]], or the label as the whole answer, with the judge's own labels or
    scale; the others are those of known judges, with their labels."""
    mode: Mode = "strict"
    """strict: all verdicts in the format's anchored form must agree and be among those offered, else there is none;
    lenient: the last one counts, in other brackets, another case or plain words too."""
    repair: bool = False
    """Where no verdict can be read, ask once more in the same conversation, for the verdict alone."""
    temperature: float = Field(default=0.0, ge=0)
    """Of the judge's sampling; at 0 a judge repeats itself, so further votes are not asked."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)
    """For an answer read as text."""
    seed: int = 0

    @property
    def reader(self) -> Format:
        """The format that reads the verdict."""
        return FORMATS[self.format]

    @property
    def offer(self) -> Offer:
        """What the judge is asked to say."""
        raise NotImplementedError

    @property
    def constrained_choices(self) -> tuple[str, ...] | None:
        """The answers to which the engine should constrain the model; None where it writes a text."""
        single = self.reader.single
        return single(self.offer) if self.reading == "auto" and single is not None else None


class PairwiseConfig(LLMJudgeConfig):
    """A judge that is shown two responses, in both orders, and names the better one."""

    kind: Literal["pairwise"]
    labels: tuple[str, str] = ("A", "B")
    """What the first and the second shown response are called; a format other than label has its own."""
    tie: str | None = None
    """The label of a tie; without it a tie can not be voted. A format that has one offers it, unless this is null."""
    scale: tuple[int, int] | None = None
    """Worst and best rating, for the formats that rate both responses; by default the format's own."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_format(cls, data: Any) -> Any:
        """What the format fixes, where the file leaves it out."""
        form = _named_format(data)
        if form is None or form.labels is None:
            return data
        rated = {"scale": form.scale} if "ratings" in form.kinds else {}
        return {"labels": form.labels, "tie": form.tie, **rated, **data}

    @model_validator(mode="after")
    def _fits_the_format(self) -> "PairwiseConfig":
        _check_kind(self, "pairwise", "ratings")
        form = self.reader
        if form.labels is not None and self.labels != form.labels:
            raise ValueError(
                f"the format {self.format} calls the responses {' and '.join(form.labels)}, not "
                f"{' and '.join(self.labels)}; leave labels out, or use format: label"
            )
        if form.labels is not None and self.tie not in (None, form.tie):
            known = f"calls a tie {form.tie}" if form.tie else "has no label of a tie"
            raise ValueError(f"the format {self.format} {known}, so tie can not be {self.tie}; leave it out")
        if (self.scale is not None) != ("ratings" in form.kinds):
            needed = "needs a scale" if self.scale is None else "gives no ratings, so it has no scale; leave scale out"
            raise ValueError(f"the format {self.format} {needed}")
        if self.scale is not None:
            _check_scale(self.scale)
        return self

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

    @property
    def offer(self) -> Offer:
        return Offer(labels=self.labels, tie=self.tie, scale=self.scale, texts=2)


class PointwiseConfig(LLMJudgeConfig):
    """A judge that gives one response a score on a scale of whole numbers."""

    kind: Literal["pointwise"]
    scale: tuple[int, int] = (1, 5)
    """Worst and best score; by default the format's own."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_format(cls, data: Any) -> Any:
        """The format's scale, where the file leaves it out."""
        form = _named_format(data)
        return data if form is None or form.scale is None else {"scale": form.scale, **data}

    @model_validator(mode="after")
    def _fits_the_format(self) -> "PointwiseConfig":
        _check_kind(self, "pointwise")
        _check_scale(self.scale)
        return self

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(str(score) for score in range(self.scale[0], self.scale[1] + 1))

    @property
    def offer(self) -> Offer:
        return Offer(scale=self.scale, texts=1)


def _named_format(data: Any) -> Format | None:
    """The format that unchecked data names, if there is such a one."""
    name = data.get("format", "label") if isinstance(data, dict) else None
    return next((form for form in FORMATS.values() if form.name == name), None)


def _check_kind(config: LLMJudgeConfig, *kinds: str) -> None:
    """Raises ValueError, naming the formats that fit, if the format is of another kind of judge."""
    if not set(config.reader.kinds) & set(kinds):
        fitting = [form.name for form in FORMATS.values() if set(form.kinds) & set(kinds)]
        raise ValueError(f"format {config.format} is not for a {kinds[0]} judge; allowed: {', '.join(fitting)}")


def _check_scale(scale: tuple[int, int]) -> None:
    if scale[0] >= scale[1]:
        raise ValueError(f"scale must go from a lower to a higher score, not {scale[0]} to {scale[1]}")


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


def load_templates(config: PairwiseConfig | PointwiseConfig, path: Path) -> tuple[Template, ...]:
    """The judge's prompt and its variants, their variables checked against what its kind is shown."""
    return tuple(_load_template(config, name, path) for name in (config.prompt, *config.variants))


def _load_template(config: PairwiseConfig | PointwiseConfig, name: str, path: Path) -> Template:
    allowed = PAIRWISE_VARIABLES if isinstance(config, PairwiseConfig) else POINTWISE_VARIABLES
    template = Template.load(resources.find("prompts", name, path.parent), allowed)
    needed = {"response_a", "response_b"} if isinstance(config, PairwiseConfig) else {"response"}
    missing = sorted(needed - template.variables)
    if missing:
        raise ConfigError(
            f"{template.where}: does not show {', '.join(missing)}, so a {config.kind} judge can not use it"
        )
    return template
