"""Policy gradients: what a token of a sampled completion costs, given how good it was.

PPO (Schulman et al. 2017, arXiv 1707.06347), GRPO (Shao et al. 2024, arXiv 2402.03300), Dr. GRPO (Liu et al. 2025,
arXiv 2503.20783), DAPO (Yu et al. 2025, arXiv 2503.14476), GSPO (Zheng et al. 2025, arXiv 2507.18071), CISPO (MiniMax
2025, arXiv 2506.13585), SAPO (Gao et al. 2025, arXiv 2511.20347), REINFORCE (Williams 1992).

Tokens are packed: a tensor (N,) has one value for each completion token of all rows, rows one after the other, and
row_N (int64) says to which row 0..B-1 each token belongs. Log-probs are of the policy as it is now (with gradient), of
the policy that is taken as the old one, of the engine that sampled, and of the reference. rho = policy / old is the
ratio of a token, A its advantage. Losses are minimised.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Level = Literal["token", "sequence"]
Kind = Literal["clip", "cispo", "sapo", "none"]
Estimator = Literal["k1", "k2", "k3"]
Unit = Literal["sequence", "token", "batch", "constant"]

MAX_LOG_RATIO = 20.0
"""Ratios are held in [e^-20, e^20]: there they keep their value and have no gradient. e^20 is 4.9e8."""


def row_sums(values_N: Tensor, row_N: Tensor, n_rows: int) -> Tensor:
    """The sum of each row's tokens, (B,); 0 for a row without tokens."""
    return values_N.new_zeros(n_rows).index_add(0, row_N, values_N)


def row_lengths(row_N: Tensor, n_rows: int) -> Tensor:
    """How many tokens each row has, (B,), int64."""
    return torch.bincount(row_N, minlength=n_rows)


def row_means(values_N: Tensor, row_N: Tensor, n_rows: int) -> Tensor:
    """The mean over each row's tokens, (B,); 0 for a row without tokens."""
    return row_sums(values_N, row_N, n_rows) / row_lengths(row_N, n_rows).clamp(min=1)


