"""The run folder: what is in it, whether it is this run's, finished or to be continued."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

import rlaif
from rlaif.errors import ConfigError, DataError
from rlaif.inputs import is_data_set, read_rows
from rlaif.progress import say
from rlaif.records import write_text
from rlaif.training.checkpoints import checkpoints
from rlaif.training.config import TrainConfig

MANIFEST = "manifest.json"
KIND = "training run"
"""Tells the manifest from that of a recipe: only folders of this kind are ever deleted."""
CONFIG = "config.yaml"
MAY_CHANGE = {
    "output": "the folder may have been moved",
    "micro_batch_tokens": "only how a step's rows are divided: the result is the same to rounding",
    "gradient_checkpointing": "the same numbers, computed twice",
    "compile": "the same numbers to rounding",
    "keep_checkpoints": "only what is kept of the way",
    "save_steps": "only what is kept of the way",
    "logging_steps": "only what is told of the way",
    "patience_minutes": "only when an outage ends the run",
    "eval_steps": "only what is told of the way: an evaluation changes no state",
}
"""Keys that may differ when a run is continued, and why: they change no result (but rounding)."""
PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors")


def data_hash(data: Path) -> str:
    """The SHA-256 of a data file, or of the rows of a data set, in hex. Raises DataError if it is missing or empty."""
    return _rows_hash(data) if is_data_set(data) else _file_hash(data)


def _rows_hash(data: Path) -> str:
    digest = hashlib.sha256()
    for _, row in read_rows(data):
        digest.update(json.dumps(row, default=str).encode() + b"\n")
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (pairs are made by 'rlaif judge' or 'rlaif pairs')") from None
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path}: can not be read: {error.strerror}") from None
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; it must hold one JSON row a line")
    return digest.hexdigest()


def settings(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON values, `auto` decided where that needs no machine."""
    values: dict[str, Any] = config.model_dump(mode="json")
    values["learning_rate"] = config.peak_learning_rate
    return values


def _lasting(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what may differ when a run is continued, as where a server is that answers."""
    kept = {key: value for key, value in values.items() if key not in MAY_CHANGE}
    if isinstance(kept.get("rollouts"), dict):
        kept["rollouts"] = {key: kept["rollouts"].get(key) for key in ("engine", "ahead")}
    return kept


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a training run's folder, None if the folder is none (yet)."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest if manifest.get("kind") == KIND else None


def check_place(config: TrainConfig, *, overwrite: bool = False) -> None:
    """Raises ConfigError if the run would write into a model that it reads, or (overwrite) delete what it reads."""
    output = config.output.resolve()
    for key in ("model", "reference_model", "init_adapter", "critic_model", "data"):
        name = getattr(config, key, None)
        if name is None or not Path(name).exists():
            continue
        path = Path(name).resolve()
        if path.is_dir() and output.is_relative_to(path):
            raise ConfigError(
                f"output: {config.output} is in the folder of {key} ({name}), which would be written into; "
                "choose another -o"
            )
        if overwrite and path.is_relative_to(output):
            raise ConfigError(
                f"--overwrite would delete {config.output}, and {key} ({name}) is in it; choose another -o, or move it"
            )


def check_same_run(folder: Path, config: TrainConfig, data_hash: str) -> dict[str, Any] | None:
    """The manifest of the run in `folder`, None if a new one may start there.

    Raises ConfigError if the folder holds another run, naming the keys and both values, or something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file, and the output must be a folder; choose another -o")
    manifest = read_manifest(folder)
    if manifest is None:
        if folder.is_dir() and any(not path.name.endswith(".tmp") for path in folder.iterdir()):
            raise ConfigError(f"{folder}: is not empty and holds no training run; choose another -o")
        return None
    old, new = _lasting(manifest["config"]), _lasting(settings(config))
    changed = [
        f"  {key}: was {json.dumps(old.get(key))}, now {json.dumps(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if manifest["data_hash"] != data_hash:
        changed.append(f"  the content of {config.data}: hash was {manifest['data_hash'][:16]}, now {data_hash[:16]}")
    if changed and not manifest["finished"] and not checkpoints(folder / "checkpoints"):
        say(f"{folder}: an earlier run with other settings never came to a checkpoint; it is started over")
        remove_run(folder)
        return None
    if changed:
        listing = "\n".join(changed)
        raise ConfigError(
            f"{folder}: holds a run with another configuration:\n{listing}\n"
            "Choose another -o, change these back, or start over with --overwrite (this deletes the old run)"
        )
    return manifest


def remove_run(folder: Path) -> None:
    """Deletes a run folder. Raises ConfigError if it is not one: nothing else is ever deleted."""
    if not folder.exists():
        return
    if read_manifest(folder) is None:
        if folder.is_dir() and not any(folder.iterdir()):
            return
        raise ConfigError(f"{folder}: --overwrite deletes only training runs, and this is not one; choose another -o")
    shutil.rmtree(folder)


def start_manifest(config: TrainConfig, data_hash: str) -> dict[str, Any]:
    """The manifest of a run that starts: configuration, hashes, seeds and versions."""
    return {
        "kind": KIND,
        "schema_version": 1,
        "finished": False,
        "config": settings(config),
        "data_hash": data_hash,
        "seed": config.seed,
        "versions": package_versions(),
    }


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest, and the configuration beside it as YAML that can be used again."""
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / CONFIG, yaml.safe_dump(manifest["config"], sort_keys=False, allow_unicode=True))


def package_versions() -> dict[str, str | None]:
    """The versions of rlaif and of the packages that decide results; None for one that is not installed."""
    return {"rlaif": rlaif.__version__, **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
