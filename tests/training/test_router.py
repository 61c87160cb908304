"""Mixture-of-experts models: the load-balancing loss, alone and in a step; trees, adapters and references of experts."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build_llama, build_moe, build_tokenizer, write_pairs
from torch import Tensor
from torch.autograd import gradcheck
from transformers import TrainingArguments
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from rlaif.errors import TrainError
from rlaif.models import load_model
from rlaif.training import train
from rlaif.training.batches import PADDING, plan_step
from rlaif.training.checkpoints import read_metrics
from rlaif.training.forward import batch_logps, batch_scores, checked_plan
from rlaif.training.logps import own_logps, patch_forward
from rlaif.training.masks import AttentionPlan
from rlaif.training.methods.base import Method
from rlaif.training.methods.paired import DpoMethod
from rlaif.training.objectives.load_balancing import load_balancing
from rlaif.training.policy import _switch_dropout_off, fast_plan
from rlaif.training.rows import Row
from rlaif.training.run import dry_run
from rlaif.training.targets import check_targets, fused_experts
from rlaif.training.trainer import PolicyTrainer, Work

KINDS = ("mixtral", "qwen3_moe")
LN2, LN3 = math.log(2), math.log(3)
CPU = torch.device("cpu")


def random_logits(layers: int = 3, positions: int = 9, experts: int = 5) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(positions, experts, dtype=torch.float64) for _ in range(layers)]


def everything(positions: int) -> Tensor:
    return torch.ones(positions, dtype=torch.bool)


def test_numbers_derived_by_hand() -> None:
    """Two experts, two positions, the best one for each. softmax(ln 3, 0) = (3/4, 1/4).

    Both to the first: f = (1, 0), P = (3/4, 1/4), loss 2 * 3/4. One each: f = P = (1/2, 1/2), loss 2 * (1/4 + 1/4).
    All experts equally likely: top_k, whoever is chosen. Two of five with certainty: f = (1, 1, 0, 0, 0),
    P = (1/2, 1/2, 0, 0, 0), loss 5.
    """
    first, second = [LN3, 0.0], [0.0, LN3]
    cases: list[tuple[list[list[float]], int, float]] = [
        ([first, first], 1, 1.5),
        ([first, second], 1, 1.0),
        ([[0.0] * 5] * 4, 2, 2.0),
        ([[50.0, 50.0, 0.0, 0.0, 0.0]] * 3, 2, 5.0),
    ]
    for rows, top_k, expected in cases:
        logits = torch.tensor(rows, dtype=torch.float64)
        assert load_balancing([logits], everything(len(rows)), top_k).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("read", [[1] * 9, [1, 1, 1, 0, 1, 1, 0, 0, 1]])
def test_it_is_the_loss_of_transformers_with_its_gradient(read: list[int]) -> None:
    """transformers sums in float32, hence the tolerances."""
    logits = [layer.requires_grad_() for layer in random_logits()]
    mask = torch.tensor(read)
    ours = load_balancing(logits, mask.bool(), 2)
    theirs = load_balancing_loss_func(tuple(logits), 5, 2, mask.reshape(1, -1))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for got, wanted in zip(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


def test_gradcheck_and_padding() -> None:
    logits = random_logits(2, 4, 3)
    assert gradcheck(
        lambda *layers: load_balancing(layers, everything(4), 2), [layer.requires_grad_() for layer in logits]
    )
    padded = [torch.cat([layer, torch.full((2, 3), 7.0, dtype=layer.dtype)]) for layer in logits]
    mask = torch.tensor([True] * 4 + [False] * 2)
    torch.testing.assert_close(load_balancing(padded, mask, 2), load_balancing(logits, everything(4), 2))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_trees_are_the_plain_log_probs(kind: str, rows: list[Row]) -> None:
    model = build_moe(kind)
    patch_forward(model)
    plan = checked_plan(model, rows, fast_plan(model, "cpu"), CPU)
    assert not plan.is_plain
    for batch in plan_step(rows, range(len(rows)), 200, long_rows=plan.in_blocks):
        found = batch_logps(model, batch, plan)
        for completion, (row, side) in enumerate(batch.layout.sources):
            own = own_logps(model, rows[row].prompt, rows[row].completions[side], CPU)
            torch.testing.assert_close(found[batch.layout.completion == completion], own, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_batch_has_the_model_s_own_router_loss(kind: str, rows: list[Row]) -> None:
    model = build_moe(kind)
    patch_forward(model)
    (batch,) = plan_step(rows, range(len(rows)), 10_000, plain=True)
    mask = (batch.tree != PADDING).long()
    assert mask.min() == 0
    found = batch_scores(model, batch, AttentionPlan(plain_because="test"), routes=True)["router_loss"]
    own = model.unpatched_forward(
        input_ids=batch.input_ids, attention_mask=mask, output_router_logits=True, use_cache=False
    )  # fmt: skip
    assert found.item() == pytest.approx(own.aux_loss.item(), rel=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(found, model.model.embed_tokens.weight)[0],
        torch.autograd.grad(own.aux_loss, model.model.embed_tokens.weight)[0], rtol=1e-3, atol=1e-6,
    )  # fmt: skip


@pytest.fixture(scope="module")
def moe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moe") / "mixtral"
    build_moe("mixtral", torch.float32).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def run(train_config: Any, moe_folder: Path, tmp_path: Path) -> Callable[..., list[dict[str, float]]]:
    """Trains two steps of a tiny Mixtral in float64; gives the lines of metrics.jsonl."""

    def make(name: str = "run", **changes: Any) -> list[dict[str, float]]:
        settings = {"dtype": "float64", "trainer": {"max_steps": 2}, "model": str(moe_folder), **changes}
        config = train_config(**{"output": tmp_path / name, **settings})
        train(config)
        return read_metrics(config.output / "metrics.jsonl")

    return make


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("loss", ["sigmoid", "aot"])
def test_it_is_added_to_the_loss_with_its_weight(run: Any, loss: str, full: bool) -> None:
    """`sigmoid` is computed micro-batch by micro-batch, `aot` over the step's rows at once. The first step's loss is
    ln 2 + 0.1 router_loss; the same without it has the same rest."""
    keys = {"loss": loss, "full": full, "learning_rate": 1e-3, "micro_batch_tokens": 60, "validation": 0.3}
    lines = run("with", router_loss=0.1, eval_steps=1, **keys)
    without = run("without", **keys)
    training = [line for line in lines if "loss" in line]
    assert training[0]["loss"] == pytest.approx(LN2 + 0.1 * training[0]["router_loss"], rel=1e-6)
    assert training[0]["router_loss"] > 1.9
    assert training[0]["grad_norm"] != pytest.approx(without[0]["grad_norm"], rel=1e-4)
    assert "router_loss" not in without[0]
    held_out = [line for line in lines if "eval/loss" in line]
    rest = held_out[0]["eval/loss"] - 0.1 * held_out[0]["eval/router_loss"]
    assert rest == pytest.approx(without[0]["loss"], abs=0.5)
    assert held_out[0]["eval/router_loss"] > 1.9


def test_both_ways_through_a_step_give_the_same_gradient(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that does not couple its rows, computed as if it did. (Mixtral's routers and norms round to float32.)"""
    keys = {"router_loss": 0.5, "micro_batch_tokens": 60}
    separate = run("separate", **keys)
    own = DpoMethod.__init__

    def coupling(self: Any, config: Any) -> None:
        own(self, config)
        self.couples = True

    monkeypatch.setattr(DpoMethod, "__init__", coupling)
    for left, right in zip(separate, run("coupled", **keys), strict=True):
        assert right == pytest.approx(left, rel=1e-5, abs=1e-6)


