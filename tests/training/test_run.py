"""Whole runs on a tiny model: what is written, ln 2, resume, refusals to mix runs."""

import json
import math
import shutil
import signal
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import yaml
from tiny import write_pairs

from rlaif.errors import ConfigError, DataError, TrainError
from rlaif.models import load_model, load_tokenizer
from rlaif.training import TrainConfig, dry_run, parse_config, train
from rlaif.training.checkpoints import MARKER, read_metrics, resume_point

METRICS = {
    "step", "epoch", "loss", "grad_norm", "learning_rate", "num_tokens", "rewards/chosen", "rewards/rejected",
    "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "mean_token_accuracy",
}  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (path,) = [path for path in folder.glob("*.safetensors") if path.name != "reference.safetensors"]
    return load_file(path)


def assert_same_run(left: Path, right: Path) -> None:
    """Bit for bit: the weights and every line of metrics.jsonl."""
    assert (left / "metrics.jsonl").read_text() == (right / "metrics.jsonl").read_text()
    assert weights(left).keys() == weights(right).keys()
    assert all(torch.equal(value, weights(right)[name]) for name, value in weights(left).items())


def test_a_run_folder_holds_everything(train_config: Any) -> None:
    config = train_config(epochs=2)
    result = train(config)
    lines = read_metrics(config.output / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert set(lines[0]) == METRICS
    assert (result.steps, result.rows, result.skipped) == (6, 11, 0)
    assert lines[-1]["rewards/margins"] > lines[0]["rewards/margins"]
    manifest = json.loads((config.output / "manifest.json").read_text())
    assert manifest["finished"]
    assert manifest["versions"]["torch"] == version("torch")
    card = (config.output / "README.md").read_text()
    assert manifest["data_hash"] in card
    assert "rlaif train dpo" in card
    assert parse_config(manifest["config"]).beta == config.beta
    assert (config.output / "config.yaml").is_file()
    assert list((config.output / "tensorboard").iterdir())


def test_the_trained_adapter_loads_and_prefers_the_chosen(train_config: Any, pairs_file: Path) -> None:
    from rlaif.training.formats import read_examples
    from rlaif.training.logps import own_logps
    from rlaif.training.rows import tokenize

    config = train_config(epochs=4)
    train(config)
    policy, base = load_model(str(config.output)), load_model(config.model)
    tokenizer = load_tokenizer(str(config.output))
    row = tokenize(read_examples(pairs_file, "pairs"), tokenizer, 500, "drop").rows[0]

    def margin(model: Any) -> float:
        w, r = (own_logps(model, row.prompt, completion, torch.device("cpu")).sum() for completion in row.completions)
        return (w - r).item()

    assert margin(policy) > margin(base) + 1


@pytest.mark.parametrize("changes", [{}, {"reference": "cached"}, {"full": True}, {"micro_batch_tokens": 100_000}])
def test_step_0_is_ln_2(train_config: Any, changes: dict[str, Any]) -> None:
    config = train_config(**changes, trainer={"max_steps": 1})
    train(config)
    (line,) = read_metrics(config.output / "metrics.jsonl")
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert line["rewards/margins"] == pytest.approx(0, abs=1e-4)


def test_step_0_is_ln_2_in_every_stage_of_a_chain(train_config: Any, tmp_path: Path) -> None:
    first = train_config(method="sft", output=tmp_path / "sft")
    train(first)
    second = train_config(model=str(first.output), output=tmp_path / "dpo")
    train(second)
    assert read_metrics(second.output / "metrics.jsonl")[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    base = json.loads((second.output / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(second.output / "base")
    merged, saved = load_model(str(first.output)), load_model(base)
    for (name, one), other in zip(merged.state_dict().items(), saved.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    load_model(str(second.output))


def test_cached_and_live_reference_give_the_same_trajectory(train_config: Any, tmp_path: Path) -> None:
    live = train_config(dtype="float64", output=tmp_path / "live", epochs=1)
    cached = train_config(dtype="float64", output=tmp_path / "cached", reference="cached", epochs=1)
    train(live)
    train(cached)
    for one, other in zip(
        read_metrics(live.output / "metrics.jsonl"), read_metrics(cached.output / "metrics.jsonl"), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


def test_micro_batches_change_nothing(train_config: Any, tmp_path: Path) -> None:
    found = []
    for method in ("dpo", "sft"):
        for budget in (1, 100_000):
            config = train_config(
                method=method, output=tmp_path / f"{method}-{budget}", micro_batch_tokens=budget, dtype="float64"
            )
            train(config)
            found.append(read_metrics(config.output / "metrics.jsonl"))
        for one, other in zip(found[-2], found[-1], strict=True):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


RUN_CHILD = """
import sys, json, time
from rlaif.training import parse_config, train
import rlaif.training.trainer as trainer
stop = int(sys.argv[2])
own = trainer.PolicyTrainer._save_checkpoint
def save(self, model, trial):
    own(self, model, trial)
    if self.state.global_step == stop:
        open(sys.argv[3], "w").close()
        time.sleep(60)
trainer.PolicyTrainer._save_checkpoint = save
train(parse_config(json.loads(sys.argv[1])))
"""


def kill_after_step(config: TrainConfig, step: int, flag: Path) -> None:
    """Runs training in a process of its own and kills it with SIGKILL when the checkpoint of `step` is there."""
    child = forked.start("-c", RUN_CHILD, config.model_dump_json(), str(step), str(flag))
    for _ in range(600):
        if flag.exists() or child.returncode is not None:
            break
        time.sleep(0.1)
    child.kill()
    assert child.ended().returncode == -signal.SIGKILL


def test_a_killed_run_continues_bit_for_bit(train_config: Any, tmp_path: Path) -> None:
    """With adapter dropout, logging every two steps and a kill in the middle of an epoch, while a later checkpoint is
    half written."""
    settings: dict[str, Any] = {
        "epochs": 2, "lora": {"r": 4, "alpha": 8, "dropout": 0.2}, "save_steps": 1, "logging_steps": 2,
    }  # fmt: skip
    whole = train_config(**settings, output=tmp_path / "whole")
    killed = train_config(**settings, output=tmp_path / "killed")
    train(whole)
    kill_after_step(killed, 5, tmp_path / "flag")
    (killed.output / "checkpoints/checkpoint-5" / MARKER).unlink()
    (killed.output / "checkpoints/checkpoint-5/adapter_model.safetensors").write_bytes(b"torn")
    with (killed.output / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    assert resume_point(killed.output / "checkpoints")[0] == 4
    train(killed)
    assert_same_run(whole.output, killed.output)


def test_a_checkpoint_whose_marker_was_damaged_is_not_complete(train_config: Any) -> None:
    config = train_config(epochs=2)
    train(config)
    (config.output / "checkpoints/checkpoint-6" / MARKER).write_text("")
    assert resume_point(config.output / "checkpoints")[0] == 4


def stopped_run(train_config: Any) -> TrainConfig:
    """A finished run made one that was killed after its second checkpoint, at step 4."""
    config: TrainConfig = train_config(trainer={"max_steps": 4}, epochs=2)
    train(config)
    manifest = json.loads((config.output / "manifest.json").read_text())
    (config.output / "manifest.json").write_text(json.dumps({**manifest, "finished": False}))
    return config


DAMAGED = (
    ("adapter_model.safetensors", 0), ("adapter_model.safetensors", 100), ("optimizer.pt", 0), ("optimizer.pt", 100),
    ("scheduler.pt", 0), ("rng_state.pth", 0), ("trainer_state.json", 0),
)  # fmt: skip


def test_a_damaged_file_of_a_checkpoint_is_named(train_config: Any) -> None:
    """Each cut off after so many bytes, one after the other."""
    config = stopped_run(train_config)
    folder = config.output / "checkpoints/checkpoint-4"
    advice = f"delete the folder {folder}, and the same command continues from checkpoint-2"
    for name, left in DAMAGED:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:left])
        with pytest.raises(TrainError, match=f"{name}: has {left} bytes instead of .*{advice}"):
            train(config)
        (folder / name).write_bytes(whole)
    shutil.rmtree(folder)
    assert train(config).steps == 4


def test_a_missing_file_of_the_only_checkpoint_is_named(train_config: Any) -> None:
    config = stopped_run(train_config)
    shutil.rmtree(config.output / "checkpoints/checkpoint-2")
    (config.output / "checkpoints/checkpoint-4/optimizer.pt").unlink()
    with pytest.raises(TrainError, match=r"optimizer\.pt: is missing.*the same command continues from the beginning"):
        train(config)


def test_a_full_run_continues_bit_for_bit(train_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlaif.training.trainer import PolicyTrainer

    whole = train_config(full=True, epochs=2, output=tmp_path / "whole", learning_rate=1e-3)
    broken = train_config(full=True, epochs=2, output=tmp_path / "broken", learning_rate=1e-3)
    train(whole)
    own = PolicyTrainer.training_step
    calls = []

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return own(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PolicyTrainer, "training_step", failing)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    train(broken)
    assert_same_run(whole.output, broken.output)


def test_a_run_killed_while_saving_the_result_is_completed(train_config: Any, tmp_path: Path) -> None:
    whole, killed = train_config(output=tmp_path / "whole"), train_config(output=tmp_path / "killed")
    train(whole)
    train(killed)
    manifest = json.loads((killed.output / "manifest.json").read_text())
    (killed.output / "manifest.json").write_text(json.dumps({**manifest, "finished": False}))
    (killed.output / "adapter_model.safetensors").write_bytes(b"torn")
    (killed.output / "README.md").unlink()
    assert train(killed).steps == 3
    assert_same_run(whole.output, killed.output)


def test_a_finished_run_is_not_run_again(train_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config()
    result = train(config)
    monkeypatch.setattr("rlaif.training.run._rows", lambda config: pytest.fail("tokenised again"))
    assert train(config) == result


def test_another_configuration_or_other_data_is_refused(train_config: Any, pairs_file: Path) -> None:
    train(train_config())
    with pytest.raises(ConfigError, match=r"beta: was 0.1, now 0.3\nChoose another -o, .*--overwrite"):
        train(train_config(beta=0.3))
    train(train_config(micro_batch_tokens=7))
    write_pairs(pairs_file, 10)
    with pytest.raises(ConfigError, match=r"the content of .*pairs.jsonl: hash was"):
        train(train_config())
    assert train(train_config(), overwrite=True).rows == 10


def test_keys_that_change_no_result_may_change(train_config: Any, tmp_path: Path) -> None:
    """Killed in the middle and continued with other intervals, the weights are those of the whole run."""
    settings: dict[str, Any] = {"epochs": 2, "validation": 0.2, "lora": {"r": 4, "alpha": 8, "dropout": 0.2}}
    changed = {"save_steps": 3, "logging_steps": 2, "keep_checkpoints": 1, "eval_steps": 3}
    whole, killed = train_config(**settings, output=tmp_path / "whole"), tmp_path / "killed"
    train(whole)
    kill_after_step(train_config(**settings, save_steps=1, output=killed), 2, tmp_path / "flag")
    train(train_config(**settings, **changed, output=killed))
    one, other = weights(whole.output), weights(killed)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    manifest = json.loads((killed / "manifest.json").read_text())
    assert {key: manifest["config"][key] for key in changed} == changed
    assert yaml.safe_load((killed / "config.yaml").read_text()) == manifest["config"]
    evaluated = [line["step"] for line in read_metrics(killed / "metrics.jsonl") if "eval/loss" in line]
    assert evaluated == [3, 6]


def test_overwrite_deletes_nothing_but_runs(train_config: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="deletes only training runs"):
        train(train_config(output=tmp_path / "mine"), overwrite=True)
    assert (tmp_path / "mine/notes.txt").exists()


def test_skipped_rows_are_listed(train_config: Any, pairs_file: Path) -> None:
    with pairs_file.open("a") as file:
        file.write(json.dumps({"id": "same", "prompt": "a", "chosen": "b", "rejected": "b"}) + "\n")
    config = train_config()
    assert train(config).skipped == 1
    (line,) = (config.output / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line) == {"id": "same", "reason": "chosen and rejected are the same text"}


def test_rows_with_an_empty_field_are_listed_and_counted(
    train_config: Any, pairs_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": "a", "chosen": None, "rejected": "b"},
        {"id": "no-prompt", "prompt": "", "chosen": "a", "rejected": "b"},
    ]
    with pairs_file.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    config = train_config()
    assert train(config).skipped == 2
    assert [json.loads(line) for line in (config.output / "skipped.jsonl").read_text().splitlines()] == [
        {"id": "line-12", "reason": "empty or missing: chosen"},
        {"id": "no-prompt", "reason": "empty or missing: prompt"},
    ]
    assert "2 of 13 rows left out; why: " in capsys.readouterr().err
    assert dry_run(config).skipped == {"empty or missing": 2}


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_empty_rows_are_an_error_with_a_list(train_config: Any, pairs_file: Path, overwrite: bool) -> None:
    """And with other data the same command begins."""
    pairs_file.write_text('{"prompt": "a", "chosen": null, "rejected": "b"}\n' * 5)
    config = train_config()
    with pytest.raises(DataError, match=r"5 left out, line-1: empty or missing: chosen;.*empty or missing\)$"):
        dry_run(config)
    assert not config.output.exists()
    listed = r"5 empty or missing\); each is listed in .*/run/skipped\.jsonl$"
    with pytest.raises(DataError, match=listed):
        train(config, overwrite=overwrite)
    reasons = [json.loads(line) for line in (config.output / "skipped.jsonl").read_text().splitlines()]
    assert reasons == [{"id": f"line-{n}", "reason": "empty or missing: chosen"} for n in range(1, 6)]
    with pytest.raises(DataError, match=listed):
        train(config)
    write_pairs(pairs_file, 4)
    assert train(config, overwrite=overwrite).rows == 4
    assert (config.output / "skipped.jsonl").read_text() == ""


def test_overwrite_keeps_the_old_run_where_no_row_is_left(train_config: Any, pairs_file: Path) -> None:
    old = train(train_config()).path
    pairs_file.write_text('{"prompt": "a", "chosen": null, "rejected": "b"}\n')
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="no rows left to train on"):
        train(train_config(), overwrite=True)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("method", ["dpo", "spin"])
def test_turns_after_the_last_answer_are_counted_and_listed(
    method: str, train_config: Any, pairs_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": role, "content": text} for role, text in (("assistant", "hello"), ("user", "bye"))]
    with pairs_file.open("a") as file:
        for name, rejected in (("goes-on", "no"), ("no-pair", turns)):
            row = {"id": name, "prompt": "hi", "chosen": turns, "rejected": rejected}
            file.write(json.dumps(row) + "\n")
    own = {"max_new_tokens": 4} if method == "spin" else {}
    config = train_config(method=method, trainer={"max_steps": 1}, **own)
    dry_run(config)
    told = f"of {12 if method == 'dpo' else 13} rows are trained on without the turns after their last answer"
    assert told in capsys.readouterr().err
    train(config)
    assert told in capsys.readouterr().err
    listed = [json.loads(line) for line in (config.output / "shortened.jsonl").read_text().splitlines()]
    assert [row["id"] for row in listed] == (["goes-on"] if method == "dpo" else ["goes-on", "no-pair"])
    assert listed[0]["reason"] == "the turns after its last answer are left off: no answer follows them"


def test_a_data_set_is_trained_on_by_its_name(
    train_config: Any, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rows = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    asked = []

    def load(name: str, split: str) -> Any:
        asked.append((name, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    config = train_config(data="owner/pairs-v0.1")
    assert train(config).rows == 11
    assert set(asked) == {("owner/pairs-v0.1", "train")}
    card = (config.output / "README.md").read_text()
    assert "| data | `owner/pairs-v0.1` (SHA-256 " in card
    assert train(config).rows == 11  # finished
    rows[0]["chosen"][0]["content"] = "other"
    with pytest.raises(ConfigError, match=r"the content of owner/pairs-v0.1: hash was"):
        train(config)
    assert dry_run(train_config(data="owner/pairs:test[:5]")).rows == 11
    assert asked[-1] == ("owner/pairs", "test[:5]")


def test_the_card_holds_no_path_of_this_machine(train_config: Any, tmp_path: Path, model_folder: Path) -> None:
    judges = [{"judge": "j", "model": str(model_folder)}, {"judge": "k", "model": "org/name"}]
    data = write_pairs(tmp_path / "judged.jsonl", 4, provenance={"judges": judges})
    config = train_config(data=data)
    train(config)
    card = (config.output / "README.md").read_text()
    assert str(tmp_path) not in card
    assert str(model_folder.parent) not in card
    for part in ('base_model: "tiny"', "--model tiny --data judged.jsonl -o run", "j (tiny), k (org/name)"):
        assert part in card
    base = json.loads((config.output / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(model_folder.resolve())


@pytest.mark.parametrize("full", [False, True])
def test_bfloat16_trains_on_the_cpu(train_config: Any, full: bool) -> None:
    lines = read_metrics(train(train_config(dtype="bfloat16", full=full, epochs=2)).path / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=0.01)
    assert lines[-1]["loss"] < 0.6


def test_models_that_can_not_be_what_they_are_named_for_are_refused(train_config: Any, tmp_path: Path) -> None:
    reward = train(train_config(method="rm", output=tmp_path / "reward")).path
    for keys in ({"model": str(reward)}, {"reference_model": str(reward)}):
        with pytest.raises(ConfigError, match="is a reward model, which writes no text"):
            train(train_config(**keys, output=tmp_path / "new"))
    adapter = train(train_config(output=tmp_path / "adapter")).path
    with pytest.raises(ConfigError, match="was not made for the merged model"):
        train(train_config(model=str(adapter), init_adapter=adapter, output=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_loss_that_is_no_number_stops_and_names_the_rows(train_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlaif.training.objectives import dpo

    own = dpo.sigmoid
    monkeypatch.setattr(dpo, "sigmoid", lambda *a, **k: own(*a, **k) * math.nan)
    config = train_config()
    with pytest.raises(TrainError, match=r"step 1: the loss is not a finite number.*not_finite\.json"):
        train(config)
    saved = json.loads((config.output / "not_finite.json").read_text())
    assert saved["step"] == 1
    assert len(saved["rows"]) == 4
    assert saved["rows"][0].startswith("pair-")


def test_out_of_memory_says_what_to_lower(train_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import rlaif.training.trainer as trainer

    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "batch_scores", full)
    with pytest.raises(TrainError, match=r"lower micro_batch_tokens .now 120."):
        train(train_config())


def test_a_dry_run_counts_without_weights(train_config: Any, pairs_file: Path) -> None:
    config = train_config(epochs=3)
    plan = dry_run(config)
    assert (plan.rows, plan.steps, plan.skipped) == (11, 9, {})
    assert 0 < plan.completion_tokens < plan.tokens
    assert not config.output.exists()
    train(config)
    trained = sum(weight.numel() for weight in weights(config.output).values())
    assert plan.trainable_parameters == trained


def test_sft_lowers_the_loss(train_config: Any) -> None:
    config = train_config(method="sft", epochs=3)
    train(config)
    lines = read_metrics(config.output / "metrics.jsonl")
    assert set(lines[0]) == METRICS - {name for name in METRICS if "/" in name} | {"entropy"}
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
