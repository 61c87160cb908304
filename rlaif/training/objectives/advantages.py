"""Advantages: how much better a completion, or a token of it, was than expected.

GRPO (Shao et al. 2024, arXiv 2402.03300), Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), RLOO (Kool et al. 2019; Ahmadian
et al. 2024, arXiv 2402.14740), REINFORCE++ (Hu et al. 2025, arXiv 2501.03262), OPO (Hao et al. 2025, arXiv 2505.23585),
GDPO (Liu et al. 2026, arXiv 2601.05242), GAE (Schulman et al. 2015, arXiv 1506.02438).

Rewards have shape (B,), one for each completion, and group_B (int64) says which completions answer the same prompt:
any numbers, in any order. Tokens are packed, (N,), rows one after the other, and row_N (int64) says to which row each
belongs. Everything is computed and given back in float64, without gradient, on the device of its input.

What has no reward is not passed in: a completion whose judgment failed is left out with its tokens, and its group is
smaller. Nan raises ValueError, since it would spread over the group, or the batch. Whatever speaks of a batch means
the rows given, so they are those of the whole rollout, of all processes.
"""

import torch
from torch import Tensor

from rlaif.training.objectives.policy_gradient import row_lengths, row_means, row_sums


@torch.no_grad()
def group_normalized(rewards_B: Tensor, group_B: Tensor, *, epsilon: float = 1e-4) -> Tensor:
    """GRPO's advantages, (B,): how many standard deviations a reward is above the mean of its group.

        A = (R - mean) / (std + epsilon)

    std is that of a sample (divided by G - 1). epsilon is 1e-4 in TRL and 1e-6 in verl. Known cases: a group of equal
    rewards, or of one, gives 0; adding a number to a group's rewards changes nothing, and multiplying them next to
    nothing. Departure: the paper has no epsilon.
    """
    centred_B, index_B, n_groups = _centred(rewards_B, group_B)
    variance = row_sums(centred_B**2, index_B, n_groups) / (row_lengths(index_B, n_groups) - 1).clamp(min=1)
    return centred_B / (variance.sqrt()[index_B] + epsilon)


