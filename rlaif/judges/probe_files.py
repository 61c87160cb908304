"""The judge that is probed, as files of its own: what was asked can be read, and asked again, afterwards."""

from pathlib import Path
from typing import Any

import yaml

from rlaif.config import Config
from rlaif.judges.config import EnsembleConfig, load_judge_file
from rlaif.records import write_text

NO_PATHS = {"name", "description"}


def judge_with_defences(name: str, defences: bool, folder: Path, beside: Path | None = None) -> Path:
    """Writes a judge or ensemble with its defences all on or all off, and gives back the file.

    An ensemble asks all its votes, and its members are written beside it.
    """
    config, path = load_judge_file(name, beside)
    data: dict[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    data = {key: value if key in NO_PATHS else _found(value, path.parent) for key, value in data.items()}
    if isinstance(config, EnsembleConfig):
        data["stop"] = "all"
        for member, written in zip(config.members, data["members"], strict=True):
            own = folder / (member.name or Path(member.judge).stem)
            written["judge"] = str(judge_with_defences(member.judge, defences, own, path.parent).absolute())
    else:
        data |= _set(config, defences)
    file = folder / path.name
    write_text(file, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    return file


def _set(config: Config, defences: bool) -> dict[str, bool]:
    """The keys of the defences with their value, for a judge that has them (a program reads no instructions)."""
    return {key: defences for key in ("fences", "escape_control_tokens") if key in type(config).model_fields}


def _found(value: Any, beside: Path) -> Any:
    """The value, in which names of files beside the judge's file are whole paths."""
    if isinstance(value, str) and 0 < len(value) < 256 and "\n" not in value and (beside / value).is_file():
        return str((beside / value).absolute())
    if isinstance(value, dict):
        return {key: _found(item, beside) for key, item in value.items()}
    return [_found(item, beside) for item in value] if isinstance(value, list) else value
