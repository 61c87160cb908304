"""Surrogates, ratios, KL estimates and the weights that make micro-batches add up to a step."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed import F64, Tokens, loss_of, random_tokens, rows_of, step_of
from torch import Tensor

from rlaif.training.objectives import policy_gradient as pg
from rlaif.training.objectives.policy_gradient import StepSize

LOSSES: dict[str, dict[str, Any]] = {
    "clip": {},
    "clip higher": {"epsilon_high": 0.28},
    "two-sided": {"ratio_cap": 1.5},
    "dual clip": {"dual_clip": 1.5},
    "gspo": {"level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04},
    "cispo": {"kind": "cispo", "cispo_cap": 1.3},
    "sapo": {"kind": "sapo", "tau_positive": 1.0, "tau_negative": 1.05},
    "sapo of sequences": {"kind": "sapo", "level": "sequence"},
    "none": {"kind": "none"},
}
UNITS = ("sequence", "token", "batch", "constant")
SAMPLE = random_tokens((3, 1, 5, 2))

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)
batches = st.builds(random_tokens, lengths, st.integers(0, 2**31))


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def oracle_token(rho: float, a: float, logp: float, kind: str = "clip", **k: Any) -> float:
    """One token's loss in plain floats."""
    if kind == "none":
        return -a * logp
    if kind == "cispo":
        return -min(rho, k["cispo_cap"]) * a * logp
    if kind == "sapo":
        tau = k.get("tau_positive", 1.0) if a > 0 else k.get("tau_negative", 1.05)
        return -4 / tau * s(tau * (rho - 1)) * a
    low, high = 1 - k.get("epsilon_low", 0.2), 1 + k.get("epsilon_high", 0.2)
    gain = min(min(rho, k.get("ratio_cap", math.inf)) * a, min(max(rho, low), high) * a)
    if "dual_clip" in k and a < 0:
        gain = max(gain, k["dual_clip"] * a)
    return -gain


def oracle(tokens: Tokens, unit: str, level: str = "token", **settings: Any) -> float:
    """The whole step, token by token, from a padded table (0 where a row has ended)."""
    width = max(tokens.lengths) + 2
    table = [[0.0] * width for _ in tokens.lengths]
    starts = [sum(tokens.lengths[:row]) for row in range(tokens.n_rows)]
    for row, (start, length) in enumerate(zip(starts, tokens.lengths, strict=True)):
        gaps = [(tokens.logps[start + t] - tokens.old[start + t]).item() for t in range(length)]
        for t in range(length):
            gap = gaps[t] if level == "token" else sum(gaps) / length
            a, logp = tokens.advantages[start + t].item(), tokens.logps[start + t].item()
            table[row][t] = oracle_token(math.exp(gap), a, logp, **settings)
    sums = [sum(row) for row in table]
    if unit == "sequence":
        return sum(total / length for total, length in zip(sums, tokens.lengths, strict=True)) / tokens.n_rows
    return sum(sums) / (tokens.n_rows * 16 if unit == "constant" else sum(tokens.lengths))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_formulas_token_by_token(name: str, unit: Any) -> None:
    tokens = random_tokens((4, 7, 1, 9, 3), seed=3)
    expected = oracle(tokens, unit, **LOSSES[name])
    assert loss_of(tokens, unit=unit, **LOSSES[name]).item() == pytest.approx(expected, rel=1e-12)


def test_clipping_by_hand() -> None:
    """epsilon 0.2 and 0.28, A = 2 and -2, rho = 1.5, 1.1 and 0.5. min(1.5 x 2, 1.28 x 2) = 2.56; 1.1 x 2 = 2.2; 0.5 x 2
    = 1. For A = -2: min(-3, -2.56) = -3; -2.2; min(-1, -1.6) = -1.6."""
    rho = torch.tensor([1.5, 1.1, 0.5] * 2, dtype=F64)
    a = torch.tensor([2.0] * 3 + [-2.0] * 3, dtype=F64)
    settings = {"epsilon_low": 0.2, "epsilon_high": 0.28}
    assert pg.clip_loss(rho.log(), a, **settings).tolist() == pytest.approx([-2.56, -2.2, -1, 3, 2.2, 1.6])
    low, high = pg.clipped(rho.log(), a, **settings)
    assert low.tolist() == [False] * 5 + [True]
    assert high.tolist() == [True] + [False] * 5


