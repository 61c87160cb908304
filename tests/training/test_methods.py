"""Every method, run whole on a tiny model: at step 0, under other micro-batches, with other references, after a kill."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import random_row, write_pairs

from rlaif.errors import DataError, TrainError
from rlaif.models import load_model, load_reward_model
from rlaif.training import train
from rlaif.training.checkpoints import read_metrics
from rlaif.training.config import METHODS
from rlaif.training.config.online import OnlineConfig
from rlaif.training.methods.unpaired import rotated
from rlaif.training.rows import Completion, Row
from rlaif.training.run import displacement

LN2 = math.log(2)
STEP_0 = {
    "dpo": LN2, "step-dpo": LN2, "tdpo": LN2, "kto": 0.5, "bco": LN2, "apo-unpaired": 0.5,
    "dpo robust": LN2, "dpo hinge": 1.0, "dpo ipo": 25.0, "dpo exo_pair": None, "dpo nca_pair": 2 * LN2,
    "dpo bco_pair": 2 * LN2, "dpo sppo_hard": 50.0, "dpo aot": LN2, "dpo aot_unpaired": LN2, "dpo apo_zero": 1.0,
    "dpo apo_down": 1.0, "dpo discopop": None, "dpo sigmoid_norm": LN2, "dpo rdpo": None, "dpo dpop": LN2,
    "dpo sigmoid,sft": None, "sft": None, "rm": None, "simpo": None, "cpo": None, "alphapo": None, "orpo": None,
    "rainbowpo": None,
}  # fmt: skip
"""The loss where the policy is its reference, derived from each formula at a log-ratio of 0; None: no known value."""


def keys(case: str) -> dict[str, Any]:
    method, _, losses = case.partition(" ")
    smoothing = {"label_smoothing": 0.1} if losses in ("robust", "exo_pair") else {}
    return {"method": method, **({"loss": losses.split(",")} if losses else {}), **smoothing}


@pytest.fixture
def run(train_config: Any, tmp_path: Path) -> Callable[..., list[dict[str, float]]]:
    """Trains two steps in float64 with the keys of a case; gives the lines of metrics.jsonl."""
    steps = [
        {"prompt": f"q{i}", "initial_reason_steps": "Step 1: a.\nStep 2:", "chosen": f" yes {i}", "rejected": " no"}
        for i in range(11)
    ]
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    pairs = write_pairs(tmp_path / "sure.jsonl", 11, confidence=0.8, margin=0.4)

    def make(case: str, name: str = "run", **changes: Any) -> list[dict[str, float]]:
        settings = {"dtype": "float64", "trainer": {"max_steps": 2}, **keys(case), **changes}
        data = tmp_path / "steps.jsonl" if settings["method"] == "step-dpo" else pairs
        config = train_config(**{"data": data, "output": tmp_path / name, **settings})
        train(config)
        return read_metrics(config.output / "metrics.jsonl")

    return make


def assert_same(one: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    """All metrics, but the accuracy of margins that are zero but for rounding."""
    for left, right in zip(one, other, strict=True):
        undecided = abs(left.get("rewards/margins", 1.0)) < 1e-9
        for name, value in left.items():
            if name.endswith("accuracies") and undecided:
                continue
            assert right[name] == pytest.approx(value, rel=1e-7, abs=1e-9), name


@pytest.mark.parametrize("case", STEP_0)
def test_step_0_and_micro_batches(run: Any, case: str) -> None:
    """The loss at step 0 where it is known; one micro-batch a row and one for all give the same trajectory."""
    many, one = run(case, "many", micro_batch_tokens=1), run(case, "one", micro_batch_tokens=100_000)
    assert_same(many, one)
    if (expected := STEP_0[case]) is not None:
        assert many[0]["loss"] == pytest.approx(expected, rel=1e-6)
    assert many[1]["loss"] < many[0]["loss"] or case in ("dpo discopop", "rm")  # the second step has other rows


def test_the_cases_name_every_method_that_learns_from_a_file() -> None:
    offline = {name for name, kind in METHODS.items() if not issubclass(kind, OnlineConfig)}
    assert {case.split(" ")[0] for case in STEP_0} | {"spin"} == offline


@pytest.mark.parametrize("case", ["dpo", "dpo ipo", "dpo aot", "bco", "apo-unpaired", "rainbowpo", "step-dpo"])
def test_a_cached_reference_is_the_live_one(run: Any, case: str) -> None:
    assert_same(run(case, "live", reference="adapter-off"), run(case, "cached", reference="cached"))


@pytest.mark.parametrize("case", ["dpo", "kto", "tdpo"])
def test_a_second_model_is_the_adapter_switched_off(run: Any, case: str, model_folder: Path) -> None:
    off = run(case, "off", reference="adapter-off")
    assert_same(off, run(case, "copy", reference="copy"))
    assert_same(off, run(case, "named", reference="copy", reference_model=str(model_folder)))


def test_all_weights_can_be_trained_by_methods_without_a_cache(run: Any) -> None:
    for case in ("kto", "tdpo"):
        lines = run(case, case, full=True, learning_rate=1e-3)
        assert lines[0]["loss"] == pytest.approx(STEP_0[case])
        assert lines[1]["loss"] < lines[0]["loss"]


def test_confidence_1_is_the_plain_loss_and_less_learns_less(run: Any, tmp_path: Path) -> None:
    sure = write_pairs(tmp_path / "certain.jsonl", 11, confidence=1.0)
    for case in ("dpo", "dpo ipo", "kto"):
        plain = run(case, f"plain {case}", data=sure)
        certain = run(case, f"certain {case}", data=sure, use_confidence=True)
        for left, right in zip(plain, certain, strict=True):
            assert {name: right[name] for name in left} == pytest.approx(left, rel=1e-9)
        unsure = run(case, f"unsure {case}", use_confidence=True)
        assert unsure[0]["grad_norm"] == pytest.approx(plain[0]["grad_norm"] * (1 - 2 * 0.2), rel=1e-6)


def test_uncalibrated_data_is_refused(train_config: Any) -> None:
    for method in ("dpo", "kto"):
        with pytest.raises(DataError, match=r"11 of 11 rows have no confidence|22 of 22 rows have no confidence"):
            train(train_config(method=method, use_confidence=True))


def test_a_reference_that_follows_the_policy(run: Any, train_config: Any) -> None:
    """With mixup 1 after every step the reference is the policy: the loss of every step is ln 2."""
    for changes in ({}, {"full": True, "learning_rate": 1e-3}):
        lines = run("dpo", f"sync {changes}", reference_sync={"every": 1, "mixup": 1.0}, **changes)
        assert [line["loss"] for line in lines] == pytest.approx([LN2, LN2], rel=1e-9)
    lines = run("dpo", "half", reference_sync={"every": 1, "mixup": 0.5})
    assert 0.3 < lines[1]["loss"] < 0.68


@pytest.mark.parametrize("case", ["bco", "dpo"])
def test_a_run_with_state_continues_bit_for_bit(run: Any, tmp_path: Path, case: str) -> None:
    """BCO's running mean and TR-DPO's reference are part of a checkpoint."""
    more: dict[str, Any] = {"reference_sync": {"every": 1}} if case == "dpo" else {}
    settings = {"save_steps": 1, "trainer": {"max_steps": 4}, **more}
    whole = run(case, "whole", **settings)
    run(case, "part", **settings)
    manifest = json.loads((tmp_path / "part/manifest.json").read_text())
    (tmp_path / "part/manifest.json").write_text(json.dumps({**manifest, "finished": False}))
    (tmp_path / "part/checkpoints/checkpoint-4/complete.json").unlink()
    assert run(case, "part", **settings) == whole


def test_going_on_with_an_adapter(run: Any, tmp_path: Path, model_folder: Path) -> None:
    """The reference is the policy as training starts, that is with the adapter; the first step is ln 2, the base the same
    and what is saved has one adapter."""
    run("sft", "first")
    lines = run("dpo", "second", init_adapter=tmp_path / "first", lora={"r": 4, "alpha": 8})
    assert lines[0]["loss"] == pytest.approx(LN2, rel=1e-6)
    base = json.loads((tmp_path / "second/adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(model_folder)
    assert not (tmp_path / "second/initial").exists()
    merged = run("dpo", "merged", model=str(tmp_path / "first"))
    assert merged[0]["logps/chosen"] == pytest.approx(lines[0]["logps/chosen"], rel=1e-9)
    with pytest.raises(TrainError, match="is not the folder of an adapter"):
        run("dpo", "third", init_adapter=model_folder)


def test_a_reference_with_other_tokens_is_refused(run: Any, tmp_path: Path, model_folder: Path) -> None:
    from tiny import build_tokenizer

    shutil.copytree(model_folder, tmp_path / "other")
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(TrainError, match="have different tokenizers"):
        run("dpo", reference_model=str(tmp_path / "other"))


def test_held_out_prompts_are_evaluated(run: Any) -> None:
    for case in ("dpo", "kto", "bco", "dpo aot", "sft", "rm"):
        lines = run(case, case, validation=0.3, eval_steps=1)
        assert [("eval/loss" in line, "loss" in line) for line in lines] == [(True, False), (False, True)] * 2
        assert lines[2]["eval/loss"] < lines[0]["eval/loss"]


@pytest.mark.parametrize("full", [False, True])
def test_a_reward_model_scores_as_transformers_reads_it(run: Any, tmp_path: Path, full: bool) -> None:
    """What is saved loads as a sequence classifier, and gives the chosen answers the higher scores it was taught."""
    from transformers import AutoTokenizer

    run("rm", learning_rate=1e-2, trainer={"max_steps": 12}, epochs=5, full=full, dtype="float32")
    model = load_reward_model(str(tmp_path / "run"))
    assert type(model).__name__ == "LlamaForSequenceClassification"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")

    def score(answer: str) -> float:
        talk = [{"role": "user", "content": "Say 7!"}, {"role": "assistant", "content": answer}]
        ids = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False).rstrip("\n"), return_tensors="pt")
        return model(**ids).logits[0, 0].item()

    assert score("yes 1 sir") > score("no") + 0.5


def test_a_policy_can_start_from_a_run_and_a_reward_model_from_an_adapter(run: Any, tmp_path: Path) -> None:
    run("sft", "first")
    lines = run("rm", "second", model=str(tmp_path / "first"))
    assert lines[1]["loss"] < lines[0]["loss"]
    load_reward_model(str(tmp_path / "second"))


def test_adapters_of_other_kinds(run: Any, tmp_path: Path) -> None:
    for kind in ("rslora", "dora"):
        lines = run("dpo", kind, lora={"r": 4, "alpha": 8, kind: True})
        assert lines[0]["loss"] == pytest.approx(LN2, rel=1e-6)
        assert lines[1]["loss"] < lines[0]["loss"]
        load_model(str(tmp_path / kind))


def test_one_class_or_one_prompt_is_refused(train_config: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": "a", "label": True} for i in range(4)]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="no undesirable answers; kto learns from both"):
        train(train_config(method="kto", data=tmp_path / "one.jsonl"))
    rows = [{"prompt": "q", "completion": f"a{i}", "label": i % 2 == 0} for i in range(4)]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="at least two different prompts"):
        train(train_config(method="kto", data=tmp_path / "one.jsonl"))


def test_unbalanced_classes_are_told(train_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 desirable to 3 undesirable: 0.33 to 1; balanced by a weight between 1 * 3 and 4/3 * 3."""
    rows = [{"prompt": f"q{i}", "completion": "a", "label": i % 4 == 0} for i in range(8)]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(train_config(method="kto", data=tmp_path / "few.jsonl", trainer={"max_steps": 1}))
    told = capsys.readouterr().err
    assert "that is 0.33 to 1" in told
    assert "set desirable_weight between 3.00 and 4.00" in told


