"""Two real processes (gloo) against one: the same trajectory, and a fair division of the rows."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from safetensors.torch import load_file
from tiny import random_row, write_pairs

from rlaif import resources
from rlaif.errors import TrainError
from rlaif.training import train
from rlaif.training.checkpoints import read_metrics
from rlaif.training.rows import Row
from rlaif.training.sharding import Sharding, requested, zero_stage
from rlaif.training.steps import StepSampler, shares

CASES: dict[str, dict[str, Any]] = {
    "dpo": {"method": "dpo", "validation": 0.3, "eval_steps": 1},
    "aot": {"method": "dpo", "loss": "aot"},
    "kto": {"method": "kto"},
    "bco": {"method": "bco", "full": True, "validation": 0.3},
    "sft": {"method": "sft", "full": True},
    "tdpo": {"method": "tdpo"},
}


CODE = """
import json, sys
from torch.distributed.tensor import DTensor
from rlaif.training import parse_config, train
from rlaif.training.trainer import PolicyTrainer

class Watched(PolicyTrainer):
    def train(self, *args, **keys):
        kinds = {isinstance(weight, DTensor) for weight in self.model.parameters()}
        assert kinds == {sys.argv[2] == "fsdp"}, "weights are not as they should be"
        super().train(*args, **keys)
        assert all(weight.numel() == 0 for weight in self.model.parameters()) == (sys.argv[2] == "zero3")

from rlaif.training import session
session.PolicyTrainer = Watched
for config in json.loads(sys.argv[1]):
    train(parse_config(config))
"""
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def in_processes(count: int, configs: list[dict[str, Any]], **settings: str) -> None:
    """Trains each configuration in `count` processes as torchrun starts them; settings: environment variables."""
    kind = "fsdp" if "FSDP_VERSION" in settings else "zero3" if settings.get("ACCELERATE_DEEPSPEED_CONFIG_FILE") else ""
    code = CODE.replace("sys.argv[2]", repr(kind))
    done = forked.run_group(count, "-c", code, json.dumps(configs, default=str), env=settings)
    assert done.returncode == 0, done.stderr[-4000:]


def test_processes_give_the_trajectory_of_one(train_config: Any, tmp_path: Path) -> None:
    """8 rows at once, in micro-batches, and in two processes (float64: rounding only)."""
    data = write_pairs(tmp_path / "sure.jsonl", 14)
    configs = {}
    for name, keys in CASES.items():
        shared = {"data": data, "batch_size": 8, "dtype": "float64", "learning_rate": 1e-3, **keys}
        train(train_config(**shared, output=tmp_path / f"{name}-1x8", micro_batch_tokens=100_000))
        train(train_config(**shared, output=tmp_path / f"{name}-4x2", micro_batch_tokens=60))
        two = train_config(**shared, output=tmp_path / f"{name}-ranks", micro_batch_tokens=60)
        configs[name] = two.model_dump(mode="json")
    in_processes(2, list(configs.values()))
    for name in CASES:
        whole = read_metrics(tmp_path / f"{name}-1x8/metrics.jsonl")
        for other in ("4x2", "ranks"):
            lines = read_metrics(tmp_path / f"{name}-{other}/metrics.jsonl")
            for left, right in zip(whole, lines, strict=True):
                assert right.keys() == left.keys()
                for key, value in left.items():
                    assert right[key] == pytest.approx(value, rel=1e-6, abs=1e-9), (name, other, key)
        assert json.loads((tmp_path / f"{name}-ranks/manifest.json").read_text())["finished"]


def test_a_mistake_in_one_process_stops_all(train_config: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("x")
    config = train_config(output=tmp_path / "taken").model_dump(mode="json")
    with pytest.raises(AssertionError, match="holds no training run"):
        in_processes(2, [config])


def test_a_refusal_is_printed_by_the_first_process_alone(model_folder: Path, tmp_path: Path) -> None:
    """Twice, as a configuration that none of them can read, and, by torchrun, as data of which no row is left."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "chosen": null, "rejected": "b"}\n')
    command = ["-m", "rlaif", "train", "dpo", "-m", str(model_folder), "--data", str(bad), "-o", str(tmp_path / "run")]
    done = forked.run_group(2, *command, "--beta", "-1")
    assert done.returncode == 2
    assert done.stderr.count("error: beta: Input should be greater than 0") == 1
    assert "Traceback" not in done.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*torchrun, *command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stderr.count("no rows left to train on") == 1, done.stderr[-4000:]
    assert f"error: {bad}: no rows left to train on" in done.stderr
    assert "Traceback" not in done.stderr.split("torch/distributed")[0]
    assert "exitcode  : 2" in done.stderr