@pytest.mark.parametrize("settings", [{"ratio_cap": 2.0}, {"dual_clip": 2.0}])
def test_a_bad_token_s_ratio_is_capped_by_hand(settings: dict[str, float]) -> None:
    """rho = 5, A = -1: min(rho, 2) A = -2, and max(-5, 2 A) = -2, so the loss is 2. A good token's is -1.2 as before, and
    a bad one's at rho = 1.7 is 1.7."""
    rho, a = torch.tensor([5.0, 5.0, 1.7], dtype=F64), torch.tensor([-1.0, 1.0, -1.0], dtype=F64)
    losses = pg.clip_loss(rho.log(), a, epsilon_low=0.2, epsilon_high=0.2, **settings)
    assert losses.tolist() == pytest.approx([2, -1.2, 1.7])
    assert pg.clipped(rho.log(), a, **settings)[1].tolist() == [True, True, False]


def test_sequence_ratios_are_geometric_means_by_hand() -> None:
    """Gaps 0.3 and -0.1 have the mean 0.1; a row of one token keeps its own."""
    logps, old = torch.tensor([-1.0, -1.0, -2.0], dtype=F64), torch.tensor([-1.3, -0.9, -2.5], dtype=F64)
    ratios = pg.log_ratio(logps, old, torch.tensor([0, 0, 1]), 2, "sequence")
    assert ratios.tolist() == pytest.approx([0.1, 0.1, 0.5])


def gradient(tokens: Tokens, **settings: Any) -> Tensor:
    """Of the step's loss to the log-probs, (N,)."""
    logps = tokens.logps.clone().requires_grad_()
    return torch.autograd.grad(loss_of(tokens.with_logps(logps), **settings), logps)[0]


@pytest.mark.parametrize("name", LOSSES)
@given(unit=st.sampled_from(UNITS), tokens=batches)
def test_on_policy_every_kind_has_the_policy_gradient(name: str, unit: Any, tokens: Tokens) -> None:
    """Policy = old: rho = 1, and the gradient to each log-prob is -A times the token's weight in the step."""
    on_policy = Tokens(tokens.row, tokens.logps, tokens.logps, tokens.reference, tokens.advantages, tokens.lengths)
    weights = pg.token_weights(tokens.row, tokens.n_rows, unit, step_of(tokens), dtype=F64)
    expected = -tokens.advantages * weights
    assert torch.allclose(gradient(on_policy, unit=unit, **LOSSES[name]), expected, rtol=1e-9, atol=1e-12)
    ratios = pg.log_ratio(tokens.logps, tokens.logps, tokens.row, tokens.n_rows, LOSSES[name].get("level", "token"))
    assert torch.equal(ratios, torch.zeros_like(ratios))


def test_on_policy_values_by_hand() -> None:
    """A = 3, log policy = -2, rho = 1: clip -A = -3; SAPO -2 A / tau = -6 (tau 1); CISPO and REINFORCE -A log p = 6.
    A = -3: 3, 6 / 1.05, -6."""
    logps, zero = torch.full((2,), -2.0, dtype=F64), torch.zeros(2, dtype=F64)
    a = torch.tensor([3.0, -3.0], dtype=F64)
    assert pg.surrogate(logps, zero, a, "clip").tolist() == [-3, 3]
    assert pg.surrogate(logps, zero, a, "sapo").tolist() == pytest.approx([-6, 6 / 1.05])
    assert pg.surrogate(logps, zero, a, "cispo").tolist() == pg.surrogate(logps, zero, a, "none").tolist() == [6, -6]