@pytest.mark.parametrize("sizes", [[1, 1], [1, 1, 1, 1, 1], [2, 2, 2], [3, 1, 1, 1], [5, 1, 1], [4, 3]])
def test_mismatched_answers_are_never_of_the_same_prompt(sizes: list[int]) -> None:
    """`sizes`: how many rows each prompt has. Where no prompt has more than half of the rows, every row and every answer
    is used once."""
    rows = [
        Row(f"{prompt}.{i}", (prompt,), (Completion((prompt, i)),)) for prompt, n in enumerate(sizes) for i in range(n)
    ]
    seen = set()
    for seed in range(20):
        pairs = rotated(rows, random.Random(seed))
        assert pairs
        assert all(row.prompt != other.prompt for row, other in pairs)
        if 2 * max(sizes) <= sum(sizes):
            assert sorted(row.id for row, _ in pairs) == sorted(other.id for _, other in pairs)
            assert sorted(row.id for row, _ in pairs) == sorted(row.id for row in rows)
        seen.add(tuple(sorted((row.id, other.id) for row, other in pairs)))
    assert len(seen) > 1 or sizes == [1, 1]


def test_one_prompt_has_no_mismatched_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    row = random_row(generator, "a", 3, 2)
    assert rotated([row, Row("b", row.prompt, (Completion((9,)),))], random.Random(0)) == []


