"""What must hold whatever the numbers: known cases, reductions of one objective to another, symmetries."""

import math
from dataclasses import replace

import pytest
import torch
from catalog import COUPLED, ROWWISE, SAMPLE, TENSORS, make_pairs, map_pairs, swapped
from hypothesis import given
from hypothesis import strategies as st

from rlaif.training.objectives import anchored, aot, dpo, ipo, kto, orpo, rainbow, reward, simpo, tdpo
from rlaif.training.objectives.divergence import power_transform, transform
from rlaif.training.objectives.pairs import Pairs
from rlaif.training.objectives.sft import sft_loss

LN_2 = math.log(2)

# With policy = reference both log-ratios are 0; beta is 0.3 in the catalog.
AT_REFERENCE: dict[str, float] = {
    "sigmoid": LN_2,
    "conservative": LN_2,
    "robust": LN_2,
    "sigmoid_norm": LN_2,
    "discopop": (LN_2 + 1) / 2,
    "hinge": 1,
    "exo_pair": -LN_2 - math.log(1e-3 * (1 - 1e-3)) / 2,
    "ipo": 1 / 0.6**2,
    "ipo of sums": 1 / 0.6**2,
    "ipo smoothed": 1 / 0.6**2,
    "sppo_hard": 1 / (2 * 0.3**2),
    "nca_pair": 2 * LN_2,
    "apo_zero": 1,
    "apo_down": 1,
    "forward_kl": LN_2,
    "js_divergence": LN_2,
    "alpha_divergence": LN_2,
    "dpop": LN_2,
    "aot": LN_2,
    "aot_unpaired": LN_2,
}

ALL = ROWWISE | COUPLED
logps = st.floats(-50, -0.01)
tokens = st.integers(1, 60)
rows = st.tuples(logps, logps, logps, logps, tokens, tokens)
batches = st.lists(rows, min_size=1, max_size=5).map(lambda batch: make_pairs(*batch))


def close(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", AT_REFERENCE)
@given(pairs=batches)
def test_policy_equal_to_reference(name: str, pairs: Pairs) -> None:
    pairs = replace(pairs, reference_chosen=pairs.chosen, reference_rejected=pairs.rejected)
    assert ALL[name](pairs).tolist() == pytest.approx([AT_REFERENCE[name]] * len(pairs.chosen), rel=1e-9)


@pytest.mark.parametrize("name", ROWWISE)
@given(pairs=batches, data=st.data())
def test_the_order_of_a_batch_moves_its_losses_and_nothing_else(name: str, pairs: Pairs, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(pairs.chosen))))
    assert close(ROWWISE[name](map_pairs(pairs, lambda tensor: tensor[order])), ROWWISE[name](pairs)[order])


@pytest.mark.parametrize("name", ROWWISE)
def test_a_pair_s_loss_does_not_depend_on_the_others(name: str) -> None:
    halves = [ROWWISE[name](map_pairs(SAMPLE, lambda tensor, half=half: tensor.chunk(2)[half])) for half in (0, 1)]
    assert close(torch.cat(halves), ROWWISE[name](SAMPLE))


@pytest.mark.parametrize("name", COUPLED)
@given(pairs=batches, data=st.data())
def test_aot_does_not_depend_on_the_order_of_a_batch(name: str, pairs: Pairs, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(pairs.chosen))))
    assert close(COUPLED[name](map_pairs(pairs, lambda tensor: tensor[order])), COUPLED[name](pairs))


@given(pairs=batches)
def test_swapping_chosen_and_rejected_negates_margins(pairs: Pairs) -> None:
    other = swapped(pairs)
    assert torch.equal(other.margin, -pairs.margin)
    assert torch.equal(other.mean_margin, -pairs.mean_margin)
    assert torch.equal(orpo.log_odds(other), -orpo.log_odds(pairs))
    assert close(dpo.sigmoid(other, beta=0.3, label_smoothing=0.2), dpo.sigmoid(pairs, beta=0.3, label_smoothing=0.8))
    assert close(dpo.preference_metrics(other, 0.3)["rewards/margins"], -0.3 * pairs.margin)


@given(pairs=batches, e=st.floats(0, 0.45))
def test_robust_dpo_is_dpo_on_average_over_flips(pairs: Pairs, e: float) -> None:
    labelled = dpo.robust(pairs, beta=0.3, label_smoothing=e)
    flipped = dpo.robust(swapped(pairs), beta=0.3, label_smoothing=e)
    assert close((1 - e) * labelled + e * flipped, dpo.sigmoid(pairs, beta=0.3))


@given(pairs=batches, e=st.floats(0, 0.49))
def test_doubt_lowers_the_target_of_ipo(pairs: Pairs, e: float) -> None:
    """c = 1 / (2 beta): the loss is (D - (1 - 2 e) c)^2 + 4 e (1 - e) c^2."""
    target = 1 / 0.6
    expected = (pairs.mean_margin - (1 - 2 * e) * target) ** 2 + 4 * e * (1 - e) * target**2
    assert close(ipo.ipo(pairs, beta=0.3, label_smoothing=e), expected)