def test_an_error_of_another_process_is_printed_with_its_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once the launcher has not ended it, as it does after an error of the first."""
    from rlaif import cli

    waited: list[float] = []
    monkeypatch.setattr(cli, "app", lambda: raise_error())
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for number, local in ((0, 0), (3, 3), (8, 0)):
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("LOCAL_RANK", str(local))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == ["error: x", "error (process 3): x", "error (process 8): x"]
    assert waited == [20.0, 10.0]


def raise_error() -> None:
    raise TrainError("x")


SHARDED_CASES: dict[str, dict[str, Any]] = {
    **CASES,
    "sync": {"method": "dpo", "reference_sync": {"every": 1, "mixup": 0.5}},
    "cached": {"method": "dpo", "reference": "cached", "gradient_checkpointing": True},
    "rm": {"method": "rm"},
}


def test_sharded_weights_give_the_trajectory_of_whole_ones(train_config: Any, tmp_path: Path) -> None:
    """FSDP2 in two processes: what is logged and what is saved, of adapters and of whole models."""
    assert differences(SHARDED_CASES, train_config, tmp_path, FSDP, dtype="float64", rel=1e-6, abs=1e-9) == []


def differences(
    cases: dict[str, dict[str, Any]], train_config: Any, tmp_path: Path, settings: dict[str, str], *,
    dtype: str, rel: float, abs: float,
) -> list[tuple[str, str]]:  # fmt: skip
    """In which (case, metric or weight) two processes whose weights are spread as `settings` say differ from one."""
    data = write_pairs(tmp_path / "sure.jsonl", 14)
    configs = []
    for name, keys in cases.items():
        shared = {"data": data, "batch_size": 8, "dtype": dtype, "learning_rate": 1e-3, **keys}
        train(train_config(**shared, output=tmp_path / f"{name}-one"))
        configs.append(train_config(**shared, output=tmp_path / f"{name}-two").model_dump(mode="json"))
    in_processes(2, configs, **settings)
    found = []
    for name in cases:
        one, two = (read_metrics(tmp_path / f"{name}-{side}/metrics.jsonl") for side in ("one", "two"))
        for left, right in zip(one, two, strict=True):
            assert right.keys() == left.keys()
            # Where the margins are zero, rounding says which answer is ahead.
            compared = left.keys() - (
                {"rewards/accuracies"} if -1e-9 < left.get("rewards/margins", 1) < 1e-9 else set()
            )
            found += [(name, key) for key in compared if right[key] != pytest.approx(left[key], rel=rel, abs=abs)]
        saved = [weights(tmp_path / f"{name}-{side}") for side in ("one", "two")]
        assert saved[0].keys() == saved[1].keys()
        found += [
            (name, key)
            for key, weight in saved[0].items()
            if not torch.allclose(saved[1][key], weight, rtol=1e-5, atol=rel / 10)
        ]
    return found


def test_a_sharded_run_continues_as_if_it_had_not_stopped(train_config: Any, tmp_path: Path) -> None:
    """In two sharded processes bit for bit, and in one with whole weights up to rounding."""
    configs = [
        train_config(output=tmp_path / name, data=write_pairs(tmp_path / "sure.jsonl", 14), dtype="float64", full=full)
        for name, full in (("adapter", False), ("whole", True))
    ]
    dumped = [config.model_dump(mode="json") for config in configs]
    in_processes(2, dumped, **FSDP)
    before = [weights(config.output) for config in configs]
    for config in configs:
        forget_the_end(config.output)
    in_processes(2, dumped, **FSDP)
    for config, wanted in zip(configs, before, strict=True):
        found = weights(config.output)
        assert all(torch.equal(found[name], weight) for name, weight in wanted.items())
        forget_the_end(config.output)
        train(config)
        for name, weight in weights(config.output).items():
            torch.testing.assert_close(weight, wanted[name], rtol=1e-5, atol=1e-7)


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed; make test-deepspeed installs it"
)


def zero(stage: int, folder: Path) -> dict[str, str]:
    """The environment that accelerate's launcher makes for ZeRO on the CPU; stage 3 spreads even the smallest weight."""
    settings = {
        "DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
    }  # fmt: skip
    if stage == 2:
        return settings
    path = folder / "zero3.json"
    sizes = {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 0}
    auto = dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_clipping"), "auto")
    path.write_text(json.dumps({**auto, "zero_optimization": {"stage": 3, **sizes}, "gradient_accumulation_steps": 1}))
    return {**settings, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gives_the_trajectory_of_one_process(stage: int, train_config: Any, tmp_path: Path) -> None:
    cases = {name: keys for name, keys in SHARDED_CASES.items() if stage == 2 or name not in ("tdpo", "sync")}
    spread = zero(stage, tmp_path)
    assert differences(cases, train_config, tmp_path, spread, dtype="float32", rel=1e-4, abs=1e-5) == []


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_a_deepspeed_run_continues_as_if_it_had_not_stopped(stage: int, train_config: Any, tmp_path: Path) -> None:
    config = train_config(data=write_pairs(tmp_path / "sure.jsonl", 14), full=True)
    dumped = [config.model_dump(mode="json")]
    in_processes(2, dumped, **zero(stage, tmp_path))
    wanted = weights(config.output)
    forget_the_end(config.output)
    in_processes(2, dumped, **zero(stage, tmp_path))
    found = weights(config.output)
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())


