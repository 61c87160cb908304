"""What a recipe may say, and what it would do."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from rlaif import resources
from rlaif.config import Config, read_yaml, validate
from rlaif.engines import EngineConfig, EngineSettings
from rlaif.errors import ConfigError, DataError
from rlaif.inputs import PromptSet, read_prompts
from rlaif.judges.config import Comparisons, StopRule
from rlaif.judges.ensemble import load_ensemble
from rlaif.preferences.pairs import Rule
from rlaif.revision.constitution import draw_principles, load_constitution
from rlaif.revision.run import MAX_UNUSABLE_SHARE
from rlaif.training.arguments import check_trainer_keys
from rlaif.types import Messages, Prompt, Sampling

if TYPE_CHECKING:
    from rlaif.training.config import TrainConfig

POLICY = "{model}"
"""Stands for the recipe's model wherever a recipe names one."""


def _as_stages(value: Any) -> Any:
    """One stage, or a list of at least one."""
    stages = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not stages:
        raise ValueError("name at least one stage, as in: train: {method: dpo}")
    return stages


class GenerateStage(Config):
    """Prompts to responses."""

    prompts: str
    """A file beside the recipe or here, or a data set name."""
    n: int = Field(default=4, ge=2)
    """Responses per prompt; a preference needs two."""
    sampling: Sampling = Sampling()
    """temperature, top_p, max_tokens, stop, seed."""
    system: str | None = None
    """System prompt for prompts that have none."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many prompts."""


class ReviseStage(Config):
    """Responses to revisions, which are preferred to the originals without a judge."""

    constitution: str
    """A shipped name or a file beside the recipe."""
    model: str = POLICY
    """The model that criticises and revises; {model} is the policy."""
    rounds: int = Field(default=1, ge=1)
    """Rounds of critique and revision, each under another principle."""
    sampling: Sampling = Sampling()
    """Of critiques and revisions; its seed draws the principles too."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many responses, prompt by prompt."""
    max_unusable: float = Field(default=MAX_UNUSABLE_SHARE, ge=0, le=1)
    """Share of responses that may end without a revision, those that needed no change aside."""
    engine: EngineSettings | None = None
    """How the model is run; by default as the recipe runs the policy."""


class JudgeStage(Config):
    """Responses to verdicts."""

    judge: str
    """Judge or ensemble: a shipped name or a file beside the recipe."""
    models: tuple[str, ...] = ()
    """Models that judge, instead of those the judge files name; {model} is the policy."""
    votes: int = Field(default=2, ge=1)
    """Votes per judge and comparison."""
    comparisons: Comparisons | None = None
    """all, ring, screened or models, instead of the ensemble's."""
    stop: StopRule | None = None
    """cannot-lose, posterior or all, instead of the ensemble's; cannot-lose keeps to the margin that `pairs` asks for."""
    max_unparsed: float = Field(default=0.05, ge=0, le=1)
    """Share of a judge's votes without a verdict that is allowed."""
    engine: EngineSettings = EngineSettings()
    """How the judging models are run."""


class PairsStage(Config):
    """Verdicts to preference pairs."""

    rule: Rule = "best-random"
    """best-random, best-worst, adjacent or all."""
    min_margin: float | None = None
    """The margin must be above it; by default 1/3 for comparisons and 0 for scores."""
    min_chosen: float | None = None
    """Least score of a chosen response."""
    max_length_ratio: float | None = None
    """Most of the longer to the shorter response."""
    max_pairs_per_prompt: int | None = None
    """Largest margins first."""
    keep_truncated: bool = False
    """Also choose responses cut at the token limit."""
    seed: int = 0
    """Of the random choices."""
    min_pairs: int = Field(default=1, ge=1)
    """Fewer pairs stop the recipe: there would be too little to learn from."""


