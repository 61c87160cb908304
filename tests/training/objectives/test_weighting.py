"""Weights of pairs, tokens and doubtful labels."""

import math

import pytest
import torch
from catalog import SAMPLE, make_pairs
from hypothesis import given
from hypothesis import strategies as st

from rlaif.training.objectives import dpo, ipo, kto, simpo
from rlaif.training.objectives.pairs import Pairs
from rlaif.training.objectives.weighting import (
    confidence_weight,
    flip_probability,
    ld_token_weights,
    wpo_weight,
)


def mean_alignment(*tokens: tuple[list[float], int]) -> torch.Tensor:
    """Slow, from the paper's equation 2: the mean over tokens of log(p_t / sum_v p_v^2), given (p, index of token)."""
    values = [math.log(p[token] / sum(value**2 for value in p)) for p, token in tokens]
    return torch.tensor([sum(values) / len(values)], dtype=torch.float64, requires_grad=True)


def test_wpo_by_hand() -> None:
    """Chosen: 0.8 / (0.64 + 0.04) and 0.5 / 0.5, so a_w = ln(0.8 / 0.68) / 2. Rejected: 0.2 / 0.68. The weight is
    sqrt(0.8 / 0.68) 0.2 / 0.68."""
    chosen = mean_alignment(([0.8, 0.2], 0), ([0.5, 0.5], 1))
    weight = wpo_weight(chosen, mean_alignment(([0.8, 0.2], 1)))
    assert weight.item() == pytest.approx(math.sqrt(0.8 / 0.68) * 0.2 / 0.68, rel=1e-12)
    assert not weight.requires_grad


def test_wpo_of_a_uniform_and_of_a_certain_policy_is_1_and_can_be_capped() -> None:
    uniform, certain = mean_alignment(([0.25] * 4, 2)), mean_alignment(([1.0, 0.0], 0))
    likely = mean_alignment(([0.6] + [0.1] * 4, 0))
    assert wpo_weight(uniform, certain).item() == pytest.approx(1)
    assert wpo_weight(likely, likely).item() == pytest.approx((0.6 / 0.4) ** 2)
    assert wpo_weight(likely, likely, cap=1.0).item() == 1


def test_length_desensitised_weights_by_hand() -> None:
    """A pair of 2 and 4 tokens: the last two tokens of the longer completion weigh alpha."""
    positions, shorter = torch.tensor([0, 1, 0, 1, 2, 3]), torch.full((6,), 2)
    assert ld_token_weights(positions, shorter, 0.25).tolist() == [1, 1, 1, 1, 0.25, 0.25]
    assert ld_token_weights(positions, shorter, 1.0).tolist() == [1] * 6


def test_flip_probabilities_by_hand() -> None:
    confidence = torch.tensor([1.0, 0.9, 0.75, 0.55, 0.5, 0.0], dtype=torch.float64)
    assert flip_probability(confidence).tolist() == pytest.approx([0, 0.1, 0.25, 0.45, 0.45, 0.45])
    assert confidence_weight(confidence).tolist() == pytest.approx([1, 0.8, 0.5, 0.1, 0.1, 0.1])


def test_full_confidence_is_the_plain_loss() -> None:
    e = flip_probability(torch.ones(4, dtype=torch.float64))
    assert torch.equal(dpo.sigmoid(SAMPLE, beta=0.3, label_smoothing=e), dpo.sigmoid(SAMPLE, beta=0.3))
    assert torch.equal(dpo.robust(SAMPLE, beta=0.3, label_smoothing=e), dpo.sigmoid(SAMPLE, beta=0.3))
    assert torch.equal(ipo.ipo(SAMPLE, beta=0.3, label_smoothing=e), ipo.ipo(SAMPLE, beta=0.3))
    assert torch.equal(
        simpo.simpo(SAMPLE, beta=2.0, gamma=0.5, label_smoothing=e), simpo.simpo(SAMPLE, beta=2.0, gamma=0.5)
    )
    assert torch.equal(confidence_weight(torch.ones(4)), torch.ones(4))


@pytest.mark.parametrize("confidence", [0.6, 0.75, 0.95])
def test_conservative_dpo_ends_where_the_policy_is_as_sure_as_the_label(confidence: float) -> None:
    """The gradient vanishes at beta D = ln(c / (1 - c)), that is sigmoid(beta D) = c; IPO's at (1 - 2 e) / (2 beta)."""
    e = flip_probability(torch.tensor([confidence], dtype=torch.float64))
    margin = torch.tensor([math.log(confidence / (1 - confidence)) / 0.3], dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros_like(margin), torch.ones_like(margin)
    loss = dpo.sigmoid(Pairs(margin, zero, zero, zero, one, one), beta=0.3, label_smoothing=e)
    assert torch.autograd.grad(loss.sum(), margin)[0].item() == pytest.approx(0, abs=1e-12)

    margin = ((1 - 2 * e) / 0.6).requires_grad_()
    loss = ipo.ipo(Pairs(margin, zero, zero, zero, one, one), beta=0.3, label_smoothing=e)
    assert torch.autograd.grad(loss.sum(), margin)[0].item() == pytest.approx(0, abs=1e-12)


@given(logratio=st.floats(-20, 20), confidence=st.floats(0, 1), desirable=st.booleans())
def test_the_expected_loss_of_kto_is_its_weighted_loss_and_a_constant(
    logratio: float, confidence: float, desirable: bool
) -> None:
    r, label = torch.tensor([logratio], dtype=torch.float64), torch.tensor([desirable])
    c, z = torch.tensor([confidence], dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    labelled, flipped = kto.kto(r, label, z, beta=0.3), kto.kto(r, ~label, z, beta=0.3)
    e = flip_probability(c)
    expected = (1 - e) * labelled + e * flipped
    assert expected.item() == pytest.approx((confidence_weight(c) * labelled + e).item(), rel=1e-12)


def test_doubtful_pairs_are_pulled_apart_less() -> None:
    pairs = make_pairs((-5, -5, -5, -5, 1, 1), (-5, -5, -5, -5, 1, 1))
    chosen = pairs.chosen.requires_grad_()
    e = flip_probability(torch.tensor([1.0, 0.6], dtype=torch.float64))
    (sure, doubtful) = torch.autograd.grad(dpo.sigmoid(pairs, beta=1.0, label_smoothing=e).sum(), chosen)[0].tolist()
    assert sure == pytest.approx(-0.5)  # -s(0)
    assert doubtful == pytest.approx(-0.1)  # e - s(0)
