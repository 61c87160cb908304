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
from rlaif.training import load_preset
from rlaif.training.arguments import OWNED, check_trainer_keys
from rlaif.training.config import METHODS, check_method, parse_config

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
    undocumented = [
        (method, name)
        for method, kind in METHODS.items()
        for name, field in kind.model_fields.items()
        if not field.description
    ]
    assert undocumented == []


@pytest.mark.parametrize("method", METHODS)
def test_a_preset_says_what_the_method_defaults_to(method: str) -> None:
    """So that Python without a preset is the same method; only batch size, epochs and the schedule are a preset's own."""
    preset = load_preset(method, **NEEDED).model_dump(exclude={"batch_size", "epochs", "trainer"})
    bare = parse_config({"method": method, **NEEDED}).model_dump(exclude={"batch_size", "epochs", "trainer"})
    assert preset == bare


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
    assert kind(reference_model="other") == "cached"
    assert kind(reference_sync={"every": 10}) == "copy"
    assert kind(reference="none") == "none"
    assert load_preset("kto", **NEEDED, epochs=3).reference_kind == "adapter-off"
    assert load_preset("kto", **NEEDED, full=True).reference_kind == "copy"
    assert load_preset("tdpo", **NEEDED, full=True).reference_kind == "copy"


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("dpo", {"bta": 1}, "unknown key 'bta' .did you mean 'beta'"),
    ("dpo", {"lora": {"rank": 3}}, "unknown key 'lora.rank'"),
    ("dpo", {"beta": -1}, "beta: Input should be greater than 0 .found -1"),
    ("dpo", {"label_smoothing": 0.5}, "label_smoothing: Input should be less than 0.5"),
    ("dpo", {"full": True, "reference": "adapter-off"}, "no adapter to switch off; use reference: cached"),
    ("sft", {"label_smoothing": 0.1}, "unknown key 'label_smoothing'"),
    ("dpo", {"method": "dop"}, "is a preset of the method dpo, not dop"),
    ("dpo", {"loss": "ippo"}, "unknown loss 'ippo' .did you mean 'ipo'.*losses: sigmoid, robust"),
    ("dpo", {"loss": ["sigmoid", {"name": "ipo", "avg": 1}]}, "unknown key 'loss.1.ipo.avg' .did you mean 'average'"),
    ("dpo", {"loss": []}, "name at least one loss"),
    ("dpo", {"loss": "robust"}, "loss robust needs label_smoothing above 0 .usual: 0.1"),
    ("dpo", {"loss": "hinge", "label_smoothing": 0.1}, "no loss of the list uses it"),
    ("dpo", {"loss": "hinge", "use_confidence": True}, "use_confidence works with the losses ipo, robust, sigmoid"),
    ("dpo", {"use_confidence": True, "label_smoothing": 0.1}, "use_confidence replaces label_smoothing"),
    ("dpo", {"loss": "sft"}, "loss: sft alone uses no pairs; use 'rlaif train sft'"),
    ("dpo", {"loss": "ipo", "divergence": "forward_kl"}, "divergence is not defined for the loss ipo"),
    ("dpo", {"loss": "aot", "ld_alpha": 0.5}, "ld_alpha is not defined for the loss aot"),
    ("dpo", {"loss": "aot", "weighting": "wpo"}, "wpo is not defined for aot"),
    ("dpo", {"loss": "apo_zero", "reference": "none"}, "reference: none is impossible with loss apo_zero"),
    ("dpo", {"reference_sync": {}, "reference": "cached"}, "reference_sync changes the reference while training"),
    ("dpo", {"reference": "none", "reference_model": "x"}, "reference: none uses no reference_model"),
    ("tdpo", {"reference": "cached"}, "whole distribution at every token; use reference: auto"),
    ("kto", {"reference": "cached"}, "pairs each prompt with another row's answer, anew in every step"),
    ("kto", {"reference": "none"}, "kto compares each answer with the reference"),
    ("cpo", {"loss": "hinge", "label_smoothing": 0.1}, "hinge does not use it"),
    ("dpo", {"full": True, "init_adapter": "a"}, "init_adapter is impossible with full"),
    ("dpo", {"full": True, "quantize": "4bit"}, "quantize is impossible with full"),
    ("dpo", {"learning_rate": 0.0}, "learning_rate must be greater than 0"),
    ("dpo", {"truncation": "cut"}, "truncation: Input should be 'drop', 'truncate-prompt-left' or 'raise'"),
    ("dpo", {"beta": float("inf")}, "^beta: Input should be a finite number .found inf.$"),
    ("dpo", {"learning_rate": ".nan"}, "^learning_rate: Input should be a valid number or 'auto' .found '.nan'.$"),
    ("dpo", {"learning_rate": float("nan")}, "^learning_rate: Input should be a finite number or 'auto' .found nan.$"),
    ("dpo", {"loss": {"name": "ipo", "weight": float("inf")}}, "weight: Input should be a finite number"),
    ("dpo", {"trainer": {"max_grad_norm": float("inf")}}, "^trainer.max_grad_norm: Input should be a finite number"),
    (
        "dpo",
        {"lora": "x"},
        "^lora: Input should be a mapping with any of the keys alpha, .*target_modules .found 'x'.$",
    ),
    ("dpo", {"lora": {"target_modules": 5}}, "^lora.target_modules: Input should be 'all-linear' or a list .found 5.$"),
    ("dpo", {"lora": {"target_modules": [5]}}, "^lora.target_modules.0: Input should be a valid string .found 5.$"),
    ("dpo", {"loss": {"name": "ipo", "tau": 1}}, "^unknown key 'loss.0.ipo.tau'; allowed: average, name, weight$"),
    ("dpo", {"loss": {"tau": 1}}, r"^loss: \{\"tau\": 1\} names no loss, as \{name: ipo\} does; losses: sigmoid"),
    ("dpo", {"loss": [None]}, "^loss: null names no loss"),
    (
        "dpo",
        {"loss": ["sigmoid", "hinge", {"name": "sigmoid", "weight": 1.0}]},
        "^loss: sigmoid is in the list twice with the same settings.*name it once, with weight: 2 if that is meant$",
    ),
    ("dpo", {"loss": ["ipo", {"name": "ipo", "average": True}]}, "^loss: ipo is in the list twice"),
]