@pytest.mark.parametrize("keys", [{"method": "tdpo"}, {"reference_sync": {"every": 1, "mixup": 0.5}}])
def test_what_zero3_can_not_do_is_refused(
    keys: dict[str, Any], train_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zero(3, tmp_path).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainError, match="use FSDP2 or ZeRO-2"):
        train(train_config(**keys))


def test_a_missing_configuration_of_deepspeed_is_told(train_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "nowhere.json")
    with pytest.raises(TrainError, match=r"nowhere\.json: not a configuration of DeepSpeed"):
        train(train_config())


@pytest.mark.parametrize("name", resources.names("accelerate"))
def test_accelerate_takes_every_shipped_configuration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what its launcher then asks for is what is done here."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    path = str(resources.find("accelerate", name))
    given = launch_command_parser().parse_args(["--config_file", path, "-m", "rlaif", "--help"])
    options, *_ = _validate_launch_command(given)
    options.deepspeed_fields_from_accelerate_config = ""
    environment = prepare_deepspeed_cmd_env(options)[1] if options.use_deepspeed else prepare_multi_gpu_env(options)
    requested.cache_clear()
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (requested() == Sharding(free_after_forward=True, offload=False)) == (name == "fsdp2")
    assert zero_stage() == {"zero2": 2, "zero3": 3}.get(name, 0)
    assert options.num_processes == 8
    requested.cache_clear()


def forget_the_end(run: Path) -> None:
    """Makes a finished run one that was killed after its first checkpoint, at step 2 of 4."""
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-4"]
    shutil.rmtree(run / "checkpoints/checkpoint-4")
    for path in run.glob("*.safetensors"):
        path.unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "finished": False}))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"FSDP_VERSION": "1"}, "fsdp_version: 1 is not possible: say fsdp_version: 2"),
        ({}, "fsdp_version: 1 is not possible: say fsdp_version: 2"),
        ({"FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, "say FULL_STATE_DICT"),
        ({"FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "use the key gradient_checkpointing"),
    ],
)
def test_what_is_not_done_of_accelerates_fsdp_is_refused(
    settings: dict[str, str], message: str, train_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested.cache_clear()
    for name, value in {"ACCELERATE_USE_FSDP": "true", **settings}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainError, match=message):
        train(train_config())


def test_rows_of_a_prompt_stay_together_and_tokens_are_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [random_row(generator, str(i), 5 + 3 * (i % 7), 4, 6) for i in range(20)]
    rows += [Row(f"twin {i}", rows[i].prompt, rows[i + 1].completions) for i in range(3)]
    parts = shares(rows, range(len(rows)), 4)
    assert sorted(index for part in parts for index in part) == list(range(23))
    homes = {rows[index].prompt: number for number, part in enumerate(parts) for index in part}
    assert all(homes[rows[index].prompt] == number for number, part in enumerate(parts) for index in part)
    loads = [sum(len(rows[i].prompt) + rows[i].completion_tokens for i in part) for part in parts]
    assert max(loads) < 1.3 * min(loads)


def test_every_epoch_shuffles_anew_and_uses_every_row_once() -> None:
    sampler = StepSampler(11, 4, seed=3)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        steps = list(sampler)
        assert list(map(len, steps)) == [4, 4, 3]
        assert sorted(index for step in steps for index in step) == list(range(11))
        epochs.append(steps)
    assert epochs[0] != epochs[1]
    assert list(StepSampler(11, 4, seed=3)) == epochs[0]
