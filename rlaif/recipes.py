"""A recipe runs every stage, from prompts to an evaluated policy, and continues where it was killed.

Each stage is one of the public functions with files in between, so every stage can also be run by its command. A stage
that is done is not run again unless its configuration or its inputs changed.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from rlaif import resources
from rlaif.config import Config, load_config, read_yaml, validate
from rlaif.engines import EngineConfig
from rlaif.errors import ConfigError, DataError
from rlaif.inputs import read_prompts
from rlaif.judges.config import Comparisons
from rlaif.preferences.pairs import Rule
from rlaif.progress import say
from rlaif.records import write_text
from rlaif.types import Sampling

STAGES = ("generate", "judge", "pairs", "train", "evaluate")
POLICY = "{model}"
"""Stands for the recipe's model wherever a recipe names one."""


class EngineSettings(Config):
    """How a model of a recipe is run; the model itself is named beside it."""

    engine: Literal["auto", "vllm", "transformers", "openai"] = "auto"
    """auto: openai if a base_url is given, vllm where there is CUDA and vLLM, else transformers in process."""
    base_url: tuple[str, ...] = ()
    """OpenAI-compatible endpoints."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the endpoint's key."""
    concurrency: int | None = None
    """Requests in flight."""
    max_requests: int | None = None
    """Stop, with everything saved, after so many endpoint requests."""
    batch_size: int = 32
    """Samples decoded together by the transformers engine."""
    dtype: str = "auto"
    """Of a local model."""

    def config(self, model: str) -> EngineConfig:
        """The engine for a model with these settings."""
        return validate({"model": model, **self.model_dump()}, EngineConfig, f"the engine of {model}")


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
    generate: GenerateStage
    judge: JudgeStage
    pairs: PairsStage = PairsStage()
    train: dict[str, JsonValue] = {"method": "dpo"}
    """The preset (`method`, or `preset`: a file) and any of its keys; model, data and output are the recipe's."""
    evaluate: EvaluateStage | None = None

    @model_validator(mode="after")
    def _train_keys(self) -> "RecipeConfig":
        owned = sorted({"model", "data", "output"} & set(self.train))
        if owned:
            raise ValueError(f"train: {', '.join(owned)} is set by the recipe itself; leave it out")
        return self


@dataclass(frozen=True)
class RunResult:
    """A finished recipe."""

    path: Path
    summary: str
    stages: dict[str, dict[str, Any]]
    """What each stage wrote down of itself."""


