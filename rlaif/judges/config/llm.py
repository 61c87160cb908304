"""Judges that are language models: what they are shown, how they answer, and how the answer is read."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from rlaif.config import Config
from rlaif.engines import EngineConfig
from rlaif.judges.reading import FORMATS, Format, FormatName, Mode, Offer

SHARED_VARIABLES = frozenset({"prompt", "messages", "metadata", "labels", "fences"})
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class LLMJudgeConfig(Config):
    """What all kinds of LLM judge share."""

    shows: ClassVar[frozenset[str]] = frozenset()
    """The template variables of this kind beside SHARED_VARIABLES."""
    must_show: ClassVar[frozenset[str]] = frozenset()
    """Those without which a template can not be meant for it."""

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

    def offer(self, shown: int) -> Offer:
        """What the judge is asked to say of so many shown responses."""
        raise NotImplementedError

    def constrained_choices(self, shown: int) -> tuple[str, ...] | None:
        """The answers to which the engine should constrain the model; None where it writes a text."""
        single = self.reader.single
        return single(self.offer(shown)) if self.reading == "auto" and single is not None else None

    @property
    def needed_variables(self) -> frozenset[str]:
        """What a template of this judge has to show."""
        return self.must_show


class PairwiseConfig(LLMJudgeConfig):
    """A judge that is shown two responses, in both orders, and names the better one."""

    shows = frozenset({"response_a", "response_b", "scale"})
    must_show = frozenset({"response_a", "response_b"})

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
        _check_labels("labels and tie", self.labels if self.tie is None else (*self.labels, self.tie))
        return self

    def offer(self, shown: int) -> Offer:
        return Offer(labels=self.labels, tie=self.tie, scale=self.scale, texts=2)


class Criterion(Config):
    """One aspect of several that a judge scores, each by a question of its own."""

    description: str = ""
    """What the aspect means, as the template shows it."""
    weight: float = Field(default=1.0, gt=0)
    """Its share of the response's score, beside the weights of the others."""


class PointwiseConfig(LLMJudgeConfig):
    """A judge that gives one response a score on a scale of whole numbers, or one for each of several criteria."""

    shows = frozenset({"response", "scale", "criterion"})
    must_show = frozenset({"response"})

    kind: Literal["pointwise"]
    scale: tuple[int, int] = (1, 5)
    """Worst and best score; by default the format's own."""
    criteria: dict[str, Criterion] = {}
    """Aspects by name: a vote asks each on its own, and the score is their weighted mean. The template shows
    `{{ criterion.name }}` and `{{ criterion.description }}`; with them last, engines compute what comes before only once."""

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

    def offer(self, shown: int) -> Offer:
        return Offer(scale=self.scale, texts=1)

    @property
    def needed_variables(self) -> frozenset[str]:
        return self.must_show | ({"criterion"} if self.criteria else set())


class ChecklistItem(Config):
    """One yes/no question about a response."""

    item: str
    """The question, which yes answers well."""
    weight: float = Field(default=1.0, gt=0)
    """Its share of the response's score."""

    @model_validator(mode="before")
    @classmethod
    def _plain_text(cls, data: Any) -> Any:
        return {"item": data.strip()} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _says_something(self) -> "ChecklistItem":
        if not self.item.strip():
            raise ValueError("an item of a checklist must be a question, not blank")
        return self


def check_distinct(items: tuple[ChecklistItem, ...]) -> None:
    """Raises ValueError for an item that is there twice: its weight would be anybody's guess."""
    texts = [each.item for each in items]
    doubled = next((text for text in texts if texts.count(text) > 1), None)
    if doubled is not None:
        raise ValueError(f"the item '{doubled}' is listed twice; give it once, with the weight that it has")


class WriterConfig(Config):
    """A model that writes a prompt's checklist."""

    prompt: str = "checklist-items"
    """The Jinja template that asks for it: a file beside the judge's, or a shipped name of `prompts/`."""
    most: int = Field(default=8, ge=1, le=50)
    """So many items at most; the template knows it as `most`."""
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=512, ge=1)
    seed: int = 0


class ChecklistConfig(LLMJudgeConfig):
    """A judge that answers yes or no to each item of a checklist; the score is the weighted share of yes, or of its
    probability where log-probs are read (as in RLCF, arXiv 2507.18624)."""

    shows = frozenset({"response", "item"})
    must_show = frozenset({"response", "item"})

    kind: Literal["checklist"]
    labels: tuple[str, str] = ("yes", "no")
    """The two answers, the good one first."""
    items: tuple[ChecklistItem, ...] = ()
    """Asked of every response: texts, or {item, weight}. A prompt's own items, in its metadata under `checklist`, follow."""
    write: WriterConfig | None = None
    """The judge's model writes the items of the prompts that bring none. The lists are kept beside the votes."""

    @model_validator(mode="after")
    def _fits_the_format(self) -> "ChecklistConfig":
        if self.format != "label":
            raise ValueError(f"format {self.format} is not for a checklist judge; allowed: label")
        _check_labels("labels", self.labels)
        check_distinct(self.items)
        return self

    def offer(self, shown: int) -> Offer:
        return Offer(labels=self.labels, texts=1)


class ListwiseConfig(LLMJudgeConfig):
    """A judge that is shown all responses to a prompt and ranks them."""

    shows = frozenset({"responses"})
    must_show = frozenset({"responses"})

    kind: Literal["listwise"]
    format: FormatName = "ranking"
    """ranking: [[B > A = C]], every letter once, = only where ties are offered."""
    ties: bool = True
    """Whether responses may be ranked equal."""
    most: int = Field(default=8, ge=2, le=len(LETTERS))
    """Prompts with more responses are not ranked but listed: judges lose track of long lists."""

    @model_validator(mode="after")
    def _fits_the_format(self) -> "ListwiseConfig":
        _check_kind(self, "listwise")
        return self

    def offer(self, shown: int) -> Offer:
        return Offer(labels=tuple(LETTERS[:shown]), tie="=" if self.ties else None, texts=shown)


def _named_format(data: Any) -> Format | None:
    """The format that unchecked data names, if there is such a one."""
    name = data.get("format", "label") if isinstance(data, dict) else None
    return next((form for form in FORMATS.values() if form.name == name), None)


def _check_kind(config: LLMJudgeConfig, *kinds: str) -> None:
    """Raises ValueError, naming the formats that fit, if the format is of another kind of judge."""
    if not set(config.reader.kinds) & set(kinds):
        fitting = [form.name for form in FORMATS.values() if set(form.kinds) & set(kinds)]
        raise ValueError(f"format {config.format} is not for a {kinds[0]} judge; allowed: {', '.join(fitting)}")


def _check_labels(what: str, labels: tuple[str, ...]) -> None:
    if len(set(labels)) < len(labels) or not all(0 < len(label.strip()) <= 20 for label in labels):
        raise ValueError(f"{what} must be different texts of 1 to 20 characters, not {', '.join(labels)}")


def _check_scale(scale: tuple[int, int]) -> None:
    if scale[0] >= scale[1]:
        raise ValueError(f"scale must go from a lower to a higher score, not {scale[0]} to {scale[1]}")


AnyLLMConfig = PairwiseConfig | PointwiseConfig | ChecklistConfig | ListwiseConfig
