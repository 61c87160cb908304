"""A whole recipe on the real model: killed in every stage and run again, it gives what an uninterrupted run gives."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
from forked import Forked

from rlaif.errors import ConfigError
from rlaif.recipes.config import load_recipe
from rlaif.recipes.run import run

RECIPE = """\
output: {output}
model: {model}
engine: {{batch_size: 1}}  # how a product is rounded may hang on how many rows it has, and samples and votes on that
generate:
  prompts: prompts.jsonl
  n: 3
  sampling: {{temperature: 1.0, max_tokens: 12, seed: 0}}
judge:
  judge: panel.yaml
  models: ["{{model}}"]
  engine: {{batch_size: 1}}
pairs: {{min_pairs: 3, keep_truncated: true}}
train: {{method: dpo, learning_rate: 1.0e-3, epochs: 2, batch_size: 2, save_steps: 1, lora: {{r: 2}}}}
evaluate:
  prompts: heldout.jsonl
  judge: short.yaml
  sampling: {{temperature: 1.0, max_tokens: 12, seed: 1}}
"""
QUESTIONS = ("What is tea?", "Name a river.", "Why is fire hot?", "Who are you?")


@pytest.fixture
def recipe(tmp_path: Path, model_path: str) -> Callable[[str], Path]:
    """Writes a small recipe whose run folder has the given name."""

    def write(name: str) -> Path:
        rows = [{"prompt": text} for text in QUESTIONS]
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "heldout.jsonl").write_text('{"prompt": "What is snow?"}\n{"prompt": "Name a bird."}\n')
        (tmp_path / "short.yaml").write_text("kind: program\nchecks: [{check: words, max: 8}]\n")
        (tmp_path / "panel.yaml").write_text(
            "kind: ensemble\nmembers: [{judge: short.yaml}, {judge: helpful, weight: 0}]\ncomparisons: screened\n"
        )
        path = tmp_path / f"{name}.yaml"
        path.write_text(RECIPE.format(output=tmp_path / name, model=model_path))
        return path

    return write


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines()) if path.exists() else []


def start(path: Path) -> Forked:
    return forked.start("-m", "rlaif", "run", str(path))


def kill_when(process: Forked, ready: Callable[[], bool]) -> bool:
    """SIGKILL as soon as `ready`; False if the process ended first."""
    deadline = time.monotonic() + 120
    while process.returncode is None and time.monotonic() < deadline:
        if ready():
            process.kill()
            return process.ended().returncode == -signal.SIGKILL
        time.sleep(0.01)
    done = process.ended()
    assert done.returncode == 0, done.stderr
    return False


def result_of(folder: Path) -> dict[str, object]:
    """Everything a run gives, without times and paths."""

    def rows(path: Path, *without: str) -> list[str]:
        found = [json.loads(line) for line in lines(path)]
        return sorted(json.dumps({key: value for key, value in row.items() if key not in without}) for row in found)

    def untimed(path: Path) -> list[str]:
        dropped = ("latency_seconds", "step_seconds", "train_runtime")
        return rows(path, *dropped)

    evaluation = json.loads((folder / "evaluate" / "evaluation.json").read_text())
    return {
        "responses": untimed(folder / "generate" / "responses.jsonl"),
        "judgments": untimed(folder / "judge" / "judged.jsonl.d" / "judgments.jsonl"),
        "verdicts": untimed(folder / "judge" / "judged.jsonl"),
        "pairs": untimed(folder / "pairs" / "preferences.jsonl"),
        "adapter": (folder / "train" / "adapter_model.safetensors").read_bytes(),
        "metrics": [json.loads(line)["loss"] for line in (folder / "train" / "metrics.jsonl").read_text().splitlines()],
        "evaluation": [evaluation[key] for key in ("wins", "ties", "losses")],
    }


@pytest.mark.model
def test_a_run_killed_in_every_stage_gives_what_an_uninterrupted_run_gives(recipe: Callable[[str], Path]) -> None:
    path = recipe("killed")
    folder = path.with_suffix("")
    moments: list[Callable[[], bool]] = [
        lambda: len(lines(folder / "generate" / "responses.jsonl")) >= 4,
        lambda: any('"helpful"' in line for line in lines(folder / "judge" / "judged.jsonl.d" / "judgments.jsonl")),
        lambda: len(lines(folder / "train" / "metrics.jsonl")) >= 2,
        lambda: len(lines(folder / "evaluate" / "responses.jsonl")) >= 1,
    ]
    assert all(kill_when(start(path), moment) for moment in moments)
    assert not kill_when(start(path), lambda: False)
    whole = recipe("whole")  # in a process as those were: how a product is rounded may hang on the number of threads
    assert not kill_when(start(whole), lambda: False)
    killed, uninterrupted = result_of(folder), result_of(whole.with_suffix(""))
    assert killed.keys() == uninterrupted.keys()
    for key in killed:
        assert killed[key] == uninterrupted[key], key

    files = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    again = start(path).ended()
    assert again.returncode == 0
    assert again.stderr.count("done before, not run again") == 5
    assert "picks first" in again.stdout
    changed = {file.name for file, time_ in files.items() if file.stat().st_mtime_ns != time_}
    assert changed == {"summary.md"}

    path.write_text(path.read_text().replace("min_pairs: 3", "min_pairs: 2"))
    run(path)
    path.write_text(path.read_text().replace("n: 3", "n: 4"))
    with pytest.raises(ConfigError, match=r"changed: generate\.n"):
        run(path)


def test_a_wrong_recipe_is_refused_with_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("output: o\nmodel: m\ngenerate: {prompts: p, n: 1}\njudge: {judg: brief}\ntrain: {model: x}\n")
    with pytest.raises(ConfigError) as error:
        load_recipe(str(path))
    told = str(error.value)
    assert "generate.n" in told
    assert "unknown key 'judge.judg' (did you mean 'judge'?)" in told
    path.write_text("output: o\nmodel: m\ngenerate: {prompts: p}\njudge: {judge: brief}\ntrain: {beeta: 1}\n")
    with pytest.raises(ConfigError, match=r"^\S*r\.yaml: train: unknown key 'beeta' \(did you mean 'beta'\?\)"):
        load_recipe(str(path))
    path.write_text("output: o\nmodel: m\ngenerate: {prompts: p}\njudge: {judge: helpful}\n")
    with pytest.raises(ConfigError, match="names no model"):
        load_recipe(str(path))
    path.write_text("output: o\nmodel: m\ngenerate: {prompts: p}\njudge: {judge: brief}\ntrain: {model: x}\n")
    with pytest.raises(ConfigError, match="set by the recipe itself"):
        load_recipe(str(path))


REVISE = """\
output: {output}
model: m
generate: {{prompts: prompts.jsonl, n: 2}}
revise: {{constitution: harmless, model: critic, rounds: 2}}
train: {{method: dpo}}
"""


def test_the_pairs_of_revisions_are_trained_on_beside_judged_ones_or_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rlaif.recipes.run as stages
    from rlaif.engines.base import Request
    from rlaif.engines.scripted import ScriptedEngine
    from rlaif.report.summary import write_summary

    def answer(request: Request, index: int) -> str:
        if len(request.messages) == 3:
            return f"A kinder answer to {request.key}."
        return "It is not kind." if "Criticise" in request.messages[0].content else f"answer {index}"

    opened: list[str] = []

    def engine(config: object) -> ScriptedEngine:
        opened.append(config.model)  # type: ignore[attr-defined]
        return ScriptedEngine(answer)

    monkeypatch.setattr("rlaif.generation.make_engine", engine)
    monkeypatch.setattr("rlaif.revision.session.make_engine", engine)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "What is tea?"}\n{"prompt": "Name a river."}\n')
    (tmp_path / "digit.yaml").write_text('kind: program\nchecks: [{check: contains, text: "1"}]\n')
    path = tmp_path / "r.yaml"
    for judge, revised, judged in (("", 4, 0), ("judge: {judge: digit.yaml}\n", 4, 2)):
        path.write_text(REVISE.format(output=tmp_path / f"run{judged}") + judge)
        config, _ = load_recipe(str(path))
        recipe = stages.Recipe(config, tmp_path, False)
        for name in ("generate", "revise", "judge", "pairs") if judge else ("generate", "revise", "pairs"):
            recipe.stage(name)
        rows = [json.loads(line) for line in recipe.preferences.read_text().splitlines()]
        rules = [row["provenance"]["rule"] for row in rows]
        assert (rules.count("revision"), rules.count("best-random")) == (revised, judged)
        assert recipe.results["pairs"]["pairs"] == revised + judged
        text = write_summary(config, {**recipe.results, "train": {"stages": [], "folder": "t"}})
        assert "4 of 4 responses were revised" in text
        assert ("verdicts" in text, "## Judges" in text) == (bool(judge), bool(judge))
        assert all(
            row["chosen"][-1]["content"].startswith("A kinder")
            for row in rows
            if row["provenance"]["rule"] == "revision"
        )
    assert opened == ["m", "critic"] * 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("revise: {", "#"), "missing key 'judge'; preferences come from judge, from revise, or from both"),
        (("train:", "pairs: {rule: all}\ntrain:"), "pairs: rule is for judged pairs"),
        (("harmless", "harmles"), "did you mean 'harmless'?"),
        (("rounds: 2", "rounds: 50"), "rounds is 50"),
    ],
)
def test_a_recipe_that_can_make_no_revisions_is_refused_before_anything_is_asked(
    tmp_path: Path, change: tuple[str, str], told: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(REVISE.format(output="o").replace(*change))
    with pytest.raises(ConfigError) as error:
        load_recipe(str(path))
    assert told in str(error.value)
