"""YAML files to typed configurations: every value passes through a model, all errors of a file are told at once."""

import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rlaif.errors import ConfigError, did_you_mean


class Config(BaseModel):
    """Base of all configurations: unknown keys are refused, and each field's docstring is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


C = TypeVar("C", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError with file and line."""
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can not be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}:{line}: broken YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: broken YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(data).__name__}")
    return data


def validate(data: dict[str, Any], kind: type[C], where: str) -> C:
    """`data` as a configuration of `kind`. Raises ConfigError listing every wrong key and value with the allowed ones."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, kind, where))) from None


def load_config(path: Path, kind: type[C]) -> C:
    """A YAML file as a configuration of `kind`."""
    return validate(read_yaml(path), kind, str(path))


def _explain(error: ValidationError, kind: type[BaseModel], where: str) -> list[str]:
    lines = []
    for item in error.errors(include_url=False):
        location = [part for part in item["loc"] if not (isinstance(part, str) and "[" in part)]
        key = ".".join(str(part) for part in location)
        if item["type"] == "extra_forbidden":
            allowed = _fields_at(kind, location[:-1])
            near = did_you_mean(str(location[-1]), allowed)
            listing = f"; allowed: {', '.join(sorted(allowed))}" if allowed and not near else ""
            lines.append(f"{where}: unknown key '{key}'{near}{listing}")
        elif item["type"] == "missing":
            lines.append(f"{where}: missing key '{key}'")
        else:
            found = f" (found {item['input']!r})" if not isinstance(item["input"], dict | list) else ""
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {key}: {message}{found}" if key else f"{where}: {message}")
    return lines


def _fields_at(kind: type[BaseModel], location: list[int | str]) -> set[str]:
    """The names of the fields of the models found by walking `location` from `kind`."""
    models = {kind}
    for part in location:
        if isinstance(part, int):
            continue
        named = {model for model in models if part in model.model_fields}
        if named:
            models = {inner for model in named for inner in _models_in(model.model_fields[part].annotation)}
    return {name for model in models for name in model.model_fields}


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return {annotation} if issubclass(annotation, BaseModel) else set()
    return {model for inner in typing.get_args(annotation) for model in _models_in(inner)}
