"""Prompt trees, packing and micro-batches: the layout, and that it never changes a log-prob or gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import build_gemma3, build_llama, random_row
from torch import Tensor

from rlaif.errors import TrainError
from rlaif.training.batches import grow_trees, pack, plan_step
from rlaif.training.config import parse_config
from rlaif.training.forward import batch_logps, checked_plan
from rlaif.training.logps import own_logps, patch_forward
from rlaif.training.masks import attention_plan, model_inputs, tree_mask
from rlaif.training.methods import Counts, Scored, method_of
from rlaif.training.policy import fast_plan
from rlaif.training.rows import Completion, Row


def in_blocks() -> Any:
    """A Llama with attention block by block and fused layers, as it is trained on the CPU."""
    made = build_llama()
    assert fast_plan(made, "cpu").in_blocks
    return made


MODELS: dict[str, Callable[[], Any]] = {
    "llama": build_llama,
    "llama-blocks": in_blocks,
    "llama-eager": lambda: build_llama(attn_implementation="eager"),
    "gemma3-sliding": lambda: build_gemma3(final_logit_softcapping=4.0),
}

"""Eager attention takes its softmax in float32 even in a float64 model, hence its own tolerance."""


def tolerance(model: Any) -> float:
    return 1e-4 if model.config._attn_implementation == "eager" else 1e-9


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    made = MODELS[request.param]()
    patch_forward(made)
    return made.eval()


def plain_logps(model: Any, row: Row) -> list[Tensor]:
    return [own_logps(model, row.prompt, completion, torch.device("cpu")) for completion in row.completions]


def step_logps(model: Any, rows: list[Row], budget: int, plain: bool = False) -> dict[tuple[int, int], Tensor]:
    """Per-token log-probs by (row, side), through the packed path."""
    plan = attention_plan(model.config)
    found = {}
    for batch in plan_step(rows, range(len(rows)), budget, plain=plain, long_rows=plan.in_blocks):
        logps = batch_logps(model, batch, plan)
        for row, members in zip(batch.layout.rows, batch.layout.members.tolist(), strict=True):
            for side, completion in enumerate(members):
                found[row, side] = logps[batch.layout.completion == completion]
    return found


@pytest.mark.parametrize("budget", [1, 60, 10_000])
@pytest.mark.parametrize("plain", [False, True])
def test_packed_trees_equal_the_plain_computation(model: Any, rows: list[Row], budget: int, plain: bool) -> None:
    found = step_logps(model, rows, budget, plain)
    for index, row in enumerate(rows):
        for side, expected in enumerate(plain_logps(model, row)):
            torch.testing.assert_close(found[index, side].detach(), expected, rtol=0, atol=tolerance(model))


def method(name: str, **keys: Any) -> Any:
    return method_of(parse_config({"method": name, "model": "m", "data": "d", "output": "o", **keys}))


def scored(model: Any, rows: list[Row], batch: Any) -> Scored:
    """Against an arbitrary fixed reference."""
    reference = -4.0 - 0.1 * (batch.targets % 7).double()
    logps = batch_logps(model, batch, attention_plan(model.config))
    return Scored(batch.layout, tuple(rows[index] for index in batch.layout.rows), {"logps": logps}, reference)


def gradient(model: Any, rows: list[Row], order: list[int], budget: int, plain: bool = False) -> tuple[float, Tensor]:
    """Loss and gradient of one DPO step."""
    model.zero_grad()
    dpo, total, counts = method("dpo", beta=0.3, label_smoothing=0.1), 0.0, Counts.of([rows[index] for index in order])
    blocks = attention_plan(model.config).in_blocks
    for batch in plan_step(rows, order, budget, plain=plain, long_rows=blocks):
        loss, _ = dpo.loss(scored(model, rows, batch), counts)
        loss.backward()
        total += loss.item()
    return total, torch.cat([weight.grad.flatten() for weight in model.parameters()])


def padded_gradient(model: Any, rows: list[Row]) -> tuple[float, Tensor]:
    """The same from the formula and the model's own logits, one completion at a time."""
    model.zero_grad()
    total = 0.0
    for row in rows:
        rewards = []
        for ids in (completion.ids for completion in row.completions):
            tokens = torch.tensor([row.prompt + ids])
            logps = model(input_ids=tokens).logits[0, len(row.prompt) - 1 : -1].log_softmax(-1)
            policy = logps.gather(1, torch.tensor(ids)[:, None]).sum()
            rewards.append(0.3 * (policy - (-4.0 - 0.1 * (torch.tensor(ids) % 7).double()).sum()))
        margin = rewards[0] - rewards[1]
        loss = -0.9 * torch.sigmoid(margin).log() - 0.1 * torch.sigmoid(-margin).log()
        (loss / len(rows)).backward()
        total += loss.item() / len(rows)
    return total, torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_gradients_equal_the_plain_computation(model: Any, rows: list[Row], budget: int) -> None:
    loss, found = gradient(model, rows, list(range(len(rows))), budget)
    expected_loss, expected = padded_gradient(model, rows)
    assert loss == pytest.approx(expected_loss, abs=tolerance(model))
    torch.testing.assert_close(found, expected, rtol=tolerance(model), atol=tolerance(model))