class EvaluateStage(Config):
    """The trained policy against the base on held-out prompts."""

    prompts: str
    """Held-out prompts; none of them may be a training prompt."""
    judge: str
    """Judge or ensemble."""
    n: int = Field(default=1, ge=1)
    """Answers per prompt and model."""
    votes: int = Field(default=2, ge=1)
    """Votes per judge and comparison."""
    models: tuple[str, ...] = ()
    """Models that judge; {model} is the policy before training."""
    sampling: Sampling = Sampling()
    """temperature, top_p, max_tokens, stop, seed."""
    system: str | None = None
    """System prompt for prompts that have none."""
    max_unparsed: float = Field(default=0.05, ge=0, le=1)
    """Share of a judge's votes without a verdict that is allowed."""
    relevance: bool = True
    """Measure whether answers belong to their prompts (needs a local base model)."""
    engine: EngineSettings = EngineSettings()
    """How the judging models are run."""


class RecipeConfig(Config):
    """A whole run."""

    name: str
    """Shown in the summary."""
    description: str = ""
    """One sentence on what the recipe does."""
    output: Path
    """The run folder."""
    model: str
    """The policy to start from."""
    engine: EngineSettings = EngineSettings()
    """How the policy is run when it generates."""
    generate: GenerateStage | None = None
    """May be left out where every training stage is online: those answer `prompts` themselves."""
    prompts: str | None = None
    """What online training stages answer: a file beside the recipe or here, or a data set name; by default the prompts of
    `generate`."""
    revise: ReviseStage | None = None
    """Its pairs are trained on beside the judged ones, or in their place if there is no judge."""
    judge: JudgeStage | None = None
    """May be left out where there is `revise`."""
    pairs: PairsStage = PairsStage()
    train: Annotated[tuple[dict[str, JsonValue], ...], BeforeValidator(_as_stages)] = ({"method": "dpo"},)
    """One stage of training or a list of them, each starting from what the one before has trained: the preset (`method`,
    or `preset`: a file) and any of its keys; model, data and output are the recipe's. Stages learn from the recipe's pairs, or,
    if they are online, from its prompts, with the judges under `rewards` (files beside the recipe, too)."""
    evaluate: EvaluateStage | None = None

    @model_validator(mode="after")
    def _some_preferences(self) -> "RecipeConfig":
        if self.generate is None:
            return self._only_online()
        if self.judge is not None:
            return self
        if self.revise is None:
            raise ValueError("missing key 'judge'; preferences come from judge, from revise, or from both")
        without = PairsStage(min_pairs=self.pairs.min_pairs).model_dump()
        set_ = [key for key, value in self.pairs.model_dump().items() if value != without[key]]
        if set_:
            raise ValueError(f"pairs: {', '.join(set_)} is for judged pairs, and the recipe has no judge; leave it out")
        return self

    def _only_online(self) -> "RecipeConfig":
        """The recipe, if nothing in it needs sampled responses."""
        if self.prompts is None:
            raise ValueError("missing key 'generate' (or 'prompts', if every training stage is online)")
        given = [key for key in ("judge", "revise") if getattr(self, key) is not None]
        given += ["pairs"] if self.pairs != PairsStage() else []
        if given:
            raise ValueError(
                f"{given[0]} is about sampled responses, and there is no 'generate'; add that, or leave it out (online stages "
                "name their judges under rewards)"
            )
        return self

    def runs(self, stage: str) -> bool:
        """Whether a stage is part of the recipe."""
        return self.generate is not None if stage == "pairs" else getattr(self, stage) is not None

    @model_validator(mode="after")
    def _train_keys(self) -> "RecipeConfig":
        owned = sorted({"model", "data", "output"} & {key for stage in self.train for key in stage})
        if owned:
            raise ValueError(f"train: {', '.join(owned)} is set by the recipe itself; leave it out")
        return self