@pytest.mark.parametrize(("method", "changes", "message"), REFUSED)
def test_refusals(method: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_preset(method, **NEEDED, **changes)


def test_an_error_names_the_preset_only_for_what_stands_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("method: dpo\nbeta: -1\nloss: robust\n")
    with pytest.raises(ConfigError) as caught:
        load_preset(str(tmp_path / "mine.yaml"), **NEEDED, epochs=-1)
    told = str(caught.value).splitlines()
    assert sorted(line.replace(str(tmp_path), "") for line in told) == [
        "/mine.yaml: beta: Input should be greater than 0 (found -1)",
        "epochs: Input should be greater than 0 (found -1)",
    ]
    with pytest.raises(ConfigError, match=r"^.*mine\.yaml: loss robust needs label_smoothing above 0"):
        load_preset(str(tmp_path / "mine.yaml"), **NEEDED, beta=1)


def test_a_loss_is_a_name_or_a_weighted_list() -> None:
    config: Any = load_preset("dpo", **NEEDED, loss=["sigmoid", {"name": "sft", "weight": 0.5}, {"name": "discopop"}])
    assert [(term.name, term.weight) for term in config.loss] == [("sigmoid", 1), ("sft", 0.5), ("discopop", 1)]
    assert config.loss[2].tau == 0.05
    both: Any = load_preset("dpo", **NEEDED, loss=[{"name": "ipo", "average": average} for average in (True, False)])
    assert [term.average for term in both.loss] == [True, False]


def test_unknown_preset_and_method_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown train preset 'dpoo' .did you mean 'dpo'"):
        load_preset("dpoo", **NEEDED)
    with pytest.raises(ConfigError, match=r"unknown method 'stf' .did you mean 'sft'.*methods: dpo, sft, rm"):
        check_method("stf")


def test_trainer_keys_unknown_or_owned_are_told_at_once() -> None:
    config = load_preset("dpo", **NEEDED, trainer={"warmup_step": 1, "gradient_accumulation_steps": 4})
    with pytest.raises(ConfigError) as caught:
        check_trainer_keys(config)
    assert "unknown key 'trainer.warmup_step' (did you mean 'warmup_steps'?)" in str(caught.value)
    assert "trainer.gradient_accumulation_steps can not be set here: a step is split by tokens" in str(caught.value)


def test_trainer_values_that_are_no_numbers_and_numbers_no_optimizer_takes(train_config: Any) -> None:
    from rlaif.training import train

    with pytest.raises(ConfigError, match=r"trainer.max_grad_norm: expected a number, found 'abc'"):
        train(train_config(trainer={"max_grad_norm": "abc"}))
    with pytest.raises(ConfigError, match=r"the optimizer refuses its settings: Invalid beta parameter"):
        train(train_config(trainer={"adam_beta1": 7.0}))


REFUSED_TRAINER: list[tuple[str, Any, str]] = [
    ("warmup_steps", -5, "expected at least 0, found -5"),
    ("weight_decay", "-1e-2", "expected at least 0, found '-1e-2'"),
    ("max_grad_norm", "inf", "expected a number, found 'inf'"),
    ("dataloader_num_workers", -1, "expected at least 0, found -1"),
    ("max_steps", -5, "expected at least 1, or -1 for as many steps as 'epochs' makes, found -5"),
    ("max_steps", 0, "expected at least 1, or -1"),
    ("max_steps", "1e3", "expected a whole number, found '1e3'"),
    ("ddp_timeout", 1.5, "expected a whole number, found 1.5"),
    ("lr_scheduler_kwargs", 5, "expected a mapping, found 5"),
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED_TRAINER)
def test_a_trainer_value_out_of_range_is_one_message(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^trainer\.{key}: {message}[^\n]*$"):
        check_trainer_keys(load_preset("dpo", **NEEDED, trainer={key: value}))


def test_the_best_model_is_refused_with_what_is_true() -> None:
    with pytest.raises(ConfigError, match=r"what the last step gave; held-out rows are evaluated as eval/\.\.\."):
        check_trainer_keys(load_preset("dpo", **NEEDED, trainer={"load_best_model_at_end": True}))


def test_the_owned_keys_are_keys_of_transformers() -> None:
    import dataclasses

    from transformers import TrainingArguments

    assert {field.name for field in dataclasses.fields(TrainingArguments)} >= OWNED.keys()


def test_trainer_keys_reach_transformers(tmp_path: Path) -> None:
    from rlaif.training.arguments import training_arguments

    small = load_preset("dpo", **NEEDED, trainer={"adam_epsilon": "1e-7"})  # as YAML reads it
    assert training_arguments(small, tmp_path, autocast=False).adam_epsilon == 1e-7
    named = load_preset("dpo", **NEEDED, trainer={"run_name": "5", "report_to": "none"})
    assert training_arguments(named, tmp_path, autocast=False).run_name == "5"
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
    (lambda folder: {"output": Path("/proc/foo")}, "^/proc/foo: can not be"),
    (lambda folder: {"max_length": 20, "truncation": "raise"}, "pairs.jsonl:1: row pair-0: 30 tokens, more than"),
    (lambda folder: {"max_length": 20}, "no rows left to train on .11 left out, pair-0: too long.*in all: 11 too long"),
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


@pytest.mark.parametrize("inside", ["", "runs/dpo"])
@pytest.mark.parametrize("key", ["model", "reference_model", "init_adapter"])
def test_a_run_does_not_write_into_a_model(train_config: Any, tmp_path: Path, key: str, inside: str) -> None:
    from rlaif.training import dry_run, train

    (tmp_path / "model").mkdir()
    config = train_config(**{key: str(tmp_path / "model"), "output": tmp_path / "model" / inside})
    for start in (train, dry_run):
        with pytest.raises(ConfigError, match=rf"in the folder of {key} .* would be written into; choose another -o"):
            start(config)


@pytest.mark.parametrize("key", ["model", "data"])
def test_overwrite_does_not_delete_what_the_run_reads(train_config: Any, tmp_path: Path, key: str) -> None:
    from rlaif.training import train

    path = _touch(tmp_path / "old" / "x.gguf", "x")
    with pytest.raises(ConfigError, match=rf"--overwrite would delete .*old, and {key} .* is in it"):
        train(train_config(**{key: str(path)}, output=tmp_path / "old"), overwrite=True)
    assert path.exists()


def test_an_adapter_whose_base_is_missing_is_refused(train_config: Any, tmp_path: Path, tokenizer: Any) -> None:
    from rlaif.training import train

    adapter = tmp_path / "adapter"
    tokenizer.save_pretrained(adapter)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone/base"}')
    with pytest.raises(RlaifError, match="belongs to the base model /gone/base, which is not there; put it back"):
        train(train_config(model=str(adapter)))
