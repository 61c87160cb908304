"""The online benchmark's own side: the steps it times are those it says, and unequal work is not compared."""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.json_task.learn import COMMON, SETTINGS
from benchmarks.online_our_side import run
from benchmarks.online_tasks import GROUP, TASKS, GivenGroup, reward_of
from benchmarks.online_vs_trl import check_agreement
from benchmarks.stopwatch import Stopwatch
from rlaif.training import load_preset

FIRST = {"loss": 0.1, "grad_norm": 7.0, "entropy": 5.0, "kl": 2.5, "reward": 0.3}
LENGTHS = {"completions/min_length": 64, "completions/max_length": 64}


def options_of(task: str, model: Path, length: int) -> argparse.Namespace:
    """Two steps of two prompts, ids of the tiny model's bytes."""
    draw = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 259) for _ in range(count))

    groups = [GivenGroup(ids(9), tuple(ids(length) for _ in range(GROUP))) for _ in range(2)]
    return argparse.Namespace(task=TASKS[task], model=str(model), prompts=2, steps=2, groups=groups)


def responses(folder: Path) -> list[list[dict[str, Any]]]:
    """Of each group of the run, as its journal has them."""
    (path,) = folder.glob("rollouts/*/samples.jsonl")
    return [json.loads(line)["responses"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("task", ["learner", "learner-kl"])
def test_the_learner_learns_from_the_given_responses(model_folder: Path, tmp_path: Path, task: str) -> None:
    """Both groups in both steps. The rewards of a group less their mean sum to 0, so without KL the loss of responses of
    equal length is 0 in the first step; with it it is beta times the KL, which is not 0 as the adapter is not."""
    options, stopwatch = options_of(task, model_folder, length=40), Stopwatch()
    logs = run(options, tmp_path, stopwatch)
    found = responses(tmp_path)
    given = [[list(ids) for ids in group.responses] for group in options.groups]
    assert sorted([one["ids"] for one in group] for group in found) == sorted(given * 2)
    texts = [one["text"] for group in found[:2] for one in group]
    assert logs[0]["reward"] == pytest.approx(sum(map(reward_of, texts)) / len(texts))
    assert logs[0]["reward_std"] > 0
    if task == "learner-kl":
        assert logs[0]["kl"] > 1e-3
    assert logs[0]["loss"] == pytest.approx(TASKS[task].beta * logs[0].get("kl", 0.0), abs=1e-6)
    assert len(stopwatch.seconds) == len(stopwatch.cpu_seconds) == 2


def test_sampled_responses_do_not_stop_early(model_folder: Path, tmp_path: Path) -> None:
    """32 responses of 40 tokens by a random model of 260 tokens: a dozen of them have a token that would have ended them."""
    logs = run(options_of("whole", model_folder, length=40), tmp_path, Stopwatch())
    lengths = {len(one["ids"]) for group in responses(tmp_path) for one in group}
    assert lengths == {40}
    assert any(0 in one["ids"][:-1] for group in responses(tmp_path) for one in group)
    assert [line["completions/min_length"] for line in logs] == [40, 40]


def results_with(**changes: float) -> dict[str, Any]:
    return {"rlaif": {"logs": [FIRST | LENGTHS]}, "TRL": {"logs": [FIRST | LENGTHS | changes]}}


def test_equal_first_steps_are_compared() -> None:
    """Loss and gradient differ by less than a thousandth, and so does everything else."""
    compared = check_agreement(TASKS["learner-kl"], results_with(loss=0.10005, grad_norm=7.005))
    assert {"loss", "grad_norm", "kl", "completions/min_length"} <= set(compared)


@pytest.mark.parametrize(
    ("task", "key", "value"),
    [
        ("learner", "grad_norm", 7.1),
        ("learner-kl", "loss", 0.101),
        ("learner-kl", "kl", 2.6),
        ("whole", "completions/min_length", 63),
    ],
)
def test_unequal_first_steps_are_not_compared(task: str, key: str, value: float) -> None:
    with pytest.raises(AssertionError, match=key):
        check_agreement(TASKS[task], results_with(**{key: value}))


@pytest.mark.parametrize("method", SETTINGS)
def test_the_settings_of_the_learning_task_are_possible(method: str) -> None:
    config = load_preset(method, model="m", data="d", output="o", rewards="valid-json", **(COMMON | SETTINGS[method]))
    assert config.trainer["max_steps"] in (24, 40)
    assert (Path(__file__).parents[3] / "benchmarks/json_task/curves" / f"{method}.jsonl").is_file()
