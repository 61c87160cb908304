"""Runs the stages of a recipe, and continues where it was killed.

Each stage is one of the public functions with files in between, so every stage can also be run by its command. A stage
that is done is not run again unless its configuration or its inputs changed.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif import resources
from rlaif.config import load_config
from rlaif.errors import ConfigError, DataError
from rlaif.inputs import read_prompts
from rlaif.progress import say
from rlaif.recipes.config import (
    RecipeConfig,
    check_prompts,
    judging_models,
    load_recipe,
    revising_model,
    source_path,
    train_configs,
)
from rlaif.records import read_records, write_records, write_text
from rlaif.revision.constitution import constitution_files
from rlaif.training.config.online import OnlineConfig
from rlaif.training.run_folder import package_versions
from rlaif.types import SCHEMA_VERSION, PreferencePair, content_hash

if TYPE_CHECKING:
    from rlaif.training.run import TrainResult

LIMITS = {"max_requests", "concurrency", "timeout_seconds", "max_retries", "batch_size", "max_unparsed", "max_unusable"}
"""Keys of engines and stages that bound the work and change no answer."""
STAGES = ("generate", "revise", "judge", "pairs", "train", "evaluate")


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

    check_prompts(config, path.parent)
    _claim(config, overwrite)
    session = Recipe(config, path.parent, overwrite)
    for stage in STAGES:
        if config.runs(stage):
            session.stage(stage)
    summary = write_summary(config, session.results)
    return RunResult(config.output, summary, session.results)


class Recipe:
    """One run of a recipe: what each stage reads, does and writes down."""

    def __init__(self, config: RecipeConfig, beside: Path, overwrite: bool) -> None:
        self.config = config
        self.beside = beside
        self.overwrite = overwrite
        self.results: dict[str, dict[str, Any]] = {}

    def stage(self, name: str) -> None:
        """Runs a stage unless it is done with the same configuration and inputs.

        A stage that was started with others is started over, except that generate, revise and judge keep what was answered.
        """
        work: dict[str, Callable[[bool], dict[str, Any]]] = {
            "generate": self._generate,
            "revise": self._revise,
            "judge": self._judge,
            "pairs": self._pairs,
            "train": self._train,
            "evaluate": self._evaluate,
        }
        inputs = self._inputs(name)
        before = self._read_stages().get(name)
        over = self.overwrite or (before is not None and before["inputs"] != inputs)
        if before is not None and before["result"] is not None and not over:
            say(f"{name}: done before, not run again")
            self.results[name] = before["result"]
            return
        say(f"{name}: starting")
        self._write_stage(name, inputs, None)
        started = time.monotonic()
        result = work[name](over)
        result["seconds"] = round(time.monotonic() - started, 1)
        self._write_stage(name, inputs, result)
        self.results[name] = result

    @property
    def _stages_path(self) -> Path:
        return self.config.output / "stages.json"

    def _read_stages(self) -> dict[str, Any]:
        stages = json.loads(self._stages_path.read_text(encoding="utf-8")) if self._stages_path.is_file() else {}
        return dict(stages)

    def _write_stage(self, name: str, inputs: dict[str, str], result: dict[str, Any] | None) -> None:
        stages = {**self._read_stages(), name: {"inputs": inputs, "result": result}}
        write_text(self._stages_path, json.dumps(stages, indent=1, ensure_ascii=False) + "\n")

    def folder(self, name: str) -> Path:
        return self.config.output / name

    @property
    def responses(self) -> Path:
        return self.folder("generate") / "responses.jsonl"

    @property
    def revised_pairs(self) -> Path:
        return self.folder("revise") / "preferences.jsonl"

    @property
    def judged(self) -> Path:
        return self.folder("judge") / "judged.jsonl"

    @property
    def preferences(self) -> Path:
        return self.folder("pairs") / "preferences.jsonl"

    @property
    def trained(self) -> Path:
        """The folder of the trained policy."""
        return train_configs(self.config, self.beside)[-1].output

    def _inputs(self, name: str) -> dict[str, str]:
        """Hashes of everything a stage depends on: its configuration and its files."""
        config = self.config
        files: dict[str, list[Path]] = {
            "generate": _existing(source_path(config.generate.prompts, self.beside)) if config.generate else [],
            "pairs": [*([self.judged] if config.judge else []), *([self.revised_pairs] if config.revise else [])],
            "train": [self.preferences] if config.generate else [],
            "evaluate": [],
        }
        if name == "revise" and config.revise is not None:
            files["revise"] = [self.responses, *constitution_files(config.revise.constitution, self.beside)]
        if name == "judge" and config.judge is not None:
            files["judge"] = [self.responses, *_judge_files(config.judge.judge, self.beside)]
        if name == "evaluate" and config.evaluate is not None:
            files["evaluate"] = [
                *_existing(source_path(config.evaluate.prompts, self.beside)),
                *_judge_files(config.evaluate.judge, self.beside),
                self.trained / "manifest.json",
                *sorted(self.trained.glob("*.safetensors")),
            ]
        if name == "train":
            configs = train_configs(config, self.beside)
            files["train"] += [file for stage in configs if isinstance(stage, OnlineConfig) for file in _read_by(stage)]
            stages = [stage.model_dump(mode="json") for stage in configs]
            hashes = {"configuration": content_hash(config.model, *stages)}
        else:
            hashes = {"configuration": content_hash(config.model, getattr(config, name).model_dump(mode="json"))}
        return hashes | {str(path): _hash(path) for path in files[name]}

    def _generate(self, over: bool) -> dict[str, Any]:
        from rlaif.generation import generate

        stage = self.config.generate
        assert stage is not None
        made = generate(
            source_path(stage.prompts, self.beside),
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

    def _revise(self, over: bool) -> dict[str, Any]:
        from rlaif.revision.run import revise

        stage = self.config.revise
        assert stage is not None
        revised = revise(
            self.responses,
            str(resources.find("constitutions", stage.constitution, self.beside)),
            revising_model(self.config, stage),
            rounds=stage.rounds,
            sampling=stage.sampling,
            limit=stage.limit,
            max_unusable=stage.max_unusable,
            output=self.folder("revise") / "revised.jsonl",
            pairs_output=self.revised_pairs,
            overwrite=self.overwrite,
        )
        return {
            "responses": len(revised.revisions),
            "revised": len(revised.pairs),
            "failed": len(revised.failures),
            "skipped": revised.reasons,
        }

    def _judge(self, over: bool) -> dict[str, Any]:
        from rlaif.judges.run import judge
        from rlaif.judges.stopping import VOTE_MARGIN

        stage = self.config.judge
        assert stage is not None
        judged = judge(
            self.responses,
            _judge_name(stage.judge, self.beside),
            votes=stage.votes,
            models=judging_models(self.config, stage),
            comparisons=stage.comparisons,
            stop=stage.stop,
            gates=(VOTE_MARGIN if self.config.pairs.min_margin is None else self.config.pairs.min_margin,),
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

    def _pairs(self, over: bool) -> dict[str, Any]:
        from rlaif.preferences.pairs import PairsResult, make_pairs

        stage = self.config.pairs
        made = PairsResult()
        if self.config.judge is not None:
            made = make_pairs(self.judged, output=self.preferences, **stage.model_dump(exclude={"min_pairs"}))
        if self.config.revise is not None:
            made.pairs += read_records(self.revised_pairs, PreferencePair)
            write_records(self.preferences, made.pairs)
        if len(made.pairs) < stage.min_pairs:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in list(made.reasons.items())[:3])
            raise DataError(
                f"only {len(made.pairs)} preference pairs, and pairs.min_pairs asks for {stage.min_pairs} ({reasons}). "
                "Sample more responses (generate.n), use more prompts, or relax the rules (pairs.*)"
            )
        return {"pairs": len(made.pairs), "longer_chosen": made.longer_chosen, "skipped": made.reasons}

    def _train(self, over: bool) -> dict[str, Any]:
        from rlaif.training.run import train

        stages = []
        for config in train_configs(self.config, self.beside):
            done = train(config, overwrite=over and config.output.exists())
            stages.append({"method": config.method, "folder": str(config.output), **_told(done)})
        return {**stages[-1], "stages": stages}

    def _evaluate(self, over: bool) -> dict[str, Any]:
        from rlaif.evaluation import evaluate

        stage = self.config.evaluate
        assert stage is not None
        prompts = read_prompts(source_path(stage.prompts, self.beside), system=stage.system)
        result = evaluate(
            self.config.engine.config(str(self.trained)),
            self.config.engine.config(self.config.model),
            prompts.prompts,
            _judge_name(stage.judge, self.beside),
            n=stage.n,
            sampling=stage.sampling,
            votes=stage.votes,
            judge_models=judging_models(self.config, stage),
            max_unparsed=stage.max_unparsed,
            measure_relevance=stage.relevance,
            output=self.folder("evaluate"),
            overwrite=over,
        )
        return result.as_dict()


def _told(done: "TrainResult") -> dict[str, Any]:
    return {"steps": done.steps, "rows": done.rows, "skipped": done.skipped, "metrics": done.metrics}


def _claim(config: RecipeConfig, overwrite: bool) -> None:
    """Writes the resolved configuration into the run folder, or refuses another run's folder, naming the keys."""
    import yaml

    path = config.output / "config.yaml"
    now = config.model_dump(mode="json")
    if path.exists() and not overwrite:
        before = load_config(path, RecipeConfig).model_dump(mode="json")
        was, is_now = _flat(before), _flat(now)
        changed = [
            key for key in was.keys() | is_now.keys() if was.get(key) != is_now.get(key) and not _may_change(key)
        ]
        if changed:
            raise ConfigError(
                f"{config.output}: holds a run with another configuration; changed: {', '.join(sorted(changed))}. "
                "Give another --output, or --overwrite to start again"
            )
        if not any(was.get(key) != is_now.get(key) for key in was.keys() | is_now.keys()):
            return
    write_text(path, yaml.safe_dump(now, sort_keys=False, allow_unicode=True))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "python": platform.python_version(),
        "versions": package_versions(),
        "seeds": {key: value for key, value in _flat(now).items() if key.split(".")[-1] == "seed"},
    }
    write_text(config.output / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def _may_change(key: str) -> bool:
    """Whether a key may differ in a run folder: later stages start over by themselves, limits change no answer."""
    stage, _, rest = key.partition(".")
    if stage in ("pairs", "train", "evaluate", "description"):
        return True
    return rest.split(".")[-1] in LIMITS


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _judge_name(name: str, beside: Path) -> str:
    return str(resources.find("judges", name, beside))


def _read_by(config: OnlineConfig) -> list[Path]:
    """The files that an online stage reads: its prompts, its judges and their baselines."""
    sources = (*config.rewards, *config.watch)
    judges = [file for source in sources for file in _judge_files(source.judge, Path())]
    baselines = [Path(source.baseline) for source in sources if source.baseline and Path(source.baseline).is_file()]
    return [*_existing(str(config.data)), *judges, *baselines]


def _judge_files(name: str, beside: Path) -> list[Path]:
    """Every file a judge consists of: its own, its members', their templates and labels."""
    from rlaif.judges.config import ChecklistConfig, EnsembleConfig, HumanConfig, LLMJudgeConfig, load_judge_file
    from rlaif.judges.human import labels_file

    config, path = load_judge_file(name, beside)
    if isinstance(config, EnsembleConfig):
        return [path, *(file for member in config.members for file in _judge_files(member.judge, path.parent))]
    if isinstance(config, HumanConfig):
        return [path, labels_file(config, path.parent)]
    templates = [config.prompt, *config.variants] if isinstance(config, LLMJudgeConfig) else []
    if isinstance(config, ChecklistConfig) and config.write is not None:
        templates.append(config.write.prompt)
    return [path, *(resources.find("prompts", template, path.parent) for template in templates)]


def _existing(name: str) -> list[Path]:
    return [Path(name)] if os.path.isfile(name) else []


def _hash(path: Path) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