@torch.no_grad()
def group_mean_only(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """Dr. GRPO's advantages, (B,): A = R - mean of the group.

    Without the division, groups whose rewards are nearly equal do not weigh as much as the others. Known cases: the
    sum over a group is 0; a group of one gives 0. No departure from the paper.
    """
    return _centred(rewards_B, group_B)[0]


@torch.no_grad()
def leave_one_out(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """RLOO's advantages, (B,): A_i = R_i - mean of the other rewards in the group.

    The same as G / (G - 1) (R_i - mean of all). The baseline does not depend on the completion itself, so the gradient
    is unbiased. Known case: rewards 1 and 0 give 1 and -1. A group of one gives 0: there is nothing to compare with, and
    judgments that fail may leave one (Dr. GRPO's formula at G = 1; verl refuses it). No other departure.
    """
    centred_B, index_B, n_groups = _centred(rewards_B, group_B)
    size_B = row_lengths(index_B, n_groups)[index_B]
    return centred_B * size_B / (size_B - 1).clamp(min=1)


@torch.no_grad()
def opo(rewards_B: Tensor, lengths_B: Tensor, group_B: Tensor) -> Tensor:
    """OPO's advantages, (B,): A = R - sum(T R) / sum(T) over the group, with the lengths T in tokens, (B,), at least 1.

    The baseline of least variance, if the square of a completion's gradient grows with its length. Known cases: equal
    lengths give Dr. GRPO's; a group of one gives 0 (verl: its reward). No departure from the paper.
    """
    rewards_B, index_B, n_groups = _grouped(rewards_B, group_B)
    lengths_B = lengths_B.double()
    baseline = row_sums(lengths_B * rewards_B, index_B, n_groups) / row_sums(lengths_B, index_B, n_groups)
    return rewards_B - baseline[index_B]


@torch.no_grad()
def has_spread(rewards_B: Tensor, group_B: Tensor) -> Tensor:
    """Whether the rewards of a completion's group differ, (B,), booleans. Where not, every group method learns nothing
    from it: what dynamic sampling leaves out (DAPO, arXiv 2503.14476), and the share of which is logged."""
    rewards_B, index_B, n_groups = _grouped(rewards_B, group_B)
    largest, smallest = (
        rewards_B.new_zeros(n_groups).scatter_reduce(0, index_B, rewards_B, reduce, include_self=False)
        for reduce in ("amax", "amin")
    )
    return (largest > smallest)[index_B]


@torch.no_grad()
def reinforce_pp(
    rewards_B: Tensor, row_N: Tensor, *, kl_N: Tensor | None = None, beta: float = 0.0, gamma: float = 1.0
) -> Tensor:
    """REINFORCE++'s advantages of each token, (N,): what is still to come, whitened over the batch.

        r_t = -beta kl_t (+ R on the row's last token);  A = whitened(r_t + gamma r_t+1 + gamma^2 r_t+2 + ...)

    kl_N are estimates of each token's KL to the reference (k1), used where beta > 0. gamma in [0, 1]. Known case: beta
    = 0 and gamma = 1 give each token its row's reward, whitened over tokens, so that long rows count more in the mean.
    No departure from the paper.
    """
    return whitened(discounted_returns(token_rewards(rewards_B, row_N, kl_N=kl_N, beta=beta), row_N, gamma=gamma))


@torch.no_grad()
def reinforce_pp_baseline(rewards_B: Tensor, group_B: Tensor, row_N: Tensor) -> Tensor:
    """REINFORCE++-baseline's advantages of each token, (N,): the group's mean is subtracted, then whitened over tokens.

    Known cases: all rewards equal give 0. A row that is as good as its group (or alone in it) is not quite at 0 where
    better rows are longer than worse ones, because the mean is over tokens. No departure from the paper.
    """
    return whitened(group_mean_only(rewards_B, group_B)[row_N])


@torch.no_grad()
def token_rewards(rewards_B: Tensor, row_N: Tensor, *, kl_N: Tensor | None = None, beta: float = 0.0) -> Tensor:
    """The reward of each token, (N,): -beta kl_t, and the completion's reward on its last token (Ouyang et al. 2022, arXiv
    2203.02155). Every row must have a token: ValueError."""
    rewards_B = _finite(rewards_B)
    shaped_N = rewards_B.new_zeros(row_N.shape) if kl_N is None else -beta * kl_N.double()
    return shaped_N.index_add(0, _last_tokens(row_N, len(rewards_B)), rewards_B)


@torch.no_grad()
def discounted_returns(rewards_N: Tensor, row_N: Tensor, *, gamma: float = 1.0) -> Tensor:
    """What follows a token within its row, the token's own reward included, (N,): G_t = r_t + gamma G_t+1."""
    return _backward_sums(rewards_N.double(), row_N, gamma)


@torch.no_grad()
def gae(
    rewards_N: Tensor, values_N: Tensor, row_N: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation, equation 16, of each token: advantages and returns, (N,) each.

        delta_t = r_t + gamma V_t+1 - V_t;  A_t = delta_t + gamma lam A_t+1;  return_t = A_t + V_t

    values_N are the critic's V_t, of the text before token t; after the last token V is 0. The returns are what the
    critic learns. gamma and lam in [0, 1]. Known cases: lam = 0 gives delta; lam = 1 gives the discounted return less
    V_t, and returns that do not depend on the critic. Advantages are not whitened here. No departure from the paper.
    """
    rewards_N, values_N = rewards_N.double(), values_N.double()
    delta_N = rewards_N + gamma * _shifted(values_N, row_N, 1) - values_N
    advantages_N = _backward_sums(delta_N, row_N, gamma * lam)
    return advantages_N, advantages_N + values_N


@torch.no_grad()
def whitened(values: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Values less their mean, divided by their standard deviation: sqrt(var + epsilon), var that of a sample.

    Same shape. Known cases: equal values, and a single one, give 0; otherwise the mean is 0 and var is 1.
    """
    centred = values.double() - values.double().mean()
    return centred * (centred.square().sum() / max(values.numel() - 1, 1) + epsilon).rsqrt()


@torch.no_grad()
def batch_normalized(rewards_B: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """(R - mean) / (std + epsilon) over the batch, (B,): group_normalized where all rows are one group."""
    return group_normalized(rewards_B, torch.zeros_like(rewards_B, dtype=torch.int64), epsilon=epsilon)


@torch.no_grad()
def weighted_sum(rewards_BR: Tensor, weights_R: Tensor) -> Tensor:
    """One reward for each completion, (B,), from R rewards of each, (B, R), and a weight for each of the R.

    Nan stands for a reward that does not apply to that completion (a check of JSON where none was asked for): it adds
    nothing. ValueError where none applies: such a completion has no reward and is not passed in.
    """
    return (_applicable(rewards_BR) * weights_R.double()).nansum(1)


@torch.no_grad()
def per_reward_normalized(
    rewards_BR: Tensor, weights_R: Tensor, group_B: Tensor, *, epsilon: float = 1e-4, over_batch: bool = True
) -> Tensor:
    """GDPO's advantages, (B,): each reward is normalised in its group before they are added.

        A = batch_normalized(sum_r weight_r group_normalized(R_r))

    So a reward counts by its weight and not by its spread, and completions that earn the same sum in different ways
    stay apart. over_batch: whether the sum is normalised once more over the batch, which keeps the size of advantages
    whatever the number of rewards (TRL's `normalize_then_sum`). Nan in rewards_BR (B, R) stands for a reward that does
    not apply: it adds nothing, and the mean and spread of its group are those of the others. ValueError where none
    applies to a completion. Known case: one reward, over_batch=False, is GRPO. No departure from the paper but epsilon.
    """
    rewards_BR = _applicable(rewards_BR)
    total_B = rewards_BR.new_zeros(len(rewards_BR))
    for reward_B, weight in zip(rewards_BR.unbind(1), weights_R.double().unbind(), strict=True):
        applies_B = ~reward_B.isnan()
        total_B[applies_B] += weight * group_normalized(reward_B[applies_B], group_B[applies_B], epsilon=epsilon)
    return batch_normalized(total_B, epsilon=epsilon) if over_batch else total_B


@torch.no_grad()
def overlong_punishment(lengths_B: Tensor, *, max_tokens: int, cache: int) -> Tensor:
    """DAPO's soft punishment of long completions, equation 13, (B,), in [-1, 0], to be added to the rewards.

        0 up to max_tokens - cache;  from there down to -1 at max_tokens, in a line;  -1 beyond

    lengths_B are in tokens; 0 < cache <= max_tokens (the paper: 4096 of 20480). No departure from the paper.
    """
    return ((max_tokens - cache - lengths_B.double()) / cache).clamp(-1, 0)


def _grouped(rewards_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor, int]:
    """Rewards in float64, groups numbered 0..n-1, and n."""
    groups, index_B = torch.unique(group_B, return_inverse=True)
    return _finite(rewards_B), index_B, len(groups)


def _centred(rewards_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor, int]:
    rewards_B, index_B, n_groups = _grouped(rewards_B, group_B)
    return rewards_B - row_means(rewards_B, index_B, n_groups)[index_B], index_B, n_groups


def _finite(rewards_B: Tensor) -> Tensor:
    if not rewards_B.isfinite().all():
        raise ValueError("a reward is nan or infinite: completions without a reward are left out, never passed in")
    return rewards_B.double()


def _applicable(rewards_BR: Tensor) -> Tensor:
    if rewards_BR.isnan().all(1).any() or rewards_BR.isinf().any():
        raise ValueError("a completion has no reward at all, or an infinite one: leave it out")
    return rewards_BR.double()


def _last_tokens(row_N: Tensor, n_rows: int) -> Tensor:
    """Where each row ends, (B,)."""
    lengths = row_lengths(row_N, n_rows)
    if not lengths.all():
        raise ValueError("a row has no tokens: there is nothing to give its reward to")
    return lengths.cumsum(0) - 1


def _shifted(values_N: Tensor, row_N: Tensor, steps: int) -> Tensor:
    """The value `steps` tokens later in the same row, 0 where the row has ended."""
    later_N = torch.zeros_like(values_N)
    same_N = row_N[steps:] == row_N[:-steps]
    later_N[:-steps] = torch.where(same_N, values_N[steps:], 0.0)
    return later_N


def _backward_sums(values_N: Tensor, row_N: Tensor, decay: float) -> Tensor:
    """x_t = v_t + decay x_t+1 within each row. In log2(N) passes: after each, x_t has the sum of twice as many terms."""
    sums_N, steps = values_N, 1
    while steps < len(sums_N):
        sums_N = sums_N + decay**steps * _shifted(sums_N, row_N, steps)
        steps *= 2
    return sums_N
