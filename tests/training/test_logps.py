"""Chunked log-probs against the plain log-softmax, value and gradient."""

import pytest
import torch
from tiny import build_gemma3, build_llama
from torch import Tensor
from torch.autograd import gradcheck

from rlaif.errors import TrainError
from rlaif.training.logps import (
    EXTRAS,
    Head,
    HeadShape,
    chunked_logps,
    head_shape,
    patch_forward,
    score_tokens,
)

SHAPES = [HeadShape(), HeadShape(scale=0.25), HeadShape(softcap=3.0), HeadShape(scale=2.0, softcap=1.5)]


def parts(rows: int = 7, vocabulary: int = 11, width: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    make = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    return make(rows, width), torch.randint(vocabulary, (rows,)), make(vocabulary, width), make(vocabulary)


def plain(hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, shape: HeadShape) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias) * shape.scale
    if shape.softcap is not None:
        logits = shape.softcap * torch.tanh(logits / shape.softcap)
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("trains_head", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_equals_the_plain_log_softmax(shape: HeadShape, chunk: int, trains_head: bool, has_bias: bool) -> None:
    hidden, targets, weight, bias = parts()
    head_bias = bias.requires_grad_(trains_head) if has_bias else None
    inputs = [hidden.requires_grad_(), *([weight.requires_grad_()] if trains_head else [])]
    inputs += [bias] if trains_head and has_bias else []
    ours = chunked_logps(hidden, targets, weight, head_bias, shape, chunk)
    expected = plain(hidden, targets, weight, head_bias, shape)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    downstream = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    for got, wanted in zip(
        torch.autograd.grad(ours, inputs, downstream), torch.autograd.grad(expected, inputs, downstream), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck(shape: HeadShape) -> None:
    hidden, targets, weight, bias = parts(4, 6, 3)
    hidden.requires_grad_()
    assert gradcheck(lambda h: chunked_logps(h, targets, weight, bias, shape, 3), (hidden,))
    weight.requires_grad_()
    bias.requires_grad_()
    assert gradcheck(lambda h, w, b: chunked_logps(h, targets, w, b, shape, 3), (hidden, weight, bias))


def test_no_completion_tokens() -> None:
    hidden, targets, weight, _ = parts()
    assert chunked_logps(hidden[:0], targets[:0], weight).shape == (0,)


def test_bfloat16_is_summed_in_float32() -> None:
    hidden, targets, weight, _ = parts(64, 500, 32)
    narrow_hidden, narrow_weight = hidden.bfloat16().requires_grad_(), (weight / 6).bfloat16()
    ours = chunked_logps(narrow_hidden, targets % 500, narrow_weight)
    exact = plain(narrow_hidden.double(), targets % 500, narrow_weight.double(), None, HeadShape())
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() < 0.03
    ours.sum().backward()
    assert narrow_hidden.grad.dtype == torch.bfloat16


def test_head_shapes_of_known_families() -> None:
    assert head_shape(build_gemma3(final_logit_softcapping=30.0).config) == HeadShape(1.0, 30.0)
    assert head_shape(build_llama().config) == HeadShape()
    from transformers import CohereConfig, GraniteConfig

    assert head_shape(CohereConfig(logit_scale=0.0625)).scale == 0.0625
    assert head_shape(GraniteConfig(logits_scaling=8.0)).scale == 0.125


def test_a_head_that_is_not_linear_is_refused() -> None:
    model = build_llama()
    model.set_output_embeddings(torch.nn.Sequential(model.lm_head))
    with pytest.raises(TrainError, match="Sequential"):
        patch_forward(model)


def test_the_patched_forward_still_gives_logits() -> None:
    model = build_llama()
    ids = torch.arange(3, 9)[None]
    before = model(input_ids=ids).logits
    patch_forward(model)
    torch.testing.assert_close(model(input_ids=ids).logits, before)


def full_distributions(rows: int = 6, vocabulary: int = 9, width: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    make = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    return make(rows, width), torch.randint(vocabulary, (rows,)), make(vocabulary, width), make(rows, width)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("trains_head", [False, True])
def test_divergence_from_a_reference_equals_the_plain_one(shape: HeadShape, trains_head: bool) -> None:
    """KL(reference || policy) summed over the vocabulary, with its gradient, and beside it the log-probs."""
    hidden, targets, weight, other = full_distributions()
    inputs = [hidden.requires_grad_(), *([weight.requires_grad_()] if trains_head else [])]
    reference = (other, Head(weight.detach().clone() + 0.1, None, shape))
    found = score_tokens(hidden, targets, Head(weight, None, shape), reference=reference, chunk_rows=2)

    def log_softmax(states: Tensor, matrix: Tensor) -> Tensor:
        logits = states @ matrix.T * shape.scale
        return (shape.softcap * torch.tanh(logits / shape.softcap) if shape.softcap else logits).log_softmax(-1)

    p, q = log_softmax(hidden, weight), log_softmax(other, weight.detach() + 0.1)
    expected = (q.exp() * (q - p)).sum(-1)
    torch.testing.assert_close(found["kl"], expected)
    mixed = (found["kl"] * 2 - found["logps"]).sum()
    plain_mixed = (expected * 2 - p.gather(1, targets[:, None]).squeeze(1)).sum()
    for got, wanted in zip(torch.autograd.grad(mixed, inputs), torch.autograd.grad(plain_mixed, inputs), strict=True):
        torch.testing.assert_close(got, wanted)


def test_entropy_collision_and_accuracy_equal_the_plain_ones() -> None:
    hidden, targets, weight, _ = full_distributions(40)
    found = score_tokens(hidden, targets, Head(weight), extras=EXTRAS, chunk_rows=7)
    logps = (hidden @ weight.T).log_softmax(-1)
    torch.testing.assert_close(found["entropy"], -(logps.exp() * logps).sum(-1))
    torch.testing.assert_close(found["collision"], logps.exp().square().sum(-1).log())
    assert found["correct"].tolist() == (logps.argmax(-1) == targets).double().tolist()
    assert 0 < found["correct"].sum() < 40
