"""`rlaif train`: flags reach the configuration, results are printed as text or JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rlaif.errors import ConfigError
from rlaif.training import run


@pytest.fixture
def invoke() -> Any:
    from rlaif.cli.train import train_command

    app = typer.Typer()
    app.command("train")(train_command)

    def call(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def test_flags_reach_the_configuration(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def fake(config: Any, *, overwrite: bool) -> run.TrainResult:
        seen.append((config, overwrite))
        return run.TrainResult(config.output, 3, {"loss": 0.5}, 10, 2)

    monkeypatch.setattr(run, "train", fake)
    flags = "dpo -m M --data d.jsonl -o out --full --lr 5e-7 --beta 0.3 --label-smoothing 0.1 --epochs 2 --batch-size 8"
    more = "--max-length 99 --truncation raise --seed 7 --save-steps 5 --overwrite --json"
    result = invoke(*flags.split(), *more.split())
    assert result.exception is None
    assert json.loads(result.stdout) == {"path": "out", "steps": 3, "metrics": {"loss": 0.5}, "rows": 10, "skipped": 2}
    ((config, overwrite),) = seen
    assert overwrite
    assert (config.full, config.peak_learning_rate, config.beta, config.label_smoothing) == (True, 5e-7, 0.3, 0.1)
    assert (config.epochs, config.batch_size, config.max_length, config.truncation) == (2, 8, 99, "raise")
    assert (config.seed, config.save_steps) == (7, 5)
    more = ["--loss", "sigmoid", "--loss", "sft", "--set", "trainer.warmup_steps=3", "--set", "beta=0.7"]
    assert invoke("dpo", "-m", "M", "--data", "d.jsonl", "-o", "out", "--lora-r", 4, *more).exception is None
    assert [term.name for term in seen[1][0].loss] == ["sigmoid", "sft"]
    assert (seen[1][0].trainer["warmup_steps"], seen[1][0].beta) == (3, 0.7)
    adapter = seen[1][0].lora
    assert (adapter.r, adapter.alpha, seen[1][0].full) == (4, 32, False)


def test_a_dry_run_prints_counts(invoke: Any, model_folder: Path, pairs_file: Path, tmp_path: Path) -> None:
    result = invoke("dpo", "-m", model_folder, "--data", pairs_file, "-o", tmp_path / "run", "--dry-run")
    assert result.exception is None
    assert "rows: 11 (left out: none)" in result.stdout
    assert "optimiser steps: 1" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dpoo"], "unknown method 'dpoo' .did you mean 'dpo'"),
        (["dpo", "-m", "M"], "missing --data, --output"),
        (
            ["sft", "-m", "M", "--data", "d", "-o", "o", "--label-smoothing", "0.1"],
            "--label-smoothing: sft has no such setting",
        ),
        (["dpo", "-m", "M", "--data", "d", "-o", "o", "--full", "--lora-r", "4"], "with --full there is no adapter"),
        (
            ["dpo", "-m", "M", "--data", "d", "-o", "o", "--full", "--set", "lora.dora=true"],
            "lora.dora: with --full there is no adapter",
        ),
        (
            ["dpo", "-m", "M", "--data", "d", "-o", "o", "--init-adapter", "a", "--lora-r", "4"],
            "lora.r: the adapter that --init-adapter names has its shape already",
        ),
        (["dpo", "-m", "M", "--data", "d", "-o", "o", "--seed", "4294967296"], "seed"),
        (["dpo", "-m", "M", "--data", "d", "-o", "o", "--set", "beta"], "--set beta: expected KEY=VALUE"),
        (["dpo", "-m", "M", "--data", "d", "-o", "o", "--set", "lora.rank=4"], "unknown key 'lora.rank'"),
        (["kto", "-m", "M", "--data", "d", "-o", "o", "--config", "dpo"], "is a preset of the method dpo, not kto"),
        (["dpo", "-m", "M", "--from", "N", "--data", "d", "-o", "o"], "all name the model to start from; give one"),
        (
            ["dpo", "-m", "M", "--lr", "1", "--set", "learning_rate=2"],
            "--set learning_rate=2: learning_rate is given by --lr too",
        ),
        (["dpo", "-m", "M", "--lora-r", "1", "--set", "lora={r: 2}"], "lora.r is given by --lora-r too"),
        (["dpo", "-m", "M", "--lora", "--set", "full=true"], "full is given by --full/--lora too"),
        (["dpo", "-m", "M", "--beta", "1", "--set", "beta.x=2"], "beta is given by --beta too"),
        (["dpo", "-m", "M", "--set", "beta=1", "--set", "beta=2"], "beta is given by --set beta=1 too"),
        (["dpo", "-m", "M", "--set", "method=kto"], "the method is the first argument: rlaif train kto"),
        (["dpo", "-m", "M", "--data", "d", "-o", "o", "--set", "name=x"], "unknown key 'name'"),
    ],
)
def test_refusals(invoke: Any, arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    with pytest.raises(ConfigError, match=message):
        raise result.exception
