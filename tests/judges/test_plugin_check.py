"""Checks from installed packages: a small distribution is made on the path."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif.errors import ConfigError
from rlaif.judges.ensemble import load_ensemble
from rlaif.judges.judge import Item
from rlaif.judges.program_judge import ProgramJudge, program_judgment
from rlaif.types import Judgment, Response, Score

CODE = """
def shorter(response, than):
    return len(response.text) < than

def share(response, value=0.5):
    return value

def crash(response):
    raise KeyError("missing")

def half(response):
    raise ValueError("half a character: \\ud800")

number = 7
"""
ENTRIES = """[rlaif.checks]
shorter = {module}:shorter
share = {module}:share
crash = {module}:crash
half = {module}:half
number = {module}:number
gone = {module}:gone
"""


def install(folder: Path, name: str, version: str) -> None:
    """A distribution as pip leaves it."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(CODE)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(ENTRIES.format(module=module))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for module in ("my_checks", "other_checks"):
        sys.modules.pop(module, None)


def load(tmp_path: Path, check: str, score: str = "all") -> ProgramJudge:
    file = tmp_path / "judge.yaml"
    file.write_text(f"kind: program\nchecks:\n  - {{check: plugin, {check}}}\nscore: {score}\n")
    return load_ensemble(str(file)).programs[0]


def judge(tmp_path: Path, response: Response, check: str, score: str = "all") -> Judgment:
    return program_judgment(load(tmp_path, check, score), Item((response,)))


def test_a_function_decides_and_its_package_is_named(
    tmp_path: Path, site: Path, make_response: Callable[..., Response]
) -> None:
    install(site, "my-checks", "1.2")
    judgment = judge(tmp_path, make_response("abc"), "name: shorter, arguments: {than: 4}")
    assert judgment.outcome == Score(score=1)
    assert judgment.parts == {"0:plugin:shorter": 1.0}
    assert json.loads(judgment.raw)["packages"] == ["my-checks 1.2"]
    assert judge(tmp_path, make_response("abcd"), "name: shorter, arguments: {than: 4}").outcome == Score(score=0)


def test_another_version_is_another_judge(tmp_path: Path, site: Path) -> None:
    install(site, "my-checks", "1.2")
    before = load(tmp_path, "name: share").template_hash
    (site / "my_checks-1.2.dist-info" / "METADATA").write_text("Name: my-checks\nVersion: 1.3\n")
    assert load(tmp_path, "name: share").template_hash != before


@pytest.mark.parametrize(
    ("value", "score"), [("0.25", 0.25), ("1", 1), ("true", 1), ("null", None), ("1.5", None), ("text", None)]
)
def test_shares_and_what_is_none(
    tmp_path: Path, site: Path, make_response: Callable[..., Response], value: str, score: float | None
) -> None:
    install(site, "my-checks", "1.2")
    judgment = judge(tmp_path, make_response("x"), f"name: share, arguments: {{value: {value}}}", "mean")
    assert judgment.outcome == (None if score is None else Score(score=score))
    assert judgment.reason == (None if score is not None else "undecided")
    assert judgment.parts == {"0:plugin:share": score}


def test_an_exception_is_a_reason(tmp_path: Path, site: Path, make_response: Callable[..., Response]) -> None:
    install(site, "my-checks", "1.2")
    judgment = judge(tmp_path, make_response("x"), "name: crash")
    assert judgment.outcome is None
    assert "KeyError: 'missing'" in judgment.raw
    half = judge(tmp_path, make_response("x"), "name: half")
    assert "half a character: \\\\ud800" in half.model_dump_json()


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("name: shortr", "did you mean 'shorter'"),
        ("name: shortr", "share (my-checks 1.2)"),
        ("name: gone", "can not be loaded: AttributeError"),
        ("name: number", "is not a function"),
        ("name: shorter", "missing a required argument: 'than'"),
        ("name: share, arguments: {valu: 1}", "unexpected keyword argument 'valu'"),
    ],
)
def test_what_can_not_work_is_told_when_it_is_loaded(tmp_path: Path, site: Path, check: str, says: str) -> None:
    install(site, "my-checks", "1.2")
    with pytest.raises(ConfigError) as error:
        load(tmp_path, check)
    assert says in str(error.value)
    assert "judge.yaml: checks.0" in str(error.value)


def test_without_any_installed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rlaif\.checks: none"):
        load(tmp_path, "name: shorter")


def test_one_name_in_two_packages_is_refused(tmp_path: Path, site: Path) -> None:
    install(site, "my-checks", "1.2")
    install(site, "other-checks", "0.1")
    with pytest.raises(ConfigError, match=r"my-checks 1\.2 and other-checks 0\.1"):
        load(tmp_path, "name: share")
