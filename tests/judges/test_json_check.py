"""JSON answers and schemas."""

import time
from collections.abc import Callable

import pytest
from pydantic import TypeAdapter, ValidationError

from rlaif.judges.programs import Check, examine, run_check
from rlaif.types import Response

CHECK = TypeAdapter(Check)
PERSON = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "friend": {"$ref": "#"}},
    "patternProperties": {"^x_": {"type": "integer"}},
    "additionalProperties": False,
}


def check(**keys: object) -> Check:
    return CHECK.validate_python({"check": "json", **keys})


@pytest.mark.parametrize(
    ("text", "fenced", "passes"),
    [
        ('{"a": [1, null]}', True, True),
        ("7", True, True),
        ("", True, False),
        ("{'a': 1}", True, False),
        ("NaN", True, False),
        ('{"a": 1} ok', True, False),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', True, True),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', False, False),
        ("```JSON\n1\n```", True, True),
        ("```json\n{bad}\n```\n```json\n[]\n```", True, True),
        ("```json\n[]\n```\n```json\n{bad}\n```", True, False),
        ("```json\n[]", True, False),
        ("```python\n[]\n```", True, False),
        ("[" * 100_000, True, None),
        ("9" * 5000, True, None),
    ],
)
def test_parsing(make_response: Callable[..., Response], text: str, fenced: bool, passes: bool | None) -> None:
    assert run_check(check(fenced=fenced), make_response(text)) is passes


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ('{"name": "Ann"}', True),
        ('{"name": "Ann", "friend": {"name": "Bob"}}', True),
        ('{"name": "Ann", "friend": {"name": "bob"}}', False),
        ('{"name": 1}', False),
        ("[]", False),
        ('{"name": "Ann", "x_1": 2}', True),
        ('{"name": "Ann", "x_1": "2"}', False),
        ('{"name": "Ann", "y": 2}', False),
    ],
)
def test_schema(make_response: Callable[..., Response], text: str, passes: bool) -> None:
    assert run_check(check(json_schema=PERSON), make_response(text)) is passes


def test_says_where_the_schema_is_not_met(make_response: Callable[..., Response]) -> None:
    found = examine((check(json_schema=PERSON),), make_response('{"name": "Ann", "friend": {"name": "bob"}}'))
    assert "friend/name" in found["0:json"].detail
    assert "y" in examine((check(json_schema=PERSON),), make_response('{"name": "A", "y": 1}'))["0:json"].detail


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "strin"}, "not a JSON schema"),
        ({"properties": {"a": {"minimum": "1"}}}, "properties/a/minimum"),
        ({"$schema": "http://nowhere/schema"}, "unknown $schema"),
        ({"$ref": "https://example.org/schema.json"}, "nothing is fetched"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "#/$defs/b"),
        ({"pattern": "("}, "regular expression"),
        ({"patternProperties": {"(": {}}}, "regular expression"),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, "not supported"),
    ],
)
def test_a_wrong_schema_is_refused_when_it_is_loaded(schema: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError) as error:
        check(json_schema=schema)
    assert says in str(error.value)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[object] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda url, *_, **__: fetched.append(url))
    with pytest.raises(ValidationError):
        check(json_schema={"$ref": "https://example.org/schema.json"})
    assert fetched == []


def test_a_reference_to_a_named_part_and_data_that_look_like_one_are_fine(
    make_response: Callable[..., Response],
) -> None:
    schema = {"$defs": {"n": {"$id": "n", "type": "integer"}}, "$ref": "n"}
    assert run_check(check(json_schema=schema), make_response("1")) is True
    assert run_check(check(json_schema=schema), make_response('"1"')) is False
    assert run_check(check(json_schema={"pattern": r"^\p{Lu}"}), make_response('"Éa"')) is True
    assert run_check(check(json_schema={"const": {"$ref": "x"}}), make_response('{"$ref": "x"}')) is True


@pytest.mark.parametrize("keyword", ["pattern", "patternProperties", "additionalProperties"])
def test_a_catastrophic_pattern_times_out(make_response: Callable[..., Response], keyword: str) -> None:
    slow, long = "^(a|aa)+$", "a" * 200 + "b"
    schema = {
        "pattern": {"pattern": slow},
        "patternProperties": {"patternProperties": {slow: {}}},
        "additionalProperties": {"patternProperties": {slow: {}}, "additionalProperties": False},
    }[keyword]
    text = f'"{long}"' if keyword == "pattern" else f'{{"{long}": 1}}'
    start = time.monotonic()
    finding = examine((check(json_schema=schema),), make_response(text))["0:json"]
    assert finding.value is None
    assert "timed out" in finding.detail
    assert time.monotonic() - start < 5


def test_a_schema_without_end_is_undecided(make_response: Callable[..., Response]) -> None:
    assert run_check(check(json_schema={"$ref": "#"}), make_response("1")) is None