@pytest.mark.parametrize("name", LOSSES)
@given(unit=st.sampled_from(UNITS), tokens=batches, data=st.data())
def test_neither_the_order_of_rows_nor_micro_batches_change_a_step(
    name: str, unit: Any, tokens: Tokens, data: st.DataObject
) -> None:
    """Loss and gradient of each row's tokens, whatever the order and wherever the step is cut."""
    settings = {**LOSSES[name], "unit": unit, "beta": 0.1, "bias_correction": True, "step": step_of(tokens)}
    order = data.draw(st.permutations(range(tokens.n_rows)))
    cut = data.draw(st.integers(0, tokens.n_rows))
    parts = [tokens.rows(part) for part in (order[:cut], order[cut:]) if part]
    assert sum(loss_of(part, **settings) for part in parts).item() == pytest.approx(
        loss_of(tokens, **settings).item(), rel=1e-9, abs=1e-12
    )
    whole = gradient(tokens, **settings).split(list(tokens.lengths))
    pieces = torch.cat([gradient(part, **settings) for part in parts])
    assert torch.allclose(pieces, torch.cat([whole[row] for row in order]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cispo"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    settings = {"beta": 0.1, "bias_correction": True, **LOSSES[name]}
    logps = SAMPLE.logps.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logps: loss_of(SAMPLE.with_logps(logps), **settings), logps)


def test_cispo_s_gradient_is_that_of_its_weighted_log_probs() -> None:
    """min(rho, cap) has no gradient, so finite differences of the loss are not what is wanted: those of the log-probs
    under fixed weights are."""
    weights = (SAMPLE.logps - SAMPLE.old).exp().clamp(max=1.3)
    assert weights.max() == 1.3
    expected = -weights * SAMPLE.advantages / sum(SAMPLE.lengths)
    assert torch.allclose(gradient(SAMPLE, **LOSSES["cispo"]), expected, rtol=1e-12)


def test_sapo_s_gradient_fades_on_both_sides_by_hand() -> None:
    """tau = 1, A = 1, rho = 2: s = sigmoid(1) = 0.7311, gradient to log p = -4 s (1 - s) rho = -1.5729."""
    log_ratio = torch.tensor([math.log(2)], dtype=F64, requires_grad=True)
    loss = pg.sapo_loss(log_ratio, torch.ones(1, dtype=F64), tau_positive=1.0, tau_negative=1.0)
    assert torch.autograd.grad(loss.sum(), log_ratio)[0].item() == pytest.approx(-4 * s(1) * (1 - s(1)) * 2)


@pytest.mark.parametrize("name", ["clip", "clip higher", "two-sided", "dual clip"])
@given(tokens=st.builds(random_tokens, lengths, st.integers(0, 2**31), st.just(1.0)))
def test_clipped_tokens_are_those_without_gradient(name: str, tokens: Tokens) -> None:
    low, high = pg.clipped(tokens.logps - tokens.old, tokens.advantages, **LOSSES[name])
    assert not (low & high).any()
    assert torch.equal(low | high, gradient(tokens, **LOSSES[name]) == 0)


def test_cispo_counts_every_capped_token_and_the_soft_kinds_none() -> None:
    log_ratio, a = torch.tensor([2.0, 2.0, -2.0]), torch.tensor([1.0, -1.0, 1.0])
    low, high = pg.clipped(log_ratio, a, "cispo", cispo_cap=5.0)
    assert (low.tolist(), high.tolist()) == ([False] * 3, [True, True, False])
    for kind in ("sapo", "none"):
        assert not any(part.any() for part in pg.clipped(log_ratio, a, kind))


def test_advantages_have_no_gradient() -> None:
    for name, settings in LOSSES.items():
        advantages = SAMPLE.advantages.clone().requires_grad_()
        tokens = Tokens(SAMPLE.row, SAMPLE.logps, SAMPLE.old, SAMPLE.reference, advantages, SAMPLE.lengths)
        assert not loss_of(tokens, **settings).requires_grad, name


def test_kl_estimates_by_hand() -> None:
    """d = -1 + 3 = 2: k1 = 2, k2 = 2, k3 = e^-2 + 1 = 1.1353; with a log rho of ln 3, three times that."""
    logps, reference = torch.tensor([-1.0], dtype=F64), torch.tensor([-3.0], dtype=F64)
    ratio = torch.tensor([math.log(3)], dtype=F64)
    for kind, expected in (("k1", 2), ("k2", 2), ("k3", math.exp(-2) + 1)):
        assert pg.kl_estimate(logps, reference, kind).item() == pytest.approx(expected)
        assert pg.kl_estimate(logps, reference, kind, log_ratio_N=ratio).item() == pytest.approx(3 * expected)
        assert pg.kl_estimate(logps, logps, kind).item() == 0


def distributions() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a policy over five tokens (with gradient), and log-probs of a reference and of an older policy."""
    generator = torch.Generator().manual_seed(1)
    logits, reference, old = (torch.randn(5, generator=generator, dtype=F64) for _ in range(3))
    return logits.requires_grad_(), reference.log_softmax(0), old.log_softmax(0)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_the_mean_of_k1_and_of_k3_is_the_kl(kind: Any) -> None:
    """Over the policy's own tokens; and, multiplied by rho, over those of an older policy. Means over all tokens, each as
    often as it is sampled, so no sampling error is left."""
    logits, reference, old = distributions()
    logps = logits.log_softmax(0)
    kl = (logps.exp() * (logps - reference)).sum().item()
    assert (logps.exp() * pg.kl_estimate(logps, reference, kind)).sum().item() == pytest.approx(kl)
    corrected = pg.kl_estimate(logps, reference, kind, log_ratio_N=logps - old)
    assert (old.exp() * corrected).sum().item() == pytest.approx(kl)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_what_the_estimates_teach(kind: Any) -> None:
    """On policy, the mean of k2's gradient is the KL's, and k1's is 0; with rho, k3's is the KL's from older tokens."""
    logits, reference, old = distributions()
    logps = logits.log_softmax(0)
    (of_kl,) = torch.autograd.grad((logps.exp() * (logps - reference)).sum(), logits, retain_graph=True)
    estimates = pg.kl_estimate(logps, reference, kind)
    (taught,) = torch.autograd.grad((logps.exp().detach() * estimates).sum(), logits, retain_graph=True)
    if kind == "k2":
        assert torch.allclose(taught, of_kl, rtol=1e-9)
    elif kind == "k1":
        assert torch.allclose(taught, torch.zeros_like(taught), atol=1e-12)
    if kind != "k2":
        corrected = pg.kl_estimate(logps, reference, kind, log_ratio_N=logps - old)
        (taught,) = torch.autograd.grad((old.exp() * corrected).sum(), logits)
        assert torch.allclose(taught, of_kl, rtol=1e-9)


def test_the_engine_s_weight_by_hand() -> None:
    """Gaps 0, ln 1.5 and ln 4 with cap 2: 1, 1.5, 2. A token the engine found far likelier: e^-1."""
    sampled = torch.tensor([-2.0, -2.0, -2.0, -1.0], dtype=F64)
    old = torch.tensor([-2.0, -2.0 + math.log(1.5), -2.0 + math.log(4), -2.0], dtype=F64, requires_grad=True)
    weight = pg.importance_weight(old, sampled, cap=2.0)
    assert weight.tolist() == pytest.approx([1, 1.5, 2, math.exp(-1)])
    assert not weight.requires_grad


def test_token_weights_by_hand() -> None:
    """Rows of 1 and 3 tokens in a micro-batch, of a step of 4 rows and 10 tokens, of a rollout of 30 tokens in 2 steps."""
    row = rows_of((1, 3))
    step = StepSize(rows=4, tokens=10, rollout_tokens=30, rollout_steps=2, max_tokens=8)
    expected = {"sequence": [1 / 4] + [1 / 12] * 3, "token": [0.1] * 4, "batch": [1 / 15] * 4, "constant": [1 / 32] * 4}
    for unit in UNITS:
        assert pg.token_weights(row, 2, unit, step, dtype=F64).tolist() == pytest.approx(expected[unit])


def test_equal_lengths_make_all_units_one() -> None:
    row, step = rows_of((8, 8)), StepSize(rows=2, tokens=16, rollout_tokens=16, max_tokens=8)
    for unit in UNITS:
        assert pg.token_weights(row, 2, unit, step).tolist() == [1 / 16] * 16


def test_a_row_without_tokens_adds_nothing() -> None:
    """Rows 0 and 2 have tokens, row 1 has none: it counts among the rows of the step, with a loss of 0."""
    row, step = torch.tensor([0, 2, 2]), StepSize(rows=3, tokens=3)
    assert pg.token_weights(row, 3, "sequence", step).tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 6])
    assert pg.row_means(torch.tensor([1.0, 2.0, 4.0]), row, 3).tolist() == [1, 0, 3]


