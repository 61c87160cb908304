"""Every paired objective against the formula of its paper, written again for one pair in plain floats."""

import math
from collections.abc import Callable

import pytest
import torch
from catalog import COUPLED, ROWWISE, SAMPLE, TENSORS, make_pairs

from rlaif.training.objectives import dpo, ipo, kto, orpo, reward, simpo

Oracle = Callable[[float, float, float, float, float, float], float]


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def nll(x: float, e: float = 0.0) -> float:
    return -(1 - e) * math.log(s(x)) - e * math.log(1 - s(x))


def squares(margin: float, e: float = 0.0) -> float:
    return (1 - e) * (margin - 1 / 0.6) ** 2 + e * (margin + 1 / 0.6) ** 2


def discopop(x: float) -> float:
    weight = s(x / 0.5)
    return (1 - weight) * nll(x) + weight * math.exp(-x)


def exo(q: float) -> float:
    return q * math.log(q / (1 - 1e-3)) + (1 - q) * math.log((1 - q) / 1e-3)


def alpha_reward(mean_logp: float, alpha: float) -> float:
    return (1 - math.exp(mean_logp) ** -alpha) / alpha


def f_alpha(t: float, alpha: float) -> float:
    return (t ** (alpha - 1) - 1) / (alpha - 1)


def f_js(t: float) -> float:
    return math.log(2 * t / (1 + t))


def odds(p: float) -> float:
    return p / (1 - p)


# W, L: log-probs of the chosen (won) and the rejected (lost) completion; a, b: the reference's; m, n: their tokens.
ORACLES: dict[str, Oracle] = {
    "sigmoid": lambda W, L, a, b, m, n: nll(0.3 * (W - a - L + b)),
    "conservative": lambda W, L, a, b, m, n: nll(0.3 * (W - a - L + b), 0.1),
    "robust": lambda W, L, a, b, m, n: (
        (0.9 * nll(0.3 * (W - a - L + b)) - 0.1 * nll(-0.3 * (W - a - L + b))) / (1 - 0.2)
    ),
    "sigmoid_norm": lambda W, L, a, b, m, n: nll(2 * ((W - a) / m - (L - b) / n)),
    "discopop": lambda W, L, a, b, m, n: discopop(0.3 * (W - a - L + b)),
    "rdpo": lambda W, L, a, b, m, n: nll(0.3 * (W - a) - 0.3 * (L - b) + (0.1 * m - 0.1 * n)),
    "dpop": lambda W, L, a, b, m, n: nll(0.3 * (W - a - (L - b) - 2 * max(0, a - W))),
    "hinge": lambda W, L, a, b, m, n: max(0, 1 - 0.3 * (W - a - L + b)),
    "exo_pair": lambda W, L, a, b, m, n: exo(s(0.3 * (W - a - L + b))),
    "ipo": lambda W, L, a, b, m, n: squares((W - a) / m - (L - b) / n),
    "ipo of sums": lambda W, L, a, b, m, n: squares(W - a - L + b),
    "ipo smoothed": lambda W, L, a, b, m, n: squares((W - a) / m - (L - b) / n, 0.1),
    "sppo_hard": lambda W, L, a, b, m, n: (W - a - 1 / 0.3 * (1 - 0.5)) ** 2 + (L - b - 1 / 0.3 * (0 - 0.5)) ** 2,
    "nca_pair": lambda W, L, a, b, m, n: nll(0.3 * (W - a)) + 0.5 * nll(-0.3 * (W - a)) + 0.5 * nll(-0.3 * (L - b)),
    "bco_pair": lambda W, L, a, b, m, n: nll(0.3 * (W - a) - 0.2) + nll(0.2 - 0.3 * (L - b)),
    "apo_zero": lambda W, L, a, b, m, n: 1 - s(0.3 * (W - a)) + s(0.3 * (L - b)),
    "apo_down": lambda W, L, a, b, m, n: s(0.3 * (W - a)) + 1 - s(0.3 * (W - a) - 0.3 * (L - b)),
    "forward_kl": lambda W, L, a, b, m, n: nll(0.1 * ((1 - 1 / math.exp(W - a)) - (1 - 1 / math.exp(L - b)))),
    "js_divergence": lambda W, L, a, b, m, n: nll(0.1 * (f_js(math.exp(W - a)) - f_js(math.exp(L - b)))),
    "alpha_divergence": lambda W, L, a, b, m, n: nll(0.1 * (f_alpha(math.exp(W - a), 0.5) - f_alpha(math.exp(L - b), 0.5))),
    "alpha_divergence above 1": lambda W, L, a, b, m, n: (
        nll(0.1 * (f_alpha(math.exp(W - a), 1.5) - f_alpha(math.exp(L - b), 1.5)))
    ),
    "simpo": lambda W, L, a, b, m, n: nll(2 / m * W - 2 / n * L - 0.5),
    "simpo smoothed": lambda W, L, a, b, m, n: nll(2 / m * W - 2 / n * L - 0.5, 0.1),
    "cpo": lambda W, L, a, b, m, n: nll(0.3 * W - 0.3 * L),
    "cpo_hinge": lambda W, L, a, b, m, n: max(0, 1 - 0.3 * (W - L)),
    "alphapo": lambda W, L, a, b, m, n: nll(2.5 * (alpha_reward(W / m, 0.25) - alpha_reward(L / n, 0.25)) - 0.1),
    "alphapo below 0": lambda W, L, a, b, m, n: (
        nll(2.5 * (alpha_reward(W / m, -0.25) - alpha_reward(L / n, -0.25)) - 0.1)
    ),
    "orpo": lambda W, L, a, b, m, n: 0.3 * nll(math.log(odds(math.exp(W / m)) / odds(math.exp(L / n)))),
    "tdpo1": lambda W, L, a, b, m, n: nll(0.3 * (W - a - (L - b)) - 0.3 * (0.2 * n - 0.3 * m)),
    "tdpo2": lambda W, L, a, b, m, n: nll(0.3 * (W - a - (L - b)) - 0.3 * 0.5 * (0.2 * n - 0.3 * m)),
    "rainbowpo": lambda W, L, a, b, m, n: nll(2 * ((W / m - L / n) - 0.25 * (a / m - b / n) - 0.75 * 0.1)),
}  # fmt: skip