def load_recipe(
    recipe: str, *, model: str | None = None, output: str | Path | None = None
) -> tuple[RecipeConfig, Path]:
    """The configuration of a recipe and its file. Raises ConfigError for anything wrong in it, train keys included."""
    path = resources.find("recipes", recipe)
    data = {"name": path.stem, **read_yaml(path)}
    if model is not None:
        data["model"] = model
    if output is not None:
        data["output"] = str(output)
    config = validate(data, RecipeConfig, str(path))
    try:
        stages = train_configs(config, path.parent)
        for stage in stages:
            check_trainer_keys(stage)
        _check_sources(config, stages)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: train: {line}" for line in str(error).splitlines())) from None
    _check_judges(config, path.parent)
    if config.revise is not None:
        principles = load_constitution(config.revise.constitution, path.parent).config.principles
        draw_principles(principles, config.revise.rounds, seed=None, response_id="")
    return config, path


def revising_model(config: RecipeConfig, stage: ReviseStage) -> EngineConfig:
    """The model that criticises and revises."""
    settings = stage.engine if stage.engine is not None else config.engine
    return settings.config(config.model if stage.model == POLICY else stage.model)


def judging_models(config: RecipeConfig, stage: "JudgeStage | EvaluateStage") -> tuple[EngineConfig, ...]:
    """The models that judge in a stage."""
    return tuple(stage.engine.config(config.model if model == POLICY else model) for model in stage.models)


def _check_judges(config: RecipeConfig, beside: Path) -> None:
    """Loads the judges, so that a mistake in one is told before anything is sampled or paid."""
    judge = config.judge
    if judge is not None:
        load_ensemble(
            judge.judge,
            votes=judge.votes,
            models=judging_models(config, judge),
            comparisons=judge.comparisons,
            beside=beside,
        )
    if config.evaluate is not None:
        models = judging_models(config, config.evaluate)
        load_ensemble(
            config.evaluate.judge, votes=config.evaluate.votes, models=models, comparisons="models", beside=beside
        )


def _check_sources(config: RecipeConfig, stages: Sequence["TrainConfig"]) -> None:
    """Raises ConfigError for stages without what they learn from, and for what nothing learns from."""
    online = [stage for stage in stages if stage.data_kind == "prompts"]
    offline = [stage for stage in stages if stage.data_kind != "prompts"]
    if offline and config.generate is None:
        raise ConfigError(
            f"{offline[0].method} learns from pairs, and without generate and judge the recipe makes none; add them, or use an "
            "online method"
        )
    if not offline and config.generate is not None:
        raise ConfigError(
            f"{online[0].method} answers prompts itself, and no stage learns from the recipe's pairs; name 'prompts' in place "
            "of generate, judge and pairs"
        )
    cut = [
        key for key in ("limit", "system") if config.generate is not None and getattr(config.generate, key) is not None
    ]
    if online and config.prompts is None and cut:
        raise ConfigError(
            f"generate.{cut[0]} is not applied to the prompts of {online[0].method}; name its prompts under 'prompts'"
        )
    if config.prompts is not None and not online:
        raise ConfigError("no stage is online, so 'prompts' is not used; leave it out (generate has its own)")


def train_configs(config: RecipeConfig, beside: Path) -> list["TrainConfig"]:
    """The configuration of each training stage; the last one's output is the trained policy. beside: the recipe's folder."""
    from rlaif.training.config import load_preset

    found: list[TrainConfig] = []
    for number, stage in enumerate(config.train, start=1):
        keys = dict(stage)
        preset = str(keys.pop("preset", keys.get("method", "dpo")))
        folder = config.output / "train"
        name = f"{number}-{keys.get('method', Path(preset).stem)}"
        keys |= {key: _judges(keys[key], beside) for key in ("rewards", "watch") if key in keys}
        keys = _with_model(keys, config.model)
        settled = {
            "model": str(found[-1].output) if found else config.model,
            "data": str(config.output / "pairs" / "preferences.jsonl"),
            "output": str(folder / name if len(config.train) > 1 else folder),
        }
        stage_config = load_preset(preset, **keys, **settled)
        if stage_config.data_kind == "prompts":
            settled["data"] = source_path(training_prompts(config), beside)
            stage_config = load_preset(preset, **keys, **settled)
        found.append(stage_config)
    return found


