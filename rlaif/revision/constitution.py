"""What a constitution may say, and which of its principles a response is revised by."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import Field, model_validator

from rlaif import resources
from rlaif.config import Config, read_yaml, validate
from rlaif.errors import ConfigError
from rlaif.prompts import Template
from rlaif.types import content_hash

SHARED_VARIABLES = {"prompt", "messages", "metadata", "response", "principle", "request", "fences"}
REVISION_VARIABLES = SHARED_VARIABLES | {"critique"}


class Principle(Config):
    """One thing that an answer should be, as two requests."""

    name: str = Field(min_length=1)
    """Stands in the results, so that every revision can be traced to it."""
    critique: str = Field(min_length=1)
    """Asks what in the answer is against the principle."""
    revision: str = Field(min_length=1)
    """Asks for an answer that keeps to it."""
    weight: float = Field(default=1.0, gt=0)
    """How often it is drawn, beside the others."""


class ConstitutionConfig(Config):
    """A constitution file."""

    name: str = ""
    """Shown in results; by default the name of the file."""
    description: str = ""
    """One sentence on what it makes of answers."""
    critique_prompt: str = "critique"
    """The Jinja template of the turn that asks for a critique: a file beside this one, or a shipped name of `prompts/`."""
    revision_prompt: str = "revision"
    """The template of the turn that asks for the revision, in the same conversation."""
    system: str | None = None
    """The system turn of that conversation, as plain text; none by default."""
    fences: bool = True
    """What others wrote (prompt, response, metadata) stands between two lines that nothing inside can close."""
    escape_control_tokens: bool = True
    """Control tokens of chat templates in it are shown as text; in the revision they are themselves again."""
    principles: tuple[Principle, ...] = Field(min_length=1)
    """Each round of a response draws one, and none twice."""

    @model_validator(mode="after")
    def _distinct_names(self) -> "ConstitutionConfig":
        names = [principle.name for principle in self.principles]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"two principles are called '{doubled[0]}'; give one of them another name")
        return self


@dataclass(frozen=True)
class Constitution:
    """A loaded constitution."""

    config: ConstitutionConfig
    critique: Template
    revision: Template

    @property
    def name(self) -> str:
        return self.config.name

    @cached_property
    def hash(self) -> str:
        """Of all its texts."""
        return content_hash(self.config.model_dump(mode="json"), self.critique.source, self.revision.source)


def load_constitution(name: str, beside: Path | None = None) -> Constitution:
    """The constitution of a shipped name or a file. Raises ConfigError for anything wrong in it or its templates."""
    path = resources.find("constitutions", name, beside)
    config = validate({"name": path.stem, **read_yaml(path)}, ConstitutionConfig, str(path))
    return Constitution(
        config,
        _template(config.critique_prompt, path, SHARED_VARIABLES, {"response", "request"}),
        _template(config.revision_prompt, path, REVISION_VARIABLES, {"request"}),
    )


def constitution_files(name: str, beside: Path | None = None) -> list[Path]:
    """Every file a constitution consists of: its own, and its templates."""
    constitution = load_constitution(name, beside)
    path = resources.find("constitutions", name, beside)
    return [path, Path(constitution.critique.where), Path(constitution.revision.where)]


def draw_principles(
    principles: Sequence[Principle], rounds: int, *, seed: int | None, response_id: str
) -> tuple[Principle, ...]:
    """One principle a round, none twice: by a hash of (seed, response id, round), in proportion to the weights.

    Fewer rounds draw the beginning of what more rounds draw. Raises ConfigError if there are fewer principles than rounds.
    """
    if not 1 <= rounds <= len(principles):
        raise ConfigError(
            f"rounds is {rounds}; a constitution of {len(principles)} principles allows 1 to {len(principles)} rounds, since "
            "none is drawn twice for a response"
        )
    left = list(principles)
    drawn = []
    for number in range(1, rounds + 1):
        share = int(content_hash(seed, response_id, number), 16) / 16**16
        drawn.append(left.pop(_place(share, [principle.weight for principle in left])))
    return tuple(drawn)


def _place(share: float, weights: Sequence[float]) -> int:
    """Where a share in [0, 1) of the sum of the weights falls."""
    rest = share * sum(weights)
    for place, weight in enumerate(weights):
        if rest < weight:
            return place
        rest -= weight
    return len(weights) - 1


def _template(name: str, path: Path, allowed: set[str], needed: set[str]) -> Template:
    template = Template.load(resources.find("prompts", name, path.parent), allowed)
    missing = sorted(needed - template.variables)
    if missing:
        raise ConfigError(f"{template.where}: does not show {', '.join(missing)}, so {path} can not use it")
    return template
