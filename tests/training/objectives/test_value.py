"""The critic's loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed import F64

from rlaif.training.objectives.value import value_clipped, value_loss

triples = st.lists(st.tuples(*[st.floats(-3, 3)] * 3), min_size=1, max_size=8)


def oracle(value: float, old: float, target: float, clip: float | None) -> float:
    if clip is None:
        return 0.5 * (value - target) ** 2
    held = min(max(value, old - clip), old + clip)
    return 0.5 * max((value - target) ** 2, (held - target) ** 2)


@pytest.mark.parametrize("clip", [0.2, 1.0, None])
@given(data=triples)
def test_the_loss_is_its_formula(clip: float | None, data: list[tuple[float, float, float]]) -> None:
    losses = value_loss(*torch.tensor(data, dtype=F64).unbind(1), clip=clip).tolist()
    assert losses == pytest.approx([oracle(*triple, clip) for triple in data], rel=1e-12, abs=1e-15)


def test_the_loss_by_hand() -> None:
    """clip 0.2, v_old = 0, R = 1. v = 0.5 moved towards R: held at 0.2, so (0.8)^2 / 2 = 0.32. v = -0.5 moved away: its
    own (1.5)^2 / 2 = 1.125. v = 0.1 moved little: (0.9)^2 / 2 = 0.405. Without clip the first is 0.125."""
    values, zero, one = torch.tensor([0.5, -0.5, 0.1], dtype=F64), torch.zeros(3), torch.ones(3)
    assert value_loss(values, zero, one, clip=0.2).tolist() == pytest.approx([0.32, 1.125, 0.405])
    assert value_loss(values, zero, one, clip=None)[0].item() == pytest.approx(0.125)
    assert value_clipped(values, zero, one, clip=0.2).tolist() == [True, False, False]


@given(data=triples)
def test_clipped_tokens_are_those_without_gradient(data: list[tuple[float, float, float]]) -> None:
    """A value on its return has none either, clipped or not."""
    values, old, returns = torch.tensor(data, dtype=F64).unbind(1)
    values.requires_grad_()
    (gradient,) = torch.autograd.grad(value_loss(values, old, returns, clip=0.2).sum(), values)
    off = values.detach() != returns
    assert torch.equal(value_clipped(values, old, returns, clip=0.2)[off], (gradient == 0)[off])


def test_gradients_are_those_of_finite_differences_and_only_of_the_values() -> None:
    generator = torch.Generator().manual_seed(0)
    values, old, returns = (torch.randn(12, generator=generator, dtype=F64) for _ in range(3))
    assert torch.autograd.gradcheck(lambda v: value_loss(v, old, returns, clip=0.3), values.requires_grad_())
    assert not value_loss(values.detach(), old.requires_grad_(), returns.requires_grad_(), clip=0.3).requires_grad


def test_values_that_have_not_moved_learn_the_plain_square() -> None:
    """v = v_old, as in the first pass over a rollout: the two squares are equal, and the gradient is v - R."""
    values, returns = torch.tensor([1.0, -2.0], dtype=F64, requires_grad=True), torch.tensor([0.5, 3.0], dtype=F64)
    (gradient,) = torch.autograd.grad(value_loss(values, values.detach(), returns, clip=0.2).sum(), values)
    assert gradient.tolist() == [0.5, -5.0]
