"""JSON answers: the response, or its fenced block, parses and is as a JSON schema says."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import regex
from pydantic import PrivateAttr, model_validator

from rlaif.errors import on_one_line
from rlaif.judges.programs.base import BaseCheck, Finding
from rlaif.judges.programs.patterns import REGEX_SECONDS
from rlaif.types import Response

FENCED = re.compile(r"^[^\S\n]*```(?i:json)[^\S\n]*\n(.*?)^[^\S\n]*```", re.DOTALL | re.MULTILINE)
HOLD_DATA = {"const", "enum", "default", "examples"}
"""The keywords of a schema whose values are data, so that a $ref in them refers to nothing."""


class JSONCheck(BaseCheck):
    """The response is JSON, bare or in a ```json block, and is as a JSON schema says, if one is given."""

    check: Literal["json"]
    json_schema: dict[str, Any] | bool | None = None
    """The JSON schema; its $schema says which draft (2020-12 by default). Nothing is fetched: a $ref must be inside."""
    fenced: bool = True
    """Whether a response with other text around its last ```json block is read from that block; false: only bare JSON."""
    _validator: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _compile(self) -> "JSONCheck":
        if self.json_schema is not None:
            self._validator = compile_schema(self.json_schema)
        return self

    def examine(self, response: Response) -> Finding:
        try:
            value = parse_json(response.text, self.fenced)
        except json.JSONDecodeError as error:
            return Finding(False, f"not JSON: {error}")
        except (RecursionError, ValueError) as error:
            return Finding(None, f"the JSON can not be read: {on_one_line(error)}")
        if self._validator is None:
            return Finding(True, "JSON")
        return _validate(self._validator, value)


def parse_json(text: str, fenced: bool = True) -> Any:
    """The value that the text, or the last ```json block in it, is. Raises json.JSONDecodeError (a ValueError)."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError:
        blocks = FENCED.findall(text) if fenced else []
        if not blocks:
            raise
        return json.loads(blocks[-1], parse_constant=_refuse_constant)


def compile_schema(schema: dict[str, Any] | bool) -> Any:
    """A validator of the schema. Raises ValueError if the schema is wrong or refers to something outside of it."""
    from jsonschema import FormatChecker
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, extend, validator_for
    from jsonschema_specifications import REGISTRY

    draft = validator_for(schema, default=None) if isinstance(schema, dict) else Draft202012Validator
    if draft is None:
        if "$schema" in schema:  # type: ignore[operator]  # not a bool here
            raise ValueError(f"unknown $schema {schema['$schema']!r}; leave it out for draft 2020-12")  # type: ignore[index]
        draft = Draft202012Validator
    try:
        # Without the library's look at patterns, which knows less than the expressions here: \p{L} is one of those.
        draft.check_schema(schema, format_checker=FormatChecker(()))
    except SchemaError as error:
        where = "/".join(map(str, error.absolute_path))
        raise ValueError(f"not a JSON schema{f' (at {where})' if where else ''}: {error.message}") from None
    # This registry knows the specifications only and never fetches, unlike the library's own default.
    validator = extend(draft, TIMED_KEYWORDS)(schema, registry=REGISTRY)
    _check_parts(validator, schema)
    return validator


def _check_parts(validator: Any, schema: Any) -> None:
    """Refuses what would only fail, or could hang, once a response is looked at."""
    keywords = dict(_keywords(schema))
    if "patternProperties" in keywords and "unevaluatedProperties" in keywords:
        raise ValueError("a schema with both patternProperties and unevaluatedProperties is not supported")
    for keyword, value in _keywords(schema):
        if keyword in ("$ref", "$dynamicRef") and isinstance(value, str):
            _check_reference(validator, value)
        elif keyword == "pattern" and isinstance(value, str):
            _check_pattern(value)
        elif keyword == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                _check_pattern(pattern)


def _check_reference(validator: Any, reference: str) -> None:
    try:
        validator._resolver.lookup(reference)
    except Exception as error:
        raise ValueError(
            f"the $ref '{reference}' is not in the schema ({on_one_line(error)}); nothing is fetched, put it into $defs"
        ) from None


def _check_pattern(pattern: str) -> None:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from None


def _keywords(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every keyword with its value, at any depth."""
    if isinstance(schema, list):
        for each in schema:
            yield from _keywords(each)
    elif isinstance(schema, dict):
        for keyword, value in schema.items():
            yield keyword, value
            if keyword not in HOLD_DATA:
                yield from _keywords(value)


def _validate(validator: Any, value: Any) -> Finding:
    """The first thing that is not as the schema says, the outermost first."""
    try:
        error = min(validator.iter_errors(value), key=lambda each: len(each.absolute_path), default=None)
    except TimeoutError:
        return Finding(None, f"a pattern of the schema timed out after {REGEX_SECONDS:g} s")
    except Exception as error:  # on any value the library may meet: the run goes on
        return Finding(None, f"the schema could not be applied: {on_one_line(error)}")
    if error is None:
        return Finding(True, "JSON as the schema says")
    where = "/".join(map(str, error.absolute_path))
    return Finding(False, f"not as the schema says{f' (at {where})' if where else ''}: {error.message[:200]}")


def _refuse_constant(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _found(pattern: str, text: str) -> bool:
    return regex.search(pattern, text, timeout=REGEX_SECONDS) is not None


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, str) and not _found(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: dict[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    for pattern, part in patterns.items() if isinstance(instance, dict) else ():
        for name, value in instance.items():
            if _found(pattern, name):
                yield from validator.descend(value, part, path=name, schema_path=pattern)


def _additional_properties(validator: Any, additional: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if not isinstance(instance, dict):
        return
    patterns = schema.get("patternProperties", {})
    extra = [
        name
        for name in instance
        if name not in schema.get("properties", {}) and not any(_found(pattern, name) for pattern in patterns)
    ]
    if additional is False and extra:
        yield ValidationError(f"keys that are not allowed: {', '.join(map(repr, extra))}")
    for name in extra if isinstance(additional, dict) else ():
        yield from validator.descend(instance[name], additional, path=name)


TIMED_KEYWORDS = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}
"""The keywords that search with a regular expression, with a time limit; the library's own have none."""