@given(pairs=batches)
def test_objectives_reduce_to_dpo(pairs: Pairs) -> None:
    plain = dpo.sigmoid(pairs, beta=0.3)
    equal_lengths = replace(pairs, rejected_tokens=pairs.chosen_tokens)
    one_length = replace(
        pairs, chosen_tokens=torch.full_like(pairs.chosen, 4), rejected_tokens=torch.full_like(pairs.chosen, 4)
    )
    better = replace(pairs, reference_chosen=pairs.chosen - 1)
    kl, other_kl = pairs.chosen_tokens, 2 * pairs.rejected_tokens
    assert close(dpo.robust(pairs, beta=0.3, label_smoothing=0.0), plain)
    assert close(dpo.sigmoid_norm(one_length, beta=1.2), plain)
    assert close(dpo.rdpo(equal_lengths, beta=0.3, alpha=0.5), plain)
    assert close(dpo.dpop(pairs, beta=0.3, penalty=0.0), plain)
    assert close(dpo.dpop(better, beta=0.3, penalty=50.0), dpo.sigmoid(better, beta=0.3))
    assert close(tdpo.tdpo1(pairs, kl, kl, beta=0.3), plain)
    assert close(tdpo.tdpo2(pairs, kl, other_kl, beta=0.3, alpha=0.0), plain)
    assert close(tdpo.tdpo2(pairs, kl, other_kl, beta=0.3, alpha=1.0), tdpo.tdpo1(pairs, kl, other_kl, beta=0.3))
    alone = map_pairs(pairs, lambda tensor: tensor[:1])
    assert close(aot.aot(alone, beta=0.3), plain[:1])
    assert close(aot.aot_unpaired(alone, beta=0.3), plain[:1])


@given(pairs=batches)
def test_rainbowpo_lies_between_simpo_and_length_normalised_dpo(pairs: Pairs) -> None:
    simpo_like = rainbow.rainbowpo(pairs, beta=2.0, alpha=0.0, home_advantage=0.3)
    assert close(simpo_like, simpo.simpo(pairs, beta=2.0, gamma=0.6))
    dpo_like = rainbow.rainbowpo(pairs, beta=2.0, alpha=1.0, home_advantage=0.3)
    assert close(dpo_like, dpo.sigmoid_norm(pairs, beta=2.0))


def test_known_cases_of_objectives_without_a_reference() -> None:
    """Two equal completions: x = -gamma for SimPO and AlphaPO, 0 for CPO and ORPO."""
    pairs = make_pairs((-6, -6, 0, 0, 3, 3))
    assert simpo.simpo(pairs, beta=2.0, gamma=0.5).item() == pytest.approx(math.log(1 + math.exp(0.5)))
    assert simpo.alphapo(pairs, beta=2.0, gamma=0.5, alpha=0.3).item() == pytest.approx(math.log(1 + math.exp(0.5)))
    assert simpo.cpo(pairs, beta=0.3).item() == pytest.approx(LN_2)
    assert simpo.cpo_hinge(pairs, beta=0.3).item() == 1
    assert orpo.orpo(pairs, beta=0.3).item() == pytest.approx(0.3 * LN_2)


def test_exo_vanishes_where_policy_and_label_agree() -> None:
    """x = ln((1 - e) / e) is q = 1 - e, so both logarithms are 0. With e = 0.2 and beta = 1, D = ln 4."""
    pairs = make_pairs((-1, -1 - math.log(4), 0, 0, 1, 1))
    assert dpo.exo_pair(pairs, beta=1.0, label_smoothing=0.2).item() == pytest.approx(0, abs=1e-15)


def test_apo_zero_is_the_sum_of_its_unpaired_halves() -> None:
    chosen, rejected = SAMPLE.chosen_logratio, SAMPLE.rejected_logratio
    ones = torch.ones(4, dtype=torch.bool)
    halves = kto.apo_zero_unpaired(chosen, ones, beta=0.3) + kto.apo_zero_unpaired(rejected, ~ones, beta=0.3)
    assert close(anchored.apo_zero(SAMPLE, beta=0.3), halves)


def test_bco_of_a_pair_is_the_sum_of_its_rows() -> None:
    ones = torch.ones(4, dtype=torch.bool)
    halves = kto.bco(SAMPLE.chosen_logratio, ones, 0.2, beta=0.3)
    halves = halves + kto.bco(SAMPLE.rejected_logratio, ~ones, 0.2, beta=0.3)
    assert close(anchored.bco_pair(SAMPLE, beta=0.3, shift=0.2), halves)