def training_prompts(config: RecipeConfig) -> str:
    """Where the prompts are that are trained on."""
    return config.prompts or (config.generate.prompts if config.generate is not None else "")


def _judges(judges: Any, beside: Path) -> Any:
    """What stands under rewards or watch, its files found beside the recipe."""
    if isinstance(judges, list):
        return [_judges(judge, beside) for judge in judges]
    if isinstance(judges, dict) and isinstance(judges.get("judge"), str):
        named = {"baseline": source_path(judges["baseline"], beside)} if isinstance(judges.get("baseline"), str) else {}
        return {**judges, "judge": _judges(judges["judge"], beside), **named}
    return str(resources.find("judges", judges, beside)) if isinstance(judges, str) else judges


def _with_model(value: Any, model: str) -> Any:
    """A value of a stage, with the recipe's model in place of {model} wherever it stands alone."""
    if isinstance(value, dict):
        return {key: _with_model(item, model) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_model(item, model) for item in value]
    return model if value == POLICY else value


def check_prompts(config: RecipeConfig, beside: Path) -> None:
    """Raises DataError, before anything is sampled, if a prompt file is wrong or held-out prompts are trained on."""
    trained = [_trained_prompts(config, beside)]
    if config.prompts is not None and config.generate is not None:
        trained.append(read_prompts(source_path(config.prompts, beside)))
    if config.evaluate is None:
        return
    held_out = read_prompts(source_path(config.evaluate.prompts, beside), system=config.evaluate.system)
    texts = {_asked(prompt) for prompt in held_out.prompts}
    shared = [prompt for found in trained for prompt in found.prompts if _asked(prompt) in texts]
    if shared:
        raise DataError(
            f"{len(shared)} prompts of evaluate.prompts are also trained on (first: "
            f"'{shared[0].messages[-1].content[:60]}'); held-out prompts must be others"
        )


def _asked(prompt: Prompt) -> Messages:
    """The messages of a prompt but for system prompts, which a stage may have set: the same question is asked without them."""
    return tuple(message for message in prompt.messages if message.role != "system")


def _trained_prompts(config: RecipeConfig, beside: Path) -> PromptSet:
    """The prompts that generate answers, or, without it, the online stages."""
    if config.generate is None:
        return read_prompts(source_path(training_prompts(config), beside))
    stage = config.generate
    return read_prompts(source_path(stage.prompts, beside), system=stage.system, limit=stage.limit)


def recipe_plan(config: RecipeConfig, beside: Path) -> dict[str, str | int]:
    """What the recipe would do, in numbers; nothing is loaded."""
    found = _trained_prompts(config, beside)
    told: dict[str, str | int] = {"model": config.model, "prompts": len(found.prompts)}
    if config.generate is not None:
        told |= {"responses": len(found.prompts) * config.generate.n, **_preference_plan(config)}
    told["train"] = " → ".join(stage.method for stage in train_configs(config, beside))
    if config.evaluate is not None:
        held_out = read_prompts(source_path(config.evaluate.prompts, beside), system=config.evaluate.system)
        told["held-out answers"] = 2 * config.evaluate.n * len(held_out.prompts)
    return told | {"run folder": str(config.output)}


def _preference_plan(config: RecipeConfig) -> dict[str, str | int]:
    told: dict[str, str | int] = {}
    if config.revise is not None:
        model = revising_model(config, config.revise).model
        told["revise"] = f"{config.revise.constitution}, {config.revise.rounds} rounds by {model}"
    if config.judge is not None:
        told["judge"] = f"{config.judge.judge}, {config.judge.votes} votes per judge and comparison"
        told["pairs"] = config.pairs.rule
    return told


def source_path(name: str, beside: Path) -> str:
    """A file beside the recipe if there is one, else the name as it is (a path from here, or a data set)."""
    return str(beside / name) if (beside / name).is_file() else name