def rows() -> list[tuple[float, ...]]:
    return list(zip(*(getattr(SAMPLE, name).tolist() for name in TENSORS), strict=True))


def test_every_row_wise_objective_has_an_oracle() -> None:
    assert ORACLES.keys() == ROWWISE.keys()


@pytest.mark.parametrize("name", ROWWISE)
def test_paired_objectives_are_the_formulas_of_their_papers(name: str) -> None:
    assert ROWWISE[name](SAMPLE).tolist() == pytest.approx([ORACLES[name](*row) for row in rows()], rel=1e-12)


def test_aot_compares_quantiles() -> None:
    """The batch's k-th smallest margin under the policy against the k-th smallest under the reference."""
    policy = sorted(W - L for W, L, *_ in rows())
    reference = sorted(a - b for _, _, a, b, *_ in rows())
    expected = [nll(0.3 * (p - q), 0.1) for p, q in zip(policy, reference, strict=True)]
    assert COUPLED["aot"](SAMPLE).tolist() == pytest.approx(expected, rel=1e-12)


def test_unpaired_aot_compares_quantiles_of_rewards() -> None:
    chosen = sorted(W - a for W, _, a, *_ in rows())
    rejected = sorted(L - b for _, L, _, b, *_ in rows())
    expected = [nll(0.3 * (p - q), 0.1) for p, q in zip(chosen, rejected, strict=True)]
    assert COUPLED["aot_unpaired"](SAMPLE).tolist() == pytest.approx(expected, rel=1e-12)


DOUBTS = [0.0, 0.1, 0.3, 0.45]