def log_ratio(logps_N: Tensor, old_N: Tensor, row_N: Tensor, n_rows: int, level: Level = "token") -> Tensor:
    """log rho of each token, (N,), with gradient to logps_N.

        token: l - l_old;  sequence: the mean of that over the row's tokens, the same number at each of them

    sequence is GSPO's equation 7, the geometric mean of the token ratios. It needs whole rows: a row must not be
    spread over micro-batches. Known cases: policy = old gives 0; rows of one token make the two levels one. Departure:
    held in [-20, 20] (MAX_LOG_RATIO), since exp of more overflows, and infinity times a gradient of 0 is nan.
    """
    ratio_N = logps_N - old_N
    if level == "sequence":
        ratio_N = row_means(ratio_N, row_N, n_rows)[row_N]
    return ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def surrogate(
    logps_N: Tensor,
    log_ratio_N: Tensor,
    advantages_N: Tensor,
    kind: Kind = "clip",
    *,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    ratio_cap: float | None = None,
    dual_clip: float | None = None,
    cispo_cap: float = 5.0,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> Tensor:
    """The loss of each token, (N,), from its log-prob, its log_ratio and its advantage (used without gradient).

    * clip: `clip_loss` (PPO, GRPO, DAPO; with log-ratios of sequences GSPO).
    * cispo: `cispo_loss`, with cispo_cap.
    * sapo: `sapo_loss`, with tau_positive and tau_negative.
    * none: REINFORCE, -A log policy. No ratio, so one update for each rollout.

    Known case: policy = old gives rho = 1, and every kind has the gradient -A grad log policy. For ratios of sequences
    that holds for the sum over a row, or its mean, if A is one number in the row.
    """
    advantages_N = advantages_N.detach().to(logps_N.dtype)
    if kind == "none":
        return -advantages_N * logps_N
    if kind == "cispo":
        return cispo_loss(logps_N, log_ratio_N, advantages_N, cap=cispo_cap)
    if kind == "sapo":
        return sapo_loss(log_ratio_N, advantages_N, tau_positive=tau_positive, tau_negative=tau_negative)
    return clip_loss(
        log_ratio_N, advantages_N,
        epsilon_low=epsilon_low, epsilon_high=epsilon_high, ratio_cap=ratio_cap, dual_clip=dual_clip,
    )  # fmt: skip


def clip_loss(
    log_ratio_N: Tensor,
    advantages_N: Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
    ratio_cap: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's clipped loss, equation 7, of each token (N,).

        loss = -min(rho A, clip(rho, 1 - epsilon_low, 1 + epsilon_high) A)

    epsilon_low in [0, 1), epsilon_high >= 0; two of them as in DAPO (0.2 and 0.28), GSPO takes 3e-4 and 4e-4. Beyond
    the clip a token that was already moved the right way has no gradient; one that was moved the wrong way still has.

    * ratio_cap > 1 + epsilon_high: the first rho is min(rho, ratio_cap), so a bad token (A < 0) whose ratio ran away
      weighs no more than that (two-sided clip: INTELLECT-2, arXiv 2505.07291; `delta` in TRL).
    * dual_clip c > 1: where A < 0, the loss is at most -c A (Ye et al. 2019, arXiv 1912.09729). The same
      limit as ratio_cap = c, if c > 1 + epsilon_high.

    Known cases: rho = 1 gives -A; A = 0 gives 0. No departure from the papers.
    """
    ratio_N = log_ratio_N.exp()
    clipped_N = ratio_N.clamp(1 - epsilon_low, 1 + epsilon_high)
    if ratio_cap is not None:
        ratio_N = ratio_N.clamp(max=ratio_cap)
    gain_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    if dual_clip is not None:
        gain_N = torch.where(advantages_N < 0, gain_N.maximum(dual_clip * advantages_N), gain_N)
    return -gain_N


def cispo_loss(logps_N: Tensor, log_ratio_N: Tensor, advantages_N: Tensor, *, cap: float) -> Tensor:
    """CISPO, equations 4 and 5, of each token (N,): REINFORCE weighed by a truncated ratio without gradient.

        loss = -stop_gradient(min(rho, cap)) A log policy

    Every token keeps its gradient, however far its ratio went. The convention: cap > 1 is the largest weight itself,
    as `epsilon_high` of TRL (5.0), and not 1 + epsilon_high as in the paper and in verl; there is no lower bound, as
    the paper has none in practice. Known cases: rho = 1 has REINFORCE's loss and gradient; its value at rho = 1 is
    -A log policy, not -A.
    """
    return -log_ratio_N.detach().exp().clamp(max=cap) * advantages_N * logps_N


def sapo_loss(log_ratio_N: Tensor, advantages_N: Tensor, *, tau_positive: float, tau_negative: float) -> Tensor:
    """SAPO's loss of each token (N,): a soft gate in place of the clip.

        loss = -(4 / tau) sigmoid(tau (rho - 1)) A,  tau = tau_positive where A > 0, else tau_negative

    The gradient is that of rho A, times 4 s (1 - s) in (0, 1], s = sigmoid(tau (rho - 1)): largest at rho = 1, less
    the further away on either side, and never 0. tau > 0; the paper takes 1 and 1.05, so that bad tokens fade faster.
    Known case: rho = 1 gives -2 A / tau with gradient -A. No departure from the paper.
    """
    tau_N = torch.where(advantages_N > 0, advantages_N.new_tensor(tau_positive), advantages_N.new_tensor(tau_negative))
    return -4 / tau_N * torch.sigmoid(tau_N * (log_ratio_N.exp() - 1)) * advantages_N


@torch.no_grad()
def clipped(
    log_ratio_N: Tensor,
    advantages_N: Tensor,
    kind: Kind = "clip",
    *,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    ratio_cap: float | None = None,
    dual_clip: float | None = None,
    cispo_cap: float = 5.0,
) -> tuple[Tensor, Tensor]:
    """Which tokens are clipped because their ratio is too low, and which because it is too high: two booleans (N,).

    * clip: exactly the tokens without gradient and with A other than 0. Low: A < 0 and rho < 1 - epsilon_low. High:
      A > 0 and rho > 1 + epsilon_high; with ratio_cap or dual_clip also A < 0 and rho above that, which TRL does not
      count.
    * cispo: low never; high where rho > cispo_cap, of either sign of A (TRL counts A > 0 only, though all are capped).
    * sapo, none: never.
    """
    ratio_N = log_ratio_N.exp()
    never_N = torch.zeros_like(ratio_N, dtype=torch.bool)
    if kind == "cispo":
        return never_N, ratio_N > cispo_cap
    if kind != "clip":
        return never_N, never_N
    cap = math.inf if ratio_cap is None else ratio_cap
    worst = min(cap, math.inf if dual_clip is None else dual_clip)
    low_N = (advantages_N < 0) & (ratio_N < 1 - epsilon_low)
    good_N = (advantages_N > 0) & (ratio_N > min(1 + epsilon_high, cap))
    return low_N, good_N | ((advantages_N < 0) & (ratio_N > worst))


def kl_estimate(
    logps_N: Tensor, reference_N: Tensor, kind: Estimator = "k3", *, log_ratio_N: Tensor | None = None
) -> Tensor:
    """An estimate of KL(policy || reference) at each token, (N,), with gradient to logps_N (Schulman 2020, "Approximating
    KL divergence").

        d = l - l_ref;  k1 = d;  k2 = d^2 / 2;  k3 = e^-d - 1 + d

    Over tokens that the policy samples, k1 and k3 have the KL as their mean, k2 nearly; k2 and k3 are never negative.
    As a loss, k2 has the KL's gradient (on policy), k3 nearly, and k1 has none: its mean is 0. Put k1 into the reward.
    Known case: policy = reference gives 0.

    log_ratio_N: log rho of each token where the tokens are older than the policy; the estimate is then multiplied by
    rho, with gradient to both, so that its mean is again that over the policy's own tokens (`use_bias_correction_kl`
    in TRL). Departure: d is held in [-20, 20], where e^-d would overflow.
    """
    d_N = (logps_N - reference_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if kind == "k1":
        kl_N = d_N
    elif kind == "k2":
        kl_N = d_N**2 / 2
    else:
        kl_N = torch.expm1(-d_N) + d_N
    return kl_N if log_ratio_N is None else kl_N * log_ratio_N.exp()


@torch.no_grad()
def importance_weight(old_N: Tensor, sampled_N: Tensor, *, cap: float) -> Tensor:
    """The weight of each token, (N,), without gradient, where the engine that sampled is not quite the old policy.

        weight = min(exp(l_old - l_sampled), cap)

    l_sampled are the engine's log-probs, l_old the trainer's of the same weights: other kernels, other precision, or
    weights that are a step behind. It multiplies the losses of the tokens: truncated importance sampling (Ionides 2008;
    Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"). cap >= 1, 2 is usual.
    Known case: no gap gives 1. No departure.
    """
    return (old_N - sampled_N).clamp(max=math.log(cap)).exp()


@dataclass(frozen=True)
class StepSize:
    """What a step's loss is divided by: numbers of one whole optimiser step, over all micro-batches and processes."""

    rows: int
    """Completions in the step."""
    tokens: int
    """Their tokens that are learned."""
    rollout_tokens: int | None = None
    """Tokens of the whole rollout of which the step is a part; for the unit batch."""
    rollout_steps: int = 1
    """In how many steps a rollout is gone through once."""
    max_tokens: int | None = None
    """The most tokens a completion may have; for the unit constant."""


def token_weights(
    row_N: Tensor, n_rows: int, unit: Unit, step: StepSize, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The weight of each token in the step's loss, (N,): sum over all micro-batches of loss_N * weight_N is the loss.

    * sequence: the mean over rows of the mean over their tokens (GRPO; TRL's grpo). 1 / (rows T), T the row's length.
    * token: the mean over all tokens of the step (PPO; TRL's bnpo). 1 / tokens.
    * batch: 1 / (rollout_tokens / rollout_steps): a token weighs the same in every step of its rollout, whichever
      lengths it meets there (DAPO; TRL's dapo and cispo). With one step it is token.
    * constant: 1 / (rows max_tokens), whatever the lengths (Dr. GRPO).

    row_N and n_rows are of this micro-batch, whose rows are whole. Known case: rows of one length max_tokens, and one
    step a rollout, make all four the same. ValueError where the step lacks the number that its unit needs.
    """
    if unit == "sequence":
        return (1 / (step.rows * row_lengths(row_N, n_rows).to(dtype)))[row_N]
    return torch.full(row_N.shape, 1 / _denominator(unit, step), dtype=dtype, device=row_N.device)


def _denominator(unit: Unit, step: StepSize) -> float:
    if unit == "token":
        return step.tokens
    if unit == "batch":
        if step.rollout_tokens is None:
            raise ValueError("the unit 'batch' needs StepSize.rollout_tokens, the tokens of the whole rollout")
        return step.rollout_tokens / step.rollout_steps
    if step.max_tokens is None:
        raise ValueError("the unit 'constant' needs StepSize.max_tokens, the most tokens a completion may have")
    return step.rows * step.max_tokens


def adapted_beta(beta: float, kl: float, target: float, *, responses: int, horizon: int) -> float:
    """The KL weight after a rollout of so many responses whose KL divergence was kl (Ziegler et al. 2019, arXiv 1909.08593,
    section 2.2, as in its authors' code).

        beta (1 + clamp(kl / target - 1, -0.2, 0.2) min(responses / horizon, 1))

    kl and target in one unit, target > 0. Known cases: kl = target changes nothing; kl far above raises beta by 20 % in
    horizon responses. Departure: the bound of 1, without which many responses would turn beta negative.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * min(responses / horizon, 1))
