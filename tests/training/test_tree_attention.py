"""Attention block by block and fused layers: what the plain computation gives, forward and backward."""

from typing import Any

import pytest
import torch
from tiny import build_gemma3, build_llama

from rlaif.training.batches import plan_step
from rlaif.training.fused_layers import fuse_layers
from rlaif.training.masks import tree_mask
from rlaif.training.policy import fast_plan
from rlaif.training.rows import Row
from rlaif.training.tree_attention import _attention, blocks, segments


@pytest.mark.parametrize("long_rows", [False, True])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_equals_attention_with_a_dense_mask(rows: list[Row], long_rows: bool, key_heads: int) -> None:
    (batch,) = plan_step(rows, range(len(rows)), 10_000, long_rows=long_rows)
    length = batch.input_ids.shape[1]
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int) -> torch.Tensor:
        shape = (len(batch.input_ids), heads, length, 8)
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    query, key, value = draw(4), draw(key_heads), draw(key_heads)
    seen = (batch.tree >= 0)[:, :, None, None]
    ours = _attention(None, query, key, value, segments(batch), scaling=0.3)[0] * seen
    dense = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=tree_mask(batch), scale=0.3, enable_gqa=True
    )
    expected = dense.transpose(1, 2) * seen
    torch.testing.assert_close(ours, expected)
    downstream = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for got, wanted in zip(
        torch.autograd.grad(ours, (query, key, value), downstream),
        torch.autograd.grad(expected, (query, key, value), downstream),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_in_bfloat16_the_gradients_are_those_of_float32(rows: list[Row]) -> None:
    (batch,) = plan_step(rows, range(len(rows)), 10_000, long_rows=True)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, len(batch.input_ids), 2, batch.input_ids.shape[1], 8, generator=generator)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [item.bfloat16().to(dtype).requires_grad_() for item in drawn]
        output = _attention(None, *inputs, segments(batch))[0]
        gradients.append(
            torch.cat([g.flatten().float() for g in torch.autograd.grad(output.float().sin().sum(), inputs)])
        )
    assert (gradients[1] - gradients[0]).norm() < 0.02 * gradients[0].norm()


def test_the_blocks_of_a_row_by_hand(rows: list[Row]) -> None:
    """Rows 1 and 2 share a prompt of 12 with branches of 5, 8 and 6 tokens, of which the last is never read; then row 3
    with a prompt of 15 and answers of 1 (nothing to read) and 3."""
    (batch,) = plan_step(rows, [1, 2, 3], 10_000, long_rows=True)
    assert list(blocks(segments(batch))) == [
        (0, 0, 12, [(12, 16), (16, 23), (23, 28)]),
        (0, 28, 43, [(43, 45)]),
    ]


def test_only_models_it_is_right_for_attend_in_blocks() -> None:
    assert fast_plan(build_llama(), "cpu").in_blocks
    assert not fast_plan(build_gemma3(), "cpu").in_blocks
    assert not fast_plan(build_llama(attn_implementation="eager"), "cpu").in_blocks


def outcome(model: Any) -> list[torch.Tensor]:
    ids = torch.tensor([[1, 5, 7, 2, 9], [3, 3, 8, 4, 6]])
    logits = model(input_ids=ids).logits
    logits.pow(2).mean().backward()
    return [logits.detach(), *(weight.grad for weight in model.parameters())]


def test_fused_layers_give_what_the_library_gives() -> None:
    """Float32: the tiny models' float64 norms are not the library's own. Every weight is trained, norms too."""
    from transformers import LlamaConfig, LlamaForCausalLM

    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4
        )
        model = LlamaForCausalLM(config)
        assert (fuse_layers(model) if fused else 22) == 22  # 5 norms, 2 MLPs, 15 linear layers
        found.append(outcome(model))
    for own, new in zip(*found, strict=True):
        torch.testing.assert_close(new, own, rtol=1e-5, atol=1e-6)


def test_a_norm_of_another_kind_keeps_its_own_forward() -> None:
    """Gemma's norm multiplies by 1 + w, which the probe notices."""
    model = build_gemma3(torch.float32)
    norms = [module for module in model.modules() if type(module).__name__ == "Gemma3RMSNorm"]
    before = [module.forward for module in norms]
    fuse_layers(model)
    assert [module.forward for module in norms] == before