def test_swapping_chosen_and_rejected_negates_the_margin(model: Any, rows: list[Row]) -> None:
    swapped = [Row(row.id, row.prompt, row.completions[::-1]) for row in rows]
    found = []
    for data in (rows, swapped):
        (batch,) = plan_step(data, range(len(data)), 10_000)
        _, metrics = method("dpo", beta=0.3).loss(scored(model, data, batch), Counts.of(data))
        found.append(metrics["rewards/margins"][0].item())
    assert found[0] == pytest.approx(-found[1], abs=tolerance(model))
    assert abs(found[0]) > 0.1


def test_order_and_plain_rows_change_nothing(model: Any, rows: list[Row]) -> None:
    loss, expected = gradient(model, rows, [0, 1, 2, 3, 4, 5], 60)
    for order, budget, plain in (([5, 2, 0, 4, 1, 3], 60, False), ([3, 1, 4, 0, 5, 2], 40, True)):
        other, found = gradient(model, rows, order, budget, plain)
        assert other == pytest.approx(loss, abs=tolerance(model))
        torch.testing.assert_close(found, expected, rtol=tolerance(model), atol=tolerance(model))


def test_rows_with_one_prompt_share_a_tree_and_its_equal_branches(rows: list[Row]) -> None:
    trees = {tree.prompt: tree for tree in grow_trees(rows, range(len(rows)))}
    assert len(trees) == 5
    shared = trees[rows[1].prompt]
    assert len(shared.branches) == 3
    assert [member.branches for member in shared.members] == [(0, 1), (2, 0)]
    assert shared.length == 12 + 4 + 7 + 5


def test_packed_rows_are_no_longer_than_the_longest_tree(rows: list[Row]) -> None:
    packed = pack(grow_trees(rows, range(len(rows))))
    lengths = [sum(tree.length for tree in unit) for unit in packed]
    assert max(lengths) == max(tree.length for tree in grow_trees(rows, range(len(rows))))
    assert len(packed) < 5
    assert sum(len(unit) for unit in packed) == 5


def test_micro_batches_keep_to_the_budget() -> None:
    generator = torch.Generator().manual_seed(3)
    many = [random_row(generator, str(i), 3 + i % 9, 2 + i % 5, 1 + i % 7) for i in range(40)]
    for plain in (False, True):
        batches = plan_step(many, range(40), 100, plain=plain)
        assert all(batch.input_ids.numel() <= 100 for batch in batches)
        assert sorted(row for batch in batches for row in batch.layout.rows) == list(range(40))


def test_the_tree_mask_by_hand() -> None:
    """Prompt p q, branches (a b) and (c d); the last tokens b and d are not read: positions p q a c."""
    row = Row("x", (10, 11), (Completion((20, 21)), Completion((30, 31))))
    (batch,) = plan_step([row], [0], 100)
    assert batch.input_ids.tolist() == [[10, 11, 20, 30]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 2]]
    assert tree_mask(batch)[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert batch.completion_positions.tolist() == [1, 2, 1, 3]
    assert batch.targets.tolist() == [20, 21, 30, 31]


def test_sft_counts_a_branch_as_often_as_rows_use_it() -> None:
    twice = [Row(str(i), (5, 6), (Completion((7, 8)),)) for i in range(2)]
    (batch,) = plan_step(twice, [0, 1], 100)
    both = Scored(batch.layout, tuple(twice), {"logps": torch.tensor([-1.0, -2.0])})
    loss, _ = method("sft").loss(both, Counts.of(twice))
    assert loss.item() == 6.0 / 4


def test_linear_attention_falls_back_to_plain_rows() -> None:
    config = build_llama().config
    config.layer_types = ["linear_attention", "full_attention"]
    plan = attention_plan(config)
    assert plan.is_plain
    assert "linear_attention" in str(plan.plain_because)
    config.layer_types = None
    assert not attention_plan(config).is_plain


def test_plain_rows_get_no_ready_made_mask(rows: list[Row]) -> None:
    plan = attention_plan(build_llama().config)
    (batch,) = plan_step(rows[:1], [0], 1000, plain=True)
    inputs = model_inputs(batch, plan, torch.float32)
    assert inputs["attention_mask"].shape == batch.input_ids.shape == (2, 15)
    assert "position_ids" not in inputs


def test_a_model_that_changes_its_logits_unseen_is_refused(rows: list[Row]) -> None:
    model = build_llama()
    patch_forward(model)
    own = model.unpatched_forward
    device, plan = torch.device("cpu"), attention_plan(model.config)
    assert checked_plan(model, rows, plan, device) == plan
    with torch.no_grad():
        model.lm_head.register_forward_hook(lambda module, inputs, output: output * 1.1)
    assert own is not None
    with pytest.raises(TrainError, match="not those of the model's own logits"):
        checked_plan(model, rows, plan, device)


def test_a_model_that_ignores_tree_masks_gets_plain_rows(rows: list[Row]) -> None:
    model = build_llama()
    inner = model.model.forward
    model.model.forward = lambda *args, attention_mask=None, **kwargs: inner(
        *args, attention_mask=attention_mask if attention_mask is None or attention_mask.ndim == 2 else None, **kwargs
    )
    patch_forward(model)
    plan = checked_plan(model, rows, attention_plan(model.config), torch.device("cpu"))
    assert plan.is_plain
