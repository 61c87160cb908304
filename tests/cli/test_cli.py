"""The command line as a user meets it: help, exit statuses, one message per mistake."""

import json
import subprocess
import sys
from pathlib import Path

import forked
import pytest

COMMANDS = ("generate", "revise", "judge", "pairs", "train", "evaluate", "run", "ls", "show", "cp")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def rlaif(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return forked.run("-m", "rlaif", *map(str, arguments), cwd=cwd)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = rlaif(command, "--help")
    assert result.returncode == 0
    assert "Example: rlaif " + command in " ".join(result.stdout.split())


def test_help_and_listing_import_no_heavy_library() -> None:
    code = (
        "import sys, rlaif, rlaif.cli\n"
        "try:\n    rlaif.cli.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'openai', 'datasets', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_importing_the_library_and_its_functions_loads_no_torch() -> None:
    code = (
        "import sys, rlaif\n"
        "print([getattr(rlaif, name) for name in rlaif.__all__])\n"
        "assert all(callable(getattr(rlaif, n)) for n in ('generate', 'revise', 'judge', 'make_pairs', 'train', 'run'))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


MISTAKES = [
    (["generate", "none.jsonl", "-m", "m", "-o", "r.jsonl"], "none.jsonl: no such file"),
    (["generate", "broken.jsonl", "-m", "m", "-o", "r.jsonl"], "broken.jsonl:2: broken JSON"),
    (["generate", "ok.jsonl", "-m", "./no/model", "-o", "r.jsonl"], "no such model folder"),
    (["generate", "ok.jsonl", "-m", "m", "-o", "r.jsonl", "--top-p", "2"], "top_p"),
    (["generate", "ok.jsonl", "-m", "m", "-o", "r.jsonl", "--engine", "openai"], "OPENAI_API_KEY"),
    (["generate", "ok.jsonl", "-m", "m", "-o", "r.jsonl", "--max-requests", "3"], "--max-requests bounds paid endpoints"),
    (["generate", "ok.jsonl", "-m", "m", "-o", "r.jsonl", "--engine", "vllm", "--base-url", "http://x"], "--base-url belongs"),
    (["generate", "ok.jsonl", "-m", "m", "-o", "r.jsonl", "--base-url", "http://127.0.0.1:9/v1"], "127.0.0.1:9"),
    (["judge", "empty.jsonl", "-j", "brief", "-o", "v.jsonl"], "no responses in it"),
    (["judge", "responses.jsonl", "-j", "helpfull", "-o", "v.jsonl"], "did you mean 'helpful'?"),
    (["judge", "responses.jsonl", "-j", "helpful", "-o", "v.jsonl"], "names no model"),
    (["judge", "responses.jsonl", "-j", "wrong.yaml", "-o", "v.jsonl"], "did you mean 'prompt'?"),
    (["judge", "responses.jsonl", "-j", "undefined.yaml", "-o", "v.jsonl"], "undefined variable 'respons_a'"),
    (["judge", "ok.jsonl", "-j", "brief", "-o", "v.jsonl"], "ok.jsonl:1: not a Response"),
    (["judge", "responses.jsonl", "-j", "brief", "-o", "v.jsonl", "--max-requests", "3"], "--max-requests: belongs to a model"),
    (["revise", "responses.jsonl", "-c", "harmles", "-m", "m", "-o", "v.jsonl"], "did you mean 'harmless'?"),
    (["revise", "ok.jsonl", "-c", "harmless", "-m", "m", "-o", "v.jsonl"], "ok.jsonl:1: not a Response"),
    (["revise", "responses.jsonl", "-c", "harmless", "-m", "m", "-o", "v.jsonl", "--rounds", "99"], "rounds is 99"),
    (["revise", "responses.jsonl", "-c", "harmless", "-m", "./no/model", "-o", "v.jsonl"], "no such model folder"),
    (["revise", "responses.jsonl", "-c", "harmless", "-m", "m", "-o", "responses.jsonl"], "both read and written"),
    (["generate", "metadata.jsonl", "-m", "m", "-o", "r.jsonl"], "metadata.jsonl:1: metadata: expected an object"),
    (["generate", "ok.jsonl", "-m", "m", "-o", "ok.jsonl"], "both read and written"),
    (["train", "sft", "-m", "m", "--data", "ok.jsonl", "-o", "run", "--beta", "1"], "--beta: sft has no such setting"),
    (["train", "dpo", "-m", "m", "--data", "ok.jsonl", "-o", "recipe-run", "--overwrite"], "deletes only training runs"),
    (["train", "dpo", "-m", "m", "--data", "ok.jsonl", "-o", "recipe-run"], "holds no training run"),
    (["pairs", "responses.jsonl", "-o", "p.jsonl"], "responses.jsonl:1: not a Verdict"),
    (["train", "dpoo", "-m", "m", "--data", "p.jsonl", "-o", "run"], "did you mean 'dpo'?"),
    (["train", "dpo", "-m", "m", "--data", "none.jsonl", "-o", "run"], "none.jsonl: no such file"),
    (["run", "quickstrat"], "did you mean 'quickstart'?"),
    (["run", "recipe.yaml"], "did you mean 'judge'?"),
    (["show", "judges", "nope"], "unknown judge 'nope'"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ok.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "responses.jsonl").write_text((EXAMPLES / "responses.jsonl").read_text())
    (tmp_path / "wrong.yaml").write_text("kind: pairwise\npromt: helpful\n")
    (tmp_path / "t.j2").write_text("{{ respons_a }} {{ response_b }}")
    (tmp_path / "undefined.yaml").write_text("kind: pairwise\nprompt: t.j2\nengine: {model: m}\n")
    (tmp_path / "recipe.yaml").write_text("output: r\nmodel: m\ngenerate: {prompts: ok.jsonl}\njudge: {judg: brief}\n")
    (tmp_path / "metadata.jsonl").write_text('{"prompt": "a", "metadata": "x"}\n')
    (tmp_path / "recipe-run").mkdir()
    (tmp_path / "recipe-run" / "manifest.json").write_text('{"schema_version": 1}')
    return tmp_path


@pytest.mark.parametrize(("arguments", "told"), MISTAKES, ids=[told for _, told in MISTAKES])
def test_a_mistake_is_one_message_and_exit_status_2(
    folder: Path, arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    result = rlaif(*arguments, cwd=folder)
    assert result.returncode == 2, result.stderr
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert (folder / "recipe-run" / "manifest.json").exists()


def test_dry_runs_count_and_write_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    plan = rlaif("generate", folder / "ok.jsonl", "-m", "m", "-n", 3, "-o", folder / "r.jsonl", "--dry-run", "--json")
    assert json.loads(plan.stdout)["responses"] == 3
    plan = rlaif(
        "judge", folder / "responses.jsonl", "-j", "helpful", "-m", "m", "-o", folder / "v.jsonl", "--dry-run", "--json"
    )
    told = json.loads(plan.stdout)
    assert told["LLM votes"] == 2 * told["comparisons"]
    assert "# Answer A" in told["example"]
    command = (
        "revise",
        folder / "responses.jsonl",
        "-c",
        "harmless",
        "-m",
        "m",
        "-o",
        folder / "v.jsonl",
        "--rounds",
        2,
    )
    told = json.loads(rlaif(*command, "--dry-run", "--json").stdout)
    assert told["requests, at most"] == 4 * told["responses"] > 0
    assert "[assistant]\n(the critique)" in told["example"]
    plan = rlaif("run", "quickstart", "--dry-run", "--json")
    assert json.loads(plan.stdout)["responses"] == 256
    assert sorted(folder.iterdir()) == before


def test_a_shipped_file_is_shown_copied_and_not_overwritten(tmp_path: Path) -> None:
    assert "kind: pairwise" in rlaif("show", "judges", "helpful").stdout
    assert rlaif("cp", "judges", "helpful", tmp_path).returncode == 0
    again = rlaif("cp", "judges", "helpful", tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert "helpful" in json.loads(rlaif("ls", "judges", "--json").stdout)["judges"]


def test_judge_and_pairs_with_a_program_from_the_command_line(tmp_path: Path) -> None:
    judged, pairs = tmp_path / "judged.jsonl", tmp_path / "pairs.jsonl"
    result = rlaif("judge", EXAMPLES / "responses.jsonl", "-j", "brief", "-o", judged, "--pairs", pairs, "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["verdicts"] == told["new votes"] == 2
    again = json.loads(rlaif("judge", EXAMPLES / "responses.jsonl", "-j", "brief", "-o", judged, "--json").stdout)
    assert (again["new votes"], again["votes already there"]) == (0, 2)
    assert rlaif("pairs", judged, "-o", pairs, "--rule", "all").returncode == 0
