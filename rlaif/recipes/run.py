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
from typing import Any

from rlaif import resources
from rlaif.config import load_config
from rlaif.errors import ConfigError, DataError
from rlaif.inputs import read_prompts
from rlaif.progress import say
from rlaif.recipes.config import RecipeConfig, judging_models, load_recipe, source_path, train_config
from rlaif.records import write_text
from rlaif.training.run_folder import package_versions
from rlaif.types import SCHEMA_VERSION

STAGES = ("generate", "judge", "pairs", "train", "evaluate")


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
            "generate": _existing(source_path(config.generate.prompts, self.beside)),
            "judge": [self.responses, *_judge_files(config.judge.judge, self.beside)],
            "pairs": [self.judged],
            "train": [self.preferences],
            "evaluate": [],
        }
        if name == "evaluate" and config.evaluate is not None:
            files["evaluate"] = [
                *_existing(source_path(config.evaluate.prompts, self.beside)),
                *_judge_files(config.evaluate.judge, self.beside),
                self.preferences,
            ]
        return {str(path): _hash(path) for path in files[name]}

    def _generate(self) -> dict[str, Any]:
        from rlaif.generation import generate

        stage = self.config.generate
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

    def _judge(self) -> dict[str, Any]:
        from rlaif.judges.run import judge

        stage = self.config.judge
        judged = judge(
            self.responses,
            _judge_name(stage.judge, self.beside),
            votes=stage.votes,
            models=judging_models(self.config, stage),
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
        prompts = read_prompts(source_path(stage.prompts, self.beside), system=stage.system)
        self._check_held_out({prompt.id for prompt in prompts.prompts})
        result = evaluate(
            self.config.engine.config(str(self.folder("train"))),
            self.config.engine.config(self.config.model),
            prompts.prompts,
            _judge_name(stage.judge, self.beside),
            n=stage.n,
            sampling=stage.sampling,
            votes=stage.votes,
            judge_models=judging_models(self.config, stage),
            measure_relevance=stage.relevance,
            output=self.folder("evaluate"),
            overwrite=self.overwrite,
        )
        return result.as_dict()

    def _check_held_out(self, held_out: set[str]) -> None:
        stage = self.config.generate
        trained = read_prompts(source_path(stage.prompts, self.beside), system=stage.system, limit=stage.limit)
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
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "python": platform.python_version(),
        "versions": package_versions(),
        "seeds": {key: value for key, value in _flat(now).items() if key.split(".")[-1] == "seed"},
    }
    write_text(config.output / "manifest.json", json.dumps(manifest, indent=1) + "\n")


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