def test_micro_batches_weigh_as_many_positions_as_they_have(rows: list[Row], tmp_path: Path) -> None:
    """The gradient of a step is that of the mean of its micro-batches' losses, each weighing its positions."""
    model = build_moe()
    patch_forward(model)
    plan = AttentionPlan(plain_because="test")
    batches = plan_step(rows, range(len(rows)), 60, plain=True)
    counts = [batch.n_tokens for batch in batches]
    assert len(set(counts)) > 1
    losses = [batch_scores(model, batch, plan, routes=True)["router_loss"] for batch in batches]
    mean = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)
    wanted = torch.autograd.grad(mean, model.model.embed_tokens.weight)[0]
    got = step_gradient(model, rows, plan, tmp_path)
    torch.testing.assert_close(got, wanted * 3.0, rtol=1e-9, atol=1e-11)


def step_gradient(model: Any, rows: Sequence[Row], plan: AttentionPlan, folder: Path) -> Tensor:
    """d (3 router_loss) / d embeddings of one step of a trainer whose method's own loss is 0."""

    class Nothing(Method):
        def loss(self, scored: Any, counts: Any) -> Any:
            return scored.logps.sum() * 0.0, {}

    arguments = TrainingArguments(str(folder), report_to="none", use_cpu=True, disable_tqdm=True)
    work = Work(
        rows=rows, trained=range(len(rows)), held_out=(), method=Nothing(), reference=None, plan=plan, budget=60,
        metrics_path=folder / "metrics.jsonl", keep_checkpoints=1, eval_steps=1, router_loss=3.0,
    )  # fmt: skip
    trainer = PolicyTrainer(model, arguments, work, [])
    model.zero_grad()
    trainer.training_step(model, {"rows": torch.arange(len(rows))})
    gradient: Tensor = model.model.embed_tokens.weight.grad
    return gradient