def test_spin_prefers_the_answers_of_the_data(train_config: Any, tmp_path: Path) -> None:
    """The rejected answers are the policy's own; rows whose answers are equal are listed; a finished run is not rerun."""
    config = train_config(method="spin", max_new_tokens=4, trainer={"max_steps": 2})
    result = train(config)
    pairs = [json.loads(line) for line in (config.output / "spin.jsonl").read_text().splitlines()]
    assert len(pairs) == 11
    assert all(pair["chosen"][0]["content"].startswith("yes") for pair in pairs)
    assert len({pair["rejected"][0]["content"] for pair in pairs}) > 5
    assert result.rows + result.skipped == 11
    lines = read_metrics(config.output / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(LN2, abs=1e-5)
    assert train(config) == result


def test_five_stages_in_a_row_and_ln_2_in_the_last(run: Any, tmp_path: Path) -> None:
    """SFT, SimPO, ORPO, KTO, DPO, each from the folder of the one before: DPO's reference is what KTO has made."""
    model: dict[str, Any] = {}
    for method in ("sft", "simpo", "orpo", "kto", "dpo"):
        lines = run(method, method, **model)
        model = {"model": str(tmp_path / method)}
    assert lines[0]["loss"] == pytest.approx(LN2, rel=1e-6)
    assert lines[1]["loss"] < LN2


@pytest.mark.parametrize("method", ["dpo", "rm"])
def test_a_merged_adapter_is_the_adapter_on_its_base(run: Any, tmp_path: Path, method: str) -> None:
    from rlaif.training.merge import merge

    run(method, dtype="float32")
    folder = merge(tmp_path / "run", tmp_path / "merged")
    assert not (folder / "adapter_config.json").exists()
    load = load_reward_model if method == "rm" else load_model
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        logits = [load(str(path))(ids).logits for path in (tmp_path / "run", folder)]
    torch.testing.assert_close(*logits)
    assert "library_name: transformers" in (folder / "README.md").read_text()


def test_merging_refuses_what_is_no_adapter_and_overwrites_nothing(
    run: Any, tmp_path: Path, model_folder: Path
) -> None:
    from rlaif.errors import ConfigError
    from rlaif.training.merge import merge

    with pytest.raises(ConfigError, match="holds no adapter"):
        merge(model_folder, tmp_path / "merged")
    run("dpo")
    with pytest.raises(ConfigError, match="is not empty; choose another -o"):
        merge(tmp_path / "run", model_folder)


@pytest.mark.pictures
def test_a_run_ends_with_a_picture_of_its_curves(run: Any, tmp_path: Path) -> None:
    run("dpo", validation=0.3, eval_steps=1)
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")


def test_likelihood_displacement_is_told() -> None:
    """Chosen answers below the reference at the end, while margins grew; not where they are above it."""

    def lines(chosen: float) -> list[dict[str, float]]:
        return [{"rewards/chosen": chosen * step / 8, "rewards/margins": step / 4} for step in range(8)]

    told = displacement(lines(-2.0))
    assert told is not None
    assert "rewards/chosen -1.62" in told  # the mean of steps 6 and 7: -2 * 6.5 / 8
    assert displacement(lines(2.0)) is None
    assert displacement(lines(-2.0)[:3]) is None


def test_gradient_checkpointing_changes_nothing(run: Any) -> None:
    for changes in ({}, {"full": True}):
        plain = run("dpo", f"plain {changes}", **changes)
        assert_same(plain, run("dpo", f"checkpointed {changes}", gradient_checkpointing=True, **changes))


def test_a_cache_is_shared_by_runs_and_not_by_other_references(run: Any, tmp_path: Path, model_folder: Path) -> None:
    """One file for two betas; another one when the adapter that training starts from was trained anew."""

    def caches() -> set[str]:
        return {path.name for path in (tmp_path / "reference-cache").iterdir()}

    run("dpo", "first", reference="cached")
    run("dpo", "second", reference="cached", beta=0.3)
    assert len(caches()) == 1
    run("sft", "start")
    settings = {"reference": "cached", "init_adapter": tmp_path / "start", "lora": {"r": 4, "alpha": 8}}
    before = run("dpo", "third", **settings)
    assert len(caches()) == 2
    shutil.rmtree(tmp_path / "start")
    run("sft", "start", learning_rate=3e-2)
    after = run("dpo", "fourth", **settings)
    assert len(caches()) == 3
    assert [lines[0]["loss"] for lines in (before, after)] == pytest.approx([LN2, LN2], rel=1e-6)


def test_a_validation_share_that_leaves_a_side_empty_is_refused(train_config: Any) -> None:
    from rlaif.errors import ConfigError

    for share, told in ((0.99, "11 held out and 0 to train on"), (0.01, "0 held out and 11 to train on")):
        with pytest.raises(ConfigError, match=told):
            train(train_config(validation=share))


def test_a_warm_up_starts_above_zero(run: Any) -> None:
    """A warm-up of 1 step has the rates 1/2 and 1 of the peak: the first step, perhaps the only one, learns."""
    lines = run("dpo", trainer={"max_steps": 2, "warmup_steps": 1, "lr_scheduler_type": "constant_with_warmup"})
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.5e-2, 1e-2])
    assert lines[1]["loss"] < LN2