@pytest.mark.parametrize(("unit", "name"), [("batch", "rollout_tokens"), ("constant", "max_tokens")])
def test_a_unit_without_its_number_is_refused(unit: Any, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        pg.token_weights(rows_of((2,)), 1, unit, StepSize(rows=1, tokens=2))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("gap", [-1e4, -100.0, 100.0, 1e4])
@pytest.mark.parametrize("advantage", [-3.0, 0.0, 3.0])
def test_extreme_ratios_give_finite_losses_and_gradients(name: str, gap: float, advantage: float) -> None:
    """In float32, with the policy and the old one (and the reference) as far apart as they can be."""
    logps = torch.full((4,), -max(-gap, 0.0))
    other = logps - gap
    tokens = Tokens(rows_of((1, 3)), logps, other, other, torch.full((4,), advantage), (1, 3))
    settings = {**LOSSES[name], "beta": 0.1, "bias_correction": True}
    assert loss_of(tokens, **settings).isfinite()
    assert gradient(tokens, **settings).isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_close_to_float64(name: str) -> None:
    single = Tokens(
        SAMPLE.row,
        *(getattr(SAMPLE, key).float() for key in ("logps", "old", "reference")),
        SAMPLE.advantages,  # advantages come in float64; losses keep the type of the log-probs
        SAMPLE.lengths,
    )
    loss = loss_of(single, **LOSSES[name])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loss_of(SAMPLE, **LOSSES[name]).item(), rel=1e-5)
