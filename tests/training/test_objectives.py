"""The objectives against published implementations, hand-derived numbers and their symmetries."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlaif.training.objectives.dpo import dpo_loss
from rlaif.training.objectives.sft import sft_loss

GOLDEN = json.loads((Path(__file__).parents[1] / "data/golden_objectives.json").read_text())


def golden_sums(key: str) -> tuple[Tensor, Tensor]:
    """Log-probs of whole completions, chosen (rows 0..3) and rejected (rows 4..7)."""
    sums = torch.tensor(GOLDEN["inputs"][key], dtype=torch.float64).sum(1)
    return sums[:4], sums[4:]


def golden_loss(label_smoothing: float = 0.0) -> float:
    policy, reference = golden_sums("policy_logps"), golden_sums("ref_logps")
    losses, _ = dpo_loss(*policy, *reference, beta=0.1, label_smoothing=label_smoothing)
    return losses.mean().item()


def test_dpo_is_that_of_the_paper_s_authors_and_of_trl() -> None:
    assert golden_loss() == pytest.approx(GOLDEN["trl_1.16.0"]["dpo/sigmoid beta=.1"], rel=1e-6)
    assert golden_loss() == pytest.approx(GOLDEN["eric-mitchell/dpo@f8b8c0f"]["dpo beta=.1"], rel=1e-6)


def test_label_smoothing_is_that_of_the_paper_s_authors() -> None:
    assert golden_loss(0.1) == pytest.approx(GOLDEN["eric-mitchell/dpo@f8b8c0f"]["cdpo eps=.1"], rel=1e-6)


def test_dpo_by_hand() -> None:
    """beta D = 0.5 * ((-1 - -2) - (-3 - -2)) = 1: loss = ln(1 + e^-1); with e = 0.2, 0.2 * 1 more (log s(x) - log s(-x)
    = x). Rewards are 0.5 * 1 and 0.5 * -1."""
    arguments = [torch.tensor([value], dtype=torch.float64) for value in (-1.0, -3.0, -2.0, -2.0)]
    losses, metrics = dpo_loss(*arguments, beta=0.5)
    smoothed, _ = dpo_loss(*arguments, beta=0.5, label_smoothing=0.2)
    assert losses.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-15)
    assert smoothed.item() == pytest.approx(losses.item() + 0.2, abs=1e-15)
    assert metrics["rewards_chosen"].item() == 0.5
    assert metrics["rewards_rejected"].item() == -0.5
    assert metrics["accuracies"].item() == 1


numbers = st.floats(-50, 0)


@given(chosen=numbers, rejected=numbers, smoothing=st.floats(0, 0.49), beta=st.floats(0.01, 5))
def test_policy_equal_to_reference_is_ln_2(chosen: float, rejected: float, smoothing: float, beta: float) -> None:
    w, r = torch.tensor([chosen]), torch.tensor([rejected])
    losses, metrics = dpo_loss(w, r, w, r, beta=beta, label_smoothing=smoothing)
    assert losses.item() == pytest.approx(math.log(2), rel=1e-6)
    assert metrics["margins"].item() == 0


@given(values=st.tuples(numbers, numbers, numbers, numbers))
def test_swapping_chosen_and_rejected_negates_the_margin(values: tuple[float, float, float, float]) -> None:
    w, r, ref_w, ref_r = (torch.tensor([value], dtype=torch.float64) for value in values)
    _, metrics = dpo_loss(w, r, ref_w, ref_r, beta=0.3)
    _, swapped = dpo_loss(r, w, ref_r, ref_w, beta=0.3)
    assert swapped["margins"].item() == -metrics["margins"].item()


def test_extreme_margins_stay_finite() -> None:
    w = torch.tensor([0.0, -1e4], requires_grad=True)
    losses, _ = dpo_loss(w, w.detach().flip(0), torch.zeros(2), torch.zeros(2), beta=1.0, label_smoothing=0.1)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(w.grad).all()


def test_sft_of_a_uniform_policy_is_ln_v() -> None:
    logps = torch.zeros(3, 17).log_softmax(-1)[:, 5]
    assert sft_loss(logps).tolist() == pytest.approx([math.log(17)] * 3)