def test_processes_give_the_trajectory_of_one(train_config: Any, moe_folder: Path, tmp_path: Path) -> None:
    """Every row its own micro-batch, in one process and in two, by both ways through a step. (Mixtral's routers and
    norms round to float32.)"""
    from test_ranks import in_processes

    data, configs = write_pairs(tmp_path / "pairs.jsonl", 12), {}
    for loss in ("sigmoid", "aot"):
        shared = {
            "data": data, "model": str(moe_folder), "dtype": "float64", "router_loss": 0.1, "loss": loss,
            "micro_batch_tokens": 1, "validation": 0.3, "eval_steps": 1, "trainer": {"max_steps": 2},
        }  # fmt: skip
        train(train_config(**shared, output=tmp_path / f"{loss}-one"))
        configs[loss] = train_config(**shared, output=tmp_path / f"{loss}-two").model_dump(mode="json")
    in_processes(2, list(configs.values()))
    for loss in configs:
        one, two = (read_metrics(tmp_path / f"{loss}-{name}/metrics.jsonl") for name in ("one", "two"))
        for left, right in zip(one, two, strict=True):
            assert right == pytest.approx(left, rel=1e-5, abs=1e-6)


def test_a_reward_model_has_it_too(run: Any) -> None:
    with_it, without = run("with", method="rm", router_loss=0.1), run("without", method="rm")
    assert with_it[0]["loss"] == pytest.approx(without[0]["loss"] + 0.1 * with_it[0]["router_loss"], rel=1e-6)


def test_gradient_checkpointing_changes_nothing(run: Any) -> None:
    plain = run("plain", router_loss=0.1)
    for left, right in zip(plain, run("twice", router_loss=0.1, gradient_checkpointing=True), strict=True):
        assert right == pytest.approx(left, rel=1e-7)


def test_a_model_without_routers_is_refused_before_its_weights_are_read(train_config: Any, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    build_llama(torch.float32).config.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    config = train_config(model=str(folder), router_loss=0.1)
    for command in (train, dry_run):
        with pytest.raises(TrainError, match=r"^router_loss: llama is no mixture-of-experts model"):
            command(config)


def test_an_adapter_of_experts_is_saved_merged_and_followed(run: Any, tmp_path: Path) -> None:
    """'all-linear' reaches attention, routers and experts; going on with the adapter, or with it merged, starts from
    the same log-probs; and a reference that follows the policy follows its experts (the loss stays ln 2)."""
    run("first")
    settings = json.loads((tmp_path / "first/adapter_config.json").read_text())
    assert set(settings["target_parameters"]) == {"gate_up_proj", "down_proj", "gate.weight"}
    on, merged = run("on", init_adapter=tmp_path / "first"), run("merged", model=str(tmp_path / "first"))
    assert [on[0]["loss"], merged[0]["loss"]] == pytest.approx([LN2, LN2], rel=1e-9)
    assert merged[0]["logps/chosen"] == pytest.approx(on[0]["logps/chosen"], rel=1e-9)
    assert on[0]["logps/chosen"] != pytest.approx(run("fresh")[0]["logps/chosen"], rel=1e-3)
    lines = run("sync", reference_sync={"every": 1, "mixup": 1.0})
    assert [line["loss"] for line in lines] == pytest.approx([LN2, LN2], rel=1e-9)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"dropout": 0.1}, "take neither dropout nor dora; set lora.dropout: 0"),
        ({"dora": True}, "take neither dropout nor dora; set lora.dropout: 0"),
        ({"target_modules": ["q_proj", "gate_up_proj"]}, "no linear layer gate_up_proj; it has k_proj, o_proj, q_proj"),
    ],
)
def test_what_an_adapter_of_experts_can_not_do_is_said(run: Any, lora: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        run(lora={"r": 4, "alpha": 8, **lora})


def test_experts_that_peft_does_not_know_are_said_to_stay(capsys: pytest.CaptureFixture[str]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import GraniteMoeConfig, GraniteMoeForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
    for model, said in (
        (GraniteMoeForCausalLM(GraniteMoeConfig(vocab_size=20, num_local_experts=4, **sizes)), True),
        (build_moe(num_hidden_layers=1), False),
    ):
        experts = fused_experts(model)
        assert len(experts) == 2
        policy = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        check_targets(policy, experts)
        assert ("leaves the experts of this granitemoe as they are" in capsys.readouterr().err) == said


def test_noise_before_routers_is_switched_off() -> None:
    model = build_moe(router_jitter_noise=0.1)
    _switch_dropout_off(model)
    assert {layer.mlp.jitter_noise for layer in model.model.layers} == {0.0}


def test_float64_experts_are_multiplied_one_by_one(moe_folder: Path) -> None:
    model = load_model(str(moe_folder), "float64")
    assert model(input_ids=torch.arange(3, 9)[None]).logits.dtype == torch.float64