def test_kto_at_its_reference_point_is_half_the_weight() -> None:
    r, desirable = torch.tensor([0.7, 0.7]), torch.tensor([True, False])
    losses = kto.kto(r, desirable, torch.tensor(0.7), beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
    assert losses.tolist() == [0.75, 0.25]


def test_class_balance() -> None:
    """1,000 desirable rows at weight 2.4 against 2,000 undesirable ones: 2400 / 2000 = 1.2, as its authors like it."""
    low, high = kto.CLASS_BALANCE_RANGE
    assert kto.class_balance(1000, 2000, 2.4, 1.0) == pytest.approx(1.2)
    assert low <= kto.class_balance(1000, 2000, 2.4, 1.0) <= high
    assert kto.class_balance(1000, 2000) == 0.5


def test_equal_rewards_give_ln_2() -> None:
    zeros = torch.zeros(3)
    assert reward.bradley_terry(zeros, zeros, centering=0.01).tolist() == pytest.approx([LN_2] * 3)
    assert reward.bradley_terry(zeros + 2, zeros + 2).tolist() == pytest.approx([LN_2] * 3)


def test_divergences_are_0_at_the_reference_and_rise() -> None:
    """Slope f''(1) at r = 0: 1, and 1/2 for Jensen-Shannon."""
    slopes = {"forward_kl": 1.0, "js_divergence": 0.5, "alpha_divergence": 1.0}
    for name, slope in slopes.items():
        function = transform(name, 0.3)
        assert function is not None
        r = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        value = function(r)
        assert value.item() == 0
        assert torch.autograd.grad(value, r)[0].item() == pytest.approx(slope)
        # Not beyond: float32 rounds Jensen-Shannon's values to ln 2, and exponents end at 80.
        assert (function(torch.linspace(-10, 10, 50)).diff() > 0).all()


def test_divergences_that_are_dpo() -> None:
    assert transform("reverse_kl") is None
    assert transform("alpha_divergence", 1.0) is None
    r = torch.tensor([-3.0, 0.5, 7.0])
    forward, alpha_0, near_1 = transform("forward_kl"), transform("alpha_divergence", 0.0), power_transform(r, 1e-7)
    assert forward is not None
    assert alpha_0 is not None
    assert torch.equal(forward(r), alpha_0(r))
    assert near_1.tolist() == pytest.approx(r.tolist(), rel=1e-5)


def test_dpo_by_hand() -> None:
    """beta D = 0.5 * ((-1 - -2) - (-3 - -2)) = 1: loss = ln(1 + e^-1); with e = 0.2, 0.2 * 1 more (log s(x) - log s(-x)
    = x). Rewards are 0.5 * 1 and 0.5 * -1."""
    pairs = make_pairs((-1, -3, -2, -2, 1, 1))
    plain = dpo.sigmoid(pairs, beta=0.5).item()
    assert plain == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-15)
    assert dpo.sigmoid(pairs, beta=0.5, label_smoothing=0.2).item() == pytest.approx(plain + 0.2, abs=1e-15)
    assert {name: metric.item() for name, metric in dpo.preference_metrics(pairs, 0.5).items()} == {
        "rewards/chosen": 0.5,
        "rewards/rejected": -0.5,
        "rewards/accuracies": 1,
        "rewards/margins": 1,
        "logps/chosen": -1,
        "logps/rejected": -3,
    }


def test_metrics_have_no_gradient_and_a_tie_is_not_accurate() -> None:
    pairs = map_pairs(make_pairs((-1, -1, 0, 0, 1, 1)), lambda tensor: tensor.requires_grad_())
    metrics = dpo.preference_metrics(pairs, 0.5)
    assert metrics["rewards/accuracies"].item() == 0
    assert not any(metric.requires_grad for metric in metrics.values())


def test_pairs_name_what_they_hold() -> None:
    """Row: l_w = -6, l_l = -8, l_ref_w = -3, l_ref_l = -2, 3 and 2 tokens; so r_w = -3, r_l = -6, D = 3."""
    pairs = replace(make_pairs((-6, -8, -3, -2, 3, 2)), transform=lambda logratio: 10 * logratio)
    names = [name for name in vars(Pairs) if isinstance(vars(Pairs)[name], property)]
    assert {name: getattr(pairs, name).item() for name in names} == {
        "chosen_logratio": -30,
        "rejected_logratio": -60,
        "margin": 30,
        "chosen_mean_logratio": -1,
        "rejected_mean_logratio": -3,
        "mean_margin": 2,
        "chosen_mean": -2,
        "rejected_mean": -4,
        "reference_chosen_mean": -1,
        "reference_rejected_mean": -1,
    }
    assert all(getattr(pairs, name).shape == (1,) for name in TENSORS)


def test_sft_of_a_uniform_policy_is_ln_v() -> None:
    logps = torch.zeros(3, 17).log_softmax(-1)[:, 5]
    assert sft_loss(logps).tolist() == pytest.approx([math.log(17)] * 3)
