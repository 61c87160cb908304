"""A judge file to its configuration and templates."""

from pathlib import Path
from typing import Any

from rlaif import resources
from rlaif.config import read_yaml, validate
from rlaif.errors import ConfigError, did_you_mean
from rlaif.judges.config.ensemble import EnsembleConfig
from rlaif.judges.config.llm import (
    SHARED_VARIABLES,
    AnyLLMConfig,
    ChecklistConfig,
    ListwiseConfig,
    PairwiseConfig,
    PointwiseConfig,
)
from rlaif.judges.config.others import HumanConfig, ProgramConfig, RewardModelConfig
from rlaif.prompts import Template

AnyJudgeConfig = AnyLLMConfig | ProgramConfig | RewardModelConfig | HumanConfig
KINDS: dict[str, type[AnyJudgeConfig | EnsembleConfig]] = {
    "pairwise": PairwiseConfig,
    "pointwise": PointwiseConfig,
    "checklist": ChecklistConfig,
    "listwise": ListwiseConfig,
    "program": ProgramConfig,
    "reward-model": RewardModelConfig,
    "human": HumanConfig,
    "ensemble": EnsembleConfig,
}
WRITER_VARIABLES = {"prompt", "messages", "metadata", "fences", "most"}


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


def load_templates(config: AnyLLMConfig, path: Path) -> tuple[Template, ...]:
    """The judge's prompt and its variants, their variables checked against what its kind is shown."""
    return tuple(_load_template(config, name, path) for name in (config.prompt, *config.variants))


def load_writer_template(name: str, path: Path) -> Template:
    """The template that asks for a checklist."""
    return Template.load(resources.find("prompts", name, path.parent), WRITER_VARIABLES)


def _load_template(config: AnyLLMConfig, name: str, path: Path) -> Template:
    template = Template.load(resources.find("prompts", name, path.parent), set(SHARED_VARIABLES | config.shows))
    missing = sorted(config.needed_variables - template.variables)
    if missing:
        raise ConfigError(
            f"{template.where}: does not show {', '.join(missing)}, so a {config.kind} judge can not use it"
        )
    if isinstance(config, PointwiseConfig) and not config.criteria and "criterion" in template.variables:
        raise ConfigError(
            f"{template.where}: shows a criterion, and {path} names none; list them under criteria, or use another template"
        )
    return template
