"""rlaif bench as a user meets it."""

import json
import subprocess
from pathlib import Path

import forked
import pytest

from rlaif.cli.bench import SetName
from rlaif.gold.convert import SETS


def rlaif(*arguments: object) -> subprocess.CompletedProcess[str]:
    return forked.run("-m", "rlaif", *map(str, arguments))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [{"input": f"q{i}", "output_1": "one two", "output_2": "one", "label": 1 + (i > 2)} for i in range(4)]
    path = tmp_path / "LLMBar_Natural.json"
    path.write_text(json.dumps([*rows, {"input": 1}]))
    return path


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text("kind: program\nchecks: [{check: words, max: 1}]\n")
    return path


def test_help_names_every_set_and_gives_an_example() -> None:
    told = " ".join(rlaif("bench", "convert", "--help").stdout.split())
    assert all(name in told for name in SETS)
    assert list(SetName) == list(SETS)
    assert "Example: rlaif bench convert" in told
    assert "Example: rlaif bench judge" in " ".join(rlaif("bench", "judge", "-h").stdout.split())


def test_a_set_is_converted_and_a_judge_measured_on_it(source: Path, judge: Path, tmp_path: Path) -> None:
    gold, out = tmp_path / "gold.jsonl", tmp_path / "out"
    told = json.loads(rlaif("bench", "convert", "llmbar", source, "-o", gold, "--json").stdout)
    assert (told["rows read"], told["pairs"], told["rows skipped"]) == (5, 4, 1)
    assert told["better stored first, in the source"] == 0.75
    assert told["better stored first"] == 0.5
    assert (tmp_path / "gold.jsonl.d" / "skipped.jsonl").read_text().count("\n") == 1

    measured = rlaif("bench", "judge", gold, "-j", judge, "-o", out, "--json")
    assert measured.returncode == 0, measured.stderr
    (row,) = json.loads(measured.stdout)["measures"]
    assert (row["accuracy"]["value"], row["random"], row["longest"], row["first_stored"]) == (0.25, 0.5, 0.75, 0.5)
    assert (row["votes"], row["unparsed"], row["longest_pick_rate"]) == (8, 0, 0.0)
    assert json.loads(measured.stdout) == json.loads((out / "bench.json").read_text())

    shown = rlaif("bench", "judge", gold, "-j", judge, "--limit", 2).stdout
    assert "llmbar/Natural  2 " in shown
    assert "A judge's tie counts half" in shown


def test_a_dry_run_counts_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    rlaif("bench", "convert", "llmbar", source, "-o", gold)
    plan = rlaif("bench", "judge", gold, "-j", "helpful", "-m", "m", "-o", tmp_path / "out", "--dry-run", "--json")
    told = json.loads(plan.stdout)
    assert (told["comparisons"], told["LLM votes"]) == (4, 8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["convert", "llmbra", "x", "-o", "o"], "llmbra"),
        (["convert", "pandalm", "none", "-o", "o.jsonl"], "none: no such file or folder"),
        (["judge", "none.jsonl", "-j", "brief"], "none.jsonl: no such file"),
        (["judge", "{source}", "-j", "brief"], "broken JSON"),
        (["judge", "{raw}", "-j", "brief"], "rlaif bench convert"),
        (["judge", "{raw}", "-j", "brief", "--limit", "0"], "--limit"),
    ],
)
def test_a_mistake_is_one_message_and_exit_status_2(
    source: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    source.write_text(json.dumps([{"input": "q"}], indent=1))
    result = rlaif("bench", *(argument.format(source=source, raw=raw) for argument in arguments))
    assert result.returncode == 2, result.stderr
    assert told in result.stderr
    assert "Traceback" not in result.stderr