def test_label_smoothing_may_differ_from_pair_to_pair() -> None:
    e = torch.tensor(DOUBTS, dtype=torch.float64)
    x = [0.3 * (W - a - L + b) for W, L, a, b, _, _ in rows()]
    means = [(W - a) / m - (L - b) / n for W, L, a, b, m, n in rows()]
    simpo_x = [2 * (W / m - L / n) - 0.5 for W, L, _, _, m, n in rows()]
    for losses, expected in (
        (dpo.sigmoid(SAMPLE, beta=0.3, label_smoothing=e), map(nll, x, DOUBTS)),
        (dpo.robust(SAMPLE, beta=0.3, label_smoothing=e), map(robust, x, DOUBTS)),
        (ipo.ipo(SAMPLE, beta=0.3, label_smoothing=e), map(squares, means, DOUBTS)),
        (simpo.simpo(SAMPLE, beta=2.0, gamma=0.5, label_smoothing=e), map(nll, simpo_x, DOUBTS)),
    ):
        assert losses.tolist() == pytest.approx(list(expected), rel=1e-12)


def robust(x: float, e: float) -> float:
    return ((1 - e) * nll(x) - e * nll(-x)) / (1 - 2 * e)


LOGRATIOS, DESIRABLE = [2.0, -1.0, 0.5, -3.0], [True, True, False, False]


def test_unpaired_objectives_are_the_formulas_of_their_papers() -> None:
    """KTO: lambda_y - v(x, y), v = lambda_D s(beta (r - z)) if desirable, lambda_U s(beta (z - r)) if not."""
    r, desirable = torch.tensor(LOGRATIOS, dtype=torch.float64), torch.tensor(DESIRABLE)
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    losses = kto.kto(r, desirable, torch.tensor(0.4, dtype=torch.float64), beta=0.3, **weights)
    assert losses.tolist() == pytest.approx(
        [
            1.5 - 1.5 * s(0.3 * (2.0 - 0.4)),
            1.5 - 1.5 * s(0.3 * (-1.0 - 0.4)),
            0.5 - 0.5 * s(0.3 * (0.4 - 0.5)),
            0.5 - 0.5 * s(0.3 * (0.4 + 3.0)),
        ],
        rel=1e-12,
    )
    losses = kto.bco(r, desirable, 0.2, beta=0.3, **weights)
    assert losses.tolist() == pytest.approx(
        [1.5 * nll(0.6 - 0.2), 1.5 * nll(-0.3 - 0.2), 0.5 * nll(0.2 - 0.15), 0.5 * nll(0.2 + 0.9)], rel=1e-12
    )
    losses = kto.apo_zero_unpaired(r, desirable, beta=0.3, **weights)
    assert losses.tolist() == pytest.approx(
        [1.5 * (1 - s(0.6)), 1.5 * (1 - s(-0.3)), 0.5 * s(0.15), 0.5 * s(-0.9)], rel=1e-12
    )


def test_the_reward_model_s_margin_and_centering() -> None:
    """-log s(1.5 - 0.5 - 0.25) + 0.01 (1.5 + 0.5)^2 = -log s(0.75) + 0.04."""
    chosen, rejected, margin = (torch.tensor([value], dtype=torch.float64) for value in (1.5, 0.5, 0.25))
    losses = reward.bradley_terry(chosen, rejected, margin_B=margin, centering=0.01)
    assert losses.item() == pytest.approx(nll(0.75) + 0.04, rel=1e-12)


@pytest.mark.parametrize("mean", [-1e-6, -1e-3, -0.5, -1.0, -20.0, -100.0])
def test_log_odds_keep_their_digits_in_float32(mean: float) -> None:
    """log(p / (1 - p)) against p = 1/2, whose odds are 1. Near p = 1, 1 - exp(log p) has no digits left."""
    pairs = make_pairs((mean, -math.log(2), 0, 0, 1, 1), dtype=torch.float32)
    expected = mean - math.log(-math.expm1(mean))
    assert orpo.log_odds(pairs).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_alphapo_goes_to_simpo_without_loss_of_digits() -> None:
    """(1 - p^-alpha) / alpha = log p - alpha (log p)^2 / 2 + ...: at alpha = 1e-6, float32 must see no difference."""
    pairs = make_pairs((-5.0, -9.0, 0, 0, 6, 5), dtype=torch.float32)
    limit = simpo.simpo(pairs, beta=2.0, gamma=0.5).item()
    assert simpo.alphapo(pairs, beta=2.0, gamma=0.5, alpha=1e-6).item() == pytest.approx(limit, rel=1e-5)
    assert simpo.alphapo(pairs, beta=2.0, gamma=0.5, alpha=0.0).item() == limit
