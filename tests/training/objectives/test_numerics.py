"""Gradients are right, and stay finite where log-probs are extreme."""

import itertools
import math

import pytest
import torch
from catalog import COUPLED, ROWWISE, SAMPLE, Loss, make_pairs, map_pairs
from torch import Tensor

from rlaif.training.objectives import dpo, kto, reward, simpo, tdpo
from rlaif.training.objectives.pairs import Pairs

ALL = ROWWISE | COUPLED


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    def losses(*logps: Tensor) -> Tensor:
        return ALL[name](Pairs(*logps, SAMPLE.chosen_tokens, SAMPLE.rejected_tokens))

    logps = (SAMPLE.chosen, SAMPLE.rejected, SAMPLE.reference_chosen, SAMPLE.reference_rejected)
    assert torch.autograd.gradcheck(losses, [tensor.clone().requires_grad_() for tensor in logps])


def test_gradients_of_unpaired_and_reward_objectives() -> None:
    first = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([0.3, 1.0, -0.7], dtype=torch.float64, requires_grad=True)
    desirable, z = torch.tensor([True, False, True]), torch.tensor(0.4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: kto.kto(r, desirable, z, beta=0.3, desirable_weight=1.3), first)
    assert torch.autograd.gradcheck(lambda r: kto.bco(r, desirable, z, beta=0.3, undesirable_weight=1.3), first)
    assert torch.autograd.gradcheck(lambda r: kto.apo_zero_unpaired(r, desirable, beta=0.3), first)
    assert torch.autograd.gradcheck(
        lambda won, lost: reward.bradley_terry(won, lost, margin_B=z.expand(3), centering=0.01), (first, second)
    )


def test_tdpo1_learns_from_both_kls_and_tdpo2_not_from_the_chosen_one() -> None:
    kls = [torch.full((4,), value, dtype=torch.float64, requires_grad=True) for value in (0.5, 0.7)]
    assert torch.autograd.gradcheck(lambda k_w, k_l: tdpo.tdpo1(SAMPLE, k_w, k_l, beta=0.3), kls)
    assert torch.autograd.gradcheck(lambda k_l: tdpo.tdpo2(SAMPLE, kls[0].detach(), k_l, beta=0.3, alpha=0.5), kls[1])
    assert not tdpo.tdpo2(SAMPLE, kls[0], kls[1].detach(), beta=0.3, alpha=0.5).requires_grad


def test_kto_s_reference_point_has_no_gradient() -> None:
    z = torch.tensor(0.4, requires_grad=True)
    assert not kto.kto(torch.tensor([1.0]), torch.tensor([True]), z, beta=0.3).requires_grad


EXTREMES = (0.0, -1e-6, -50.0, -1e4)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("tokens", [1, 100])
def test_extreme_log_probs_give_finite_losses_and_gradients(name: str, tokens: int) -> None:
    """All combinations of certain, ordinary and hopeless completions, under policy and reference, in float32."""
    rows = [(*logps, tokens, tokens) for logps in itertools.product(EXTREMES, repeat=4)]
    pairs = make_pairs(*rows, dtype=torch.float32)
    losses, gradients = gradient(ALL[name], pairs)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradients).all()


def gradient(loss: Loss, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The losses, and the gradient of their sum to chosen (first half) and rejected log-probs."""
    pairs = map_pairs(pairs, lambda tensor: tensor.clone().requires_grad_())
    losses = loss(pairs)
    gradients = torch.autograd.grad(losses.sum(), (pairs.chosen, pairs.rejected), materialize_grads=True)
    return losses, torch.cat(gradients)


@pytest.mark.parametrize("logratio", [-1e4, 1e4])
def test_extreme_unpaired_rows_stay_finite(logratio: float) -> None:
    r = torch.tensor([logratio, logratio], requires_grad=True)
    desirable, zero = torch.tensor([True, False]), torch.tensor(0.0)
    losses = (
        kto.kto(r, desirable, zero, beta=1.0)
        + kto.bco(r, desirable, zero, beta=1.0)
        + kto.apo_zero_unpaired(r, desirable, beta=1.0)
        + reward.bradley_terry(r, r.flip(0).detach() * -1, centering=0.01)
    )
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert r.grad is not None
    assert torch.isfinite(r.grad).all()


def test_discopop_of_a_hopeless_margin_is_the_logistic_loss() -> None:
    """w = s(x / tau) vanishes faster than exp(-x) grows, for tau < 1: loss = -log s(-1000) = 1000, slope -1."""
    losses, gradients = gradient(
        lambda pairs: dpo.discopop(pairs, beta=1.0, tau=0.05), make_pairs((-1e3, 0, 0, 0, 1, 1), dtype=torch.float32)
    )
    assert losses.item() == 1000
    assert gradients.tolist() == [-1, 1]


def test_two_hopeless_completions_are_equal_to_alphapo() -> None:
    """Mean log-probs of -400 at alpha 0.25 have rewards of (1 - e^100) / 0.25, beyond float32: the loss is ln 2."""
    pairs = make_pairs((-400, -400, 0, 0, 1, 1), dtype=torch.float32)
    assert simpo.alphapo(pairs, beta=2.5, gamma=0.0, alpha=0.25).item() == pytest.approx(math.log(2))