def run(
    recipe: str | Path,
    *,
    model: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> RunResult:
    """Runs a recipe (a shipped name or a YAML file), or what is left of it.

    model, output: instead of the recipe's. Raises ConfigError if the run folder holds a run with another configuration.
    """
    config, path = load_recipe(str(recipe), model=model, output=output)
    from rlaif.report.summary import write_summary

    _claim(config, overwrite)
    session = Recipe(config, path.parent, overwrite)
    for stage in STAGES:
        if stage == "evaluate" and config.evaluate is None:
            continue
        session.stage(stage)
    summary = write_summary(config, session.results)
    return RunResult(config.output, summary, session.results)


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
    train_config(config)
    return config, path


def train_config(config: RecipeConfig) -> Any:
    """The TrainConfig of the recipe's train stage."""
    from rlaif.training.config import load_preset

    keys = dict(config.train)
    preset = str(keys.pop("preset", keys.get("method", "dpo")))
    folder = config.output
    return load_preset(
        preset,
        **keys,
        model=config.model,
        data=str(folder / "pairs" / "preferences.jsonl"),
        output=str(folder / "train"),
    )


def recipe_plan(config: RecipeConfig, beside: Path) -> dict[str, str | int]:
    """What the recipe would do, in numbers; nothing is loaded."""
    generate = config.generate
    found = read_prompts(_source(generate.prompts, beside), system=generate.system, limit=generate.limit)
    told: dict[str, str | int] = {
        "model": config.model,
        "prompts": len(found.prompts),
        "responses": len(found.prompts) * generate.n,
        "judge": f"{config.judge.judge}, {config.judge.votes} votes per judge and comparison",
        "pairs": config.pairs.rule,
        "train": str(config.train.get("method", config.train.get("preset", "dpo"))),
    }
    if config.evaluate is not None:
        held_out = read_prompts(_source(config.evaluate.prompts, beside), system=config.evaluate.system)
        told["held-out answers"] = 2 * config.evaluate.n * len(held_out.prompts)
    return told | {"run folder": str(config.output)}


class Recipe:
    """One run of a recipe: what each stage reads, does and writes down."""

    def __init__(self, config: RecipeConfig, beside: Path, overwrite: bool) -> None:
        self.config = config
        self.beside = beside
        self.overwrite = overwrite
        self.results: dict[str, dict[str, Any]] = {}

    def stage(self, name: str) -> None:
        """Runs a stage unless it is done with the same configuration and inputs."""
        done = self.folder(name) / "done.json"
        work: dict[str, Callable[[], dict[str, Any]]] = {
            "generate": self._generate,
            "judge": self._judge,
            "pairs": self._pairs,
            "train": self._train,
            "evaluate": self._evaluate,
        }
        inputs = self._inputs(name)
        before = json.loads(done.read_text(encoding="utf-8")) if done.is_file() and not self.overwrite else None
        if before is not None and before["inputs"] == inputs:
            say(f"{name}: done before, not run again")
            self.results[name] = before["result"]
            return
        say(f"{name}: starting")
        started = time.monotonic()
        result = work[name]()
        result["seconds"] = round(time.monotonic() - started, 1)
        write_text(done, json.dumps({"inputs": inputs, "result": result}, indent=1, ensure_ascii=False) + "\n")
        self.results[name] = result

    def folder(self, name: str) -> Path:
        return self.config.output / name

    @property
    def responses(self) -> Path:
        return self.folder("generate") / "responses.jsonl"

    @property
    def judged(self) -> Path:
        return self.folder("judge") / "judged.jsonl"

    @property
    def preferences(self) -> Path:
        return self.folder("pairs") / "preferences.jsonl"

    def _inputs(self, name: str) -> dict[str, str]:
        """Hashes of everything a stage depends on besides the recipe itself (which may not change in a run folder)."""
        config = self.config
        files: dict[str, list[Path]] = {
            "generate": _existing(_source(config.generate.prompts, self.beside)),
            "judge": [self.responses, *_judge_files(config.judge.judge, self.beside)],
            "pairs": [self.judged],
            "train": [self.preferences],
            "evaluate": [],
        }
        if name == "evaluate" and config.evaluate is not None:
            files["evaluate"] = [
                *_existing(_source(config.evaluate.prompts, self.beside)),
                *_judge_files(config.evaluate.judge, self.beside),
                self.preferences,
            ]
        return {str(path): _hash(path) for path in files[name]}

    def _generate(self) -> dict[str, Any]:
        from rlaif.generation import generate

        stage = self.config.generate
        made = generate(
            _source(stage.prompts, self.beside),
            self.config.engine.config(self.config.model),
            n=stage.n,
            sampling=stage.sampling,
            system=stage.system,
            limit=stage.limit,
            output=self.responses,
            overwrite=self.overwrite,
        )
        return {
            "prompts": len({response.prompt.id for response in made.responses}),
            "responses": len(made.responses),
            "failed": len(made.failures),
            "duplicate_prompts": len(made.duplicates),
        }

    def _judge(self) -> dict[str, Any]:
        from rlaif.judges.run import judge

        stage = self.config.judge
        judged = judge(
            self.responses,
            _judge_name(stage.judge, self.beside),
            votes=stage.votes,
            models=self._judging_models(stage.models, stage.engine),
            comparisons=stage.comparisons,
            max_unparsed=stage.max_unparsed,
            output=self.judged,
            overwrite=self.overwrite,
        )
        return {
            "verdicts": len(judged.verdicts),
            "skipped": len(judged.skipped),
            "failed": len(judged.failures),
            "judges": [stats.as_dict() for stats in judged.judges],
        }

    def _pairs(self) -> dict[str, Any]:
        from rlaif.preferences.pairs import make_pairs

        stage = self.config.pairs
        made = make_pairs(self.judged, output=self.preferences, **stage.model_dump(exclude={"min_pairs"}))
        if len(made.pairs) < stage.min_pairs:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in list(made.reasons.items())[:3])
            raise DataError(
                f"only {len(made.pairs)} preference pairs, and pairs.min_pairs asks for {stage.min_pairs} ({reasons}). "
                "Sample more responses (generate.n), use more prompts, or relax the rules (pairs.*)"
            )
        return {"pairs": len(made.pairs), "longer_chosen": made.longer_chosen, "skipped": made.reasons}

    def _train(self) -> dict[str, Any]:
        from rlaif.training.run import train

        result = train(train_config(self.config), overwrite=self.overwrite)
        return {"steps": result.steps, "rows": result.rows, "skipped": result.skipped, "metrics": result.metrics}

    def _evaluate(self) -> dict[str, Any]:
        from rlaif.evaluation import evaluate

        stage = self.config.evaluate
        assert stage is not None
        prompts = read_prompts(_source(stage.prompts, self.beside), system=stage.system)
        self._check_held_out({prompt.id for prompt in prompts.prompts})
        result = evaluate(
            self.config.engine.config(str(self.folder("train"))),
            self.config.engine.config(self.config.model),
            prompts.prompts,
            _judge_name(stage.judge, self.beside),
            n=stage.n,
            sampling=stage.sampling,
            votes=stage.votes,
            judge_models=self._judging_models(stage.models, stage.engine),
            measure_relevance=stage.relevance,
            output=self.folder("evaluate"),
            overwrite=self.overwrite,
        )
        return result.as_dict()

    def _judging_models(self, models: tuple[str, ...], engine: EngineSettings) -> tuple[EngineConfig, ...]:
        return tuple(engine.config(self.config.model if model == POLICY else model) for model in models)

    def _check_held_out(self, held_out: set[str]) -> None:
        stage = self.config.generate
        trained = read_prompts(_source(stage.prompts, self.beside), system=stage.system, limit=stage.limit)
        shared = [prompt for prompt in trained.prompts if prompt.id in held_out]
        if shared:
            raise DataError(
                f"{len(shared)} prompts of evaluate.prompts are also trained on (first: "
                f"'{shared[0].messages[-1].content[:60]}'); held-out prompts must be others"
            )