def test_a_reward_model_whose_padding_ends_a_turn_gets_another(run: Any, tmp_path: Path, model_folder: Path) -> None:
    """As SmolLM2, whose padding is <|im_end|>: transformers would score the token before the end of the answer."""
    from transformers import AutoTokenizer

    folder = tmp_path / "padded"
    shutil.copytree(model_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "pad_token_id": tokenizer.eos_token_id}))
    run("rm", model=str(folder))
    saved = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert saved.pad_token_id != saved.eos_token_id
    assert load_reward_model(str(tmp_path / "run")).config.pad_token_id == saved.pad_token_id


def test_held_out_rows_are_not_counted_as_trained(train_config: Any) -> None:
    from rlaif.training import dry_run

    config = train_config(validation=0.3, batch_size=4)
    plan, result = dry_run(config), train(config)
    assert (plan.steps, result.steps, result.rows) == (2, 2, 8)
    assert "8 used, 3 held out, 0 left out" in (config.output / "README.md").read_text()


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_a_run_on_other_kinds_of_files_finishes(train_config: Any, tmp_path: Path, suffix: str) -> None:
    import pandas

    rows = pandas.DataFrame([{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(6)])
    path = tmp_path / f"pairs.{suffix}"
    write = {"csv": lambda: rows.to_csv(path, index=False), "json": lambda: rows.to_json(path, orient="records"),
             "parquet": lambda: rows.to_parquet(path)}  # fmt: skip
    write[suffix]()
    assert train(train_config(data=path)).rows == 6
    assert (tmp_path / "run/README.md").is_file()
