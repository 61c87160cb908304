"""Presets, and every refusal: what, why, what instead."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlaif import resources
from rlaif.errors import ConfigError, RlaifError
from rlaif.training import TrainConfig, load_preset
from rlaif.training.arguments import OWNED, check_trainer_keys
from rlaif.training.config import METHODS, check_method

NEEDED: dict[str, Any] = {"model": "m", "data": "d.jsonl", "output": "o"}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_a_preset_with_a_sentence_above_every_key(method: str) -> None:
    config = load_preset(method, **NEEDED)
    assert config.method == method
    check_trainer_keys(config)
    lines = resources.find("train", method).read_text().splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith(("#", " ")):
            assert lines[number - 1].startswith("#"), f"no sentence above {line!r}"


def test_every_field_is_documented() -> None:
    assert [name for name, field in TrainConfig.model_fields.items() if not field.description] == []


def test_flags_win_over_the_preset_and_mappings_merge() -> None:
    config = load_preset("dpo", **NEEDED, beta=0.5, lora={"r": 4}, epochs=None, trainer={"warmup_steps": 3})
    assert (config.beta, config.lora.r, config.lora.alpha, config.epochs) == (0.5, 4, 32, 1)
    assert config.trainer == {"lr_scheduler_type": "cosine", "warmup_steps": 3, "max_grad_norm": 1.0}


def test_learning_rate_as_yaml_reads_it() -> None:
    assert load_preset("dpo", **NEEDED, learning_rate="5e-7").peak_learning_rate == 5e-7
    assert load_preset("dpo", **NEEDED).peak_learning_rate == 1e-5
    assert load_preset("dpo", **NEEDED, full=True).peak_learning_rate == 1e-6


def test_the_reference_that_auto_stands_for() -> None:
    def kind(**changes: Any) -> str:
        return load_preset("dpo", **NEEDED, **changes).reference_kind

    assert (kind(), kind(epochs=2), kind(full=True)) == ("adapter-off", "cached", "cached")
    assert load_preset("sft", **NEEDED).reference_kind == "none"


REFUSED = [
    ({"bta": 1}, "unknown key 'bta' .did you mean 'beta'"),
    ({"lora": {"rank": 3}}, "unknown key 'lora.rank'"),
    ({"beta": -1}, "beta: Input should be greater than 0 .found -1"),
    ({"label_smoothing": 0.5}, "label_smoothing: Input should be less than 0.5"),
    ({"full": True, "reference": "adapter-off"}, "no adapter to switch off; use reference: cached"),
    ({"method": "sft", "label_smoothing": 0.1}, "label_smoothing belongs to dpo"),
    ({"method": "dop"}, "method: Input should be 'dpo' or 'sft'"),
    ({"loss": "ipo"}, "loss: Input should be 'sigmoid'"),
    ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
    ({"truncation": "cut"}, "truncation: Input should be 'drop', 'truncate-prompt-left' or 'raise'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_preset("dpo", **NEEDED, **changes)


def test_unknown_preset_and_method_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown train preset 'dpp' .did you mean 'dpo'"):
        load_preset("dpp", **NEEDED)
    with pytest.raises(ConfigError, match=r"unknown method 'stf' .did you mean 'sft'.*methods: dpo, sft"):
        check_method("stf")


def test_trainer_keys_unknown_or_owned_are_told_at_once() -> None:
    config = load_preset("dpo", **NEEDED, trainer={"warmup_step": 1, "gradient_accumulation_steps": 4})
    with pytest.raises(ConfigError) as caught:
        check_trainer_keys(config)
    assert "unknown key 'trainer.warmup_step' (did you mean 'warmup_steps'?)" in str(caught.value)
    assert "trainer.gradient_accumulation_steps can not be set here: a step is split by tokens" in str(caught.value)


def test_the_owned_keys_are_keys_of_transformers() -> None:
    import dataclasses

    from transformers import TrainingArguments

    assert {field.name for field in dataclasses.fields(TrainingArguments)} >= OWNED.keys()


def test_trainer_keys_reach_transformers(tmp_path: Path) -> None:
    from rlaif.training.arguments import training_arguments

    config = load_preset("dpo", **NEEDED, trainer={"adam_beta2": 0.95, "weight_decay": 0.1, "max_steps": 7})
    arguments = training_arguments(config, tmp_path, autocast=False)
    assert (arguments.adam_beta2, arguments.weight_decay, arguments.max_steps) == (0.95, 0.1, 7)
    assert arguments.gradient_accumulation_steps == 1
    assert config.total_steps(1000) == 7
    with pytest.raises(ConfigError, match=r"trainer: adm is not a valid OptimizerNames"):
        training_arguments(load_preset("dpo", **NEEDED, trainer={"optim": "adm"}), tmp_path, autocast=False)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, rlaif.training; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


BAD_FOLDERS: list[tuple[Callable[[Path], dict[str, Any]], str]] = [
    (lambda folder: {"data": folder / "none.jsonl"}, "none.jsonl: no such file"),
    (lambda folder: {"data": _touch(folder / "empty.jsonl")}, "empty.jsonl: the file is empty"),
    (lambda folder: {"data": _touch(folder / "b.jsonl", "{]\n")}, "b.jsonl:1: broken JSON"),
    (lambda folder: {"model": str(folder / "nowhere")}, "nowhere: no such model folder"),
    (lambda folder: {"output": _touch(folder / "x" / "notes.txt").parent}, "holds no training run"),
    (lambda folder: {"max_length": 20}, "no rows left to train on .11 left out, pair-0: too long"),
]


def _touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(("changes", "message"), BAD_FOLDERS)
def test_bad_input_is_one_clear_error(
    train_config: Any, tmp_path: Path, changes: Callable[[Path], dict[str, Any]], message: str
) -> None:
    from rlaif.training import train

    with pytest.raises(RlaifError, match=message):
        train(train_config(**changes(tmp_path)))


def test_several_processes_are_refused(train_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlaif.training import train

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RlaifError, match=r"WORLD_SIZE=2.*not supported yet"):
        train(train_config())


def test_an_adapter_whose_base_is_missing_is_refused(train_config: Any, tmp_path: Path, tokenizer: Any) -> None:
    from rlaif.training import train

    adapter = tmp_path / "adapter"
    tokenizer.save_pretrained(adapter)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone/base"}')
    with pytest.raises(RlaifError, match="belongs to the base model /gone/base, which is not there; put it back"):
        train(train_config(model=str(adapter)))