def _claim(config: RecipeConfig, overwrite: bool) -> None:
    """Writes the resolved configuration into the run folder, or refuses another run's folder, naming the keys."""
    import yaml

    path = config.output / "config.yaml"
    now = config.model_dump(mode="json")
    if path.exists() and not overwrite:
        before = load_config(path, RecipeConfig).model_dump(mode="json")
        changed = [key for key in _flat(now) if _flat(before).get(key) != _flat(now)[key]]
        changed += [key for key in _flat(before) if key not in _flat(now)]
        if changed:
            raise ConfigError(
                f"{config.output}: holds a run with another configuration; changed: {', '.join(sorted(changed))}. "
                "Give another --output, or --overwrite to start again"
            )
        return
    write_text(path, yaml.safe_dump(now, sort_keys=False, allow_unicode=True))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _source(name: str, beside: Path) -> str:
    """A file beside the recipe if there is one, else the name as it is (a path from here, or a data set)."""
    return str(beside / name) if (beside / name).is_file() else name


def _judge_name(name: str, beside: Path) -> str:
    return str(resources.find("judges", name, beside))


def _judge_files(name: str, beside: Path) -> list[Path]:
    """Every file a judge consists of: its own, its members', their templates."""
    from rlaif.judges.config import EnsembleConfig, ProgramConfig, load_judge_file

    config, path = load_judge_file(name, beside)
    if isinstance(config, EnsembleConfig):
        return [path, *(file for member in config.members for file in _judge_files(member.judge, path.parent))]
    if isinstance(config, ProgramConfig):
        return [path]
    return [path, resources.find("prompts", config.prompt, path.parent)]


def _existing(name: str) -> list[Path]:
    return [Path(name)] if os.path.isfile(name) else []


def _hash(path: Path) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
