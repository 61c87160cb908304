"""YAML files to typed configurations: every value passes through a model, all errors of a file are told at once."""

import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from rlaif.errors import ConfigError, did_you_mean


class Config(BaseModel):
    """Base of all configurations: unknown keys and numbers that are not finite are refused, and each field's docstring
    is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


C = TypeVar("C", bound=BaseModel)
Location = list[int | str]
UNION_BRANCHES = {"int", "float", "str", "bool", "list", "dict"}
"""How pydantic calls the branches of a union in the place of an error; with a bracket, they are told by that."""


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


def validate(data: dict[str, Any], kind: type[C], where: str, *, given: Collection[str] = ()) -> C:
    """`data` as a configuration of `kind`. Raises ConfigError listing every wrong key and value with the allowed ones.

    where: what is named before each error. given: keys that stand elsewhere (a flag), so that it is not named for them.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, kind, where, given))) from None


def load_config(path: Path, kind: type[C]) -> C:
    """A YAML file as a configuration of `kind`."""
    return validate(read_yaml(path), kind, str(path))


def _explain(error: ValidationError, kind: type[BaseModel], where: str, given: Collection[str]) -> list[str]:
    """One line for each wrong key. What the branches of a union say of one key is joined."""
    found: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        found.setdefault(tuple(_location(item)), []).append(item)
    lines = []
    for location, items in found.items():
        if location and any(other[: len(location)] == location for other in found if other != location):
            continue  # another branch of the union came further
        prefix = "" if location and location[0] in given else f"{where}: "
        lines.append(prefix + _message(list(location), items, kind))
    return lines


def _location(item: ErrorDetails) -> Location:
    """The keys that lead to the wrong value."""
    first, *inner = item["loc"] or ("",)
    deeper = [part for part in inner if not (isinstance(part, str) and ("[" in part or part in UNION_BRANCHES))]
    return [first, *deeper] if first else []


def _message(location: Location, items: list[ErrorDetails], kind: type[BaseModel]) -> str:
    key, item = ".".join(str(part) for part in location), items[0]
    if item["type"] == "extra_forbidden":
        allowed = _fields_at(kind, location[:-1])
        near = did_you_mean(str(location[-1]), allowed)
        listing = f"; allowed: {', '.join(sorted(allowed))}" if allowed and not near else ""
        return f"unknown key '{key}'{near}{listing}"
    if item["type"] == "missing":
        return f"missing key '{key}'"
    said = [_plain_words(each, _fields_at(kind, location)) for each in items]
    message = " or ".join([said[0], *(other.removeprefix("Input should be ") for other in said[1:])])
    shown = item["type"] != "value_error" and not isinstance(item["input"], dict | list)
    return (f"{key}: " if key else "") + message + (f" (found {item['input']!r})" if shown else "")


def _plain_words(item: ErrorDetails, fields: set[str]) -> str:
    """pydantic's message, without the names of Python's types."""
    match item["type"]:
        case "model_type" | "model_attributes_type":
            return f"Input should be a mapping with any of the keys {', '.join(sorted(fields))}"
        case "dict_type":
            return "Input should be a mapping"
        case "tuple_type" | "list_type":
            return "Input should be a list"
        case "float_parsing" | "int_parsing":
            return item["msg"].partition(", unable")[0]
    return item["msg"].removeprefix("Value error, ")


def _fields_at(kind: type[BaseModel], location: Location) -> set[str]:
    """The names of the fields of the models found by walking `location` from `kind`."""
    models = {kind}
    for part in location:
        if isinstance(part, int):
            continue
        named = {model for model in models if part in model.model_fields}
        if named:
            models = {inner for model in named for inner in _models_in(model.model_fields[part].annotation)}
        else:
            models = {model for model in models if _is_named(model, part)} or models
    return {name for model in models for name in model.model_fields}


def _is_named(model: type[BaseModel], name: str) -> bool:
    """Whether a union tells the model by this name: a field of it may have no other value, or few others."""
    return any(name in typing.get_args(field.annotation) for field in model.model_fields.values())


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return {annotation} if issubclass(annotation, BaseModel) else set()
    return {model for inner in typing.get_args(annotation) for model in _models_in(inner)}
