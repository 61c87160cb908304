"""From rewarded groups to the rows of optimiser steps: advantages of each token, and how much each weighs in its step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlaif.training.config.fresh_pairs import NashMdConfig
from rlaif.training.config.online import OnlineConfig
from rlaif.training.config.policy_gradient import PolicyGradientConfig, PpoConfig
from rlaif.training.objectives import advantages as formulas
from rlaif.training.objectives.opponents import preference
from rlaif.training.objectives.policy_gradient import StepSize, kl_estimate, row_lengths, row_sums
from rlaif.training.online.answers import Answer, Group, reward_columns
from rlaif.training.rows import Completion, Row


@dataclass(frozen=True, eq=False)
class SampledRow(Row):
    """A sampled response to learn from. Tensors are of its tokens, (T,), on the CPU.

    group: which group of its rollout it is of. advantages: what its tokens are worth. sampled: log-probs under the sampler;
    old, reference: under the policy as the rollout began and under the reference, where they were computed before the step.
    values, returns: what the critic expected as the rollout began, and what it learns to expect. opponent: which completion of
    a pair is the opponent's. preference: the probability that the response is preferred to the opponent's.
    """

    prompt_id: str = ""
    group: int = 0
    answer: Answer | None = None
    advantages: Tensor | None = None
    sampled: Tensor | None = None
    old: Tensor | None = None
    reference: Tensor | None = None
    values: Tensor | None = None
    returns: Tensor | None = None
    opponent: int | None = None
    preference: float = 0.5


def learnable_rows(groups: Sequence[Group], prompts: Sequence[Row], config: OnlineConfig) -> list[SampledRow]:
    """A row for each response that has a reward and, with `overlong: filter`, that ended by itself."""
    rows = []
    for number, group in enumerate(groups):
        prompt = prompts[group.index]
        for answer in group.answers:
            cut_off = config.overlong == "filter" and not answer.sampled.stopped
            if answer.reward is None or cut_off:
                continue
            completion = Completion(answer.sampled.ids)
            sampled = torch.tensor(answer.sampled.logps, dtype=torch.float64)
            rows.append(
                SampledRow(
                    answer.id,
                    prompt.prompt,
                    (completion,),
                    prompt_id=prompt.id,
                    group=number,
                    answer=answer,
                    sampled=sampled,
                )
            )
    return rows


def pair_rows(rows: Sequence[SampledRow], config: OnlineConfig) -> list[SampledRow]:
    """A pair of each group's best response and its worst, by reward (of equals the first); none of a group of one reward."""
    pairs = []
    for members in _by_group(rows, config):
        (high, best), (low, worst) = max(members, key=lambda item: item[0]), min(members, key=lambda item: item[0])
        if high > low:
            completions = (best.completions[0], worst.completions[0])
            theirs = [side for side, row in enumerate((best, worst)) if _answer(row).by_opponent]
            opponent = theirs[0] if theirs else None
            pairs.append(replace(best, completions=completions, margin=high - low, sampled=None, opponent=opponent))
    return pairs


def labelled_rows(rows: Sequence[SampledRow], config: OnlineConfig) -> list[SampledRow]:
    """The responses whose reward is not the mean of their group's (but for rounding), as desirable (above it) or
    undesirable."""
    labelled = []
    for members in _by_group(rows, config):
        mean = sum(reward for reward, _ in members) / len(members)
        differ = [(reward - mean, row) for reward, row in members if not math.isclose(reward, mean, abs_tol=1e-9)]
        labelled += [replace(row, label=difference > 0, sampled=None) for difference, row in differ]
    return labelled


def contested_rows(rows: Sequence[SampledRow], config: NashMdConfig) -> list[SampledRow]:
    """The policy's response of each group in which the opponent's has a reward too, with its preference."""
    contested = []
    for members in _by_group(rows, config):
        own = [(reward, row) for reward, row in members if not _answer(row).by_opponent]
        theirs = [reward for reward, row in members if _answer(row).by_opponent]
        if own and theirs:
            reward, row = own[0]
            found = preference(torch.tensor([reward]), torch.tensor([theirs[0]]), config.preference)
            contested.append(replace(row, preference=float(found)))
    return contested


def _by_group(rows: Sequence[SampledRow], config: OnlineConfig) -> list[list[tuple[float, SampledRow]]]:
    """The rows of each group, with their shaped rewards."""
    of_group: dict[int, list[tuple[float, SampledRow]]] = {}
    for reward, row in zip(shaped_rewards(rows, config).tolist() if rows else [], rows, strict=True):
        of_group.setdefault(row.group, []).append((reward, row))
    return list(of_group.values())


def shaped_rewards(rows: Sequence[SampledRow], config: OnlineConfig) -> Tensor:
    """The reward of each response with what is added for its length, (B,), float64."""
    totals = [reward for row in rows if (reward := _answer(row).reward) is not None]
    return torch.tensor(totals, dtype=torch.float64) + _shaping(rows, config)


def spread(rows: Sequence[SampledRow], advantages_B: Tensor) -> list[SampledRow]:
    """The rows with one advantage for all tokens of a response."""
    return [
        replace(row, advantages=torch.full((len(row.completions[0]),), float(value), dtype=torch.float64))
        for row, value in zip(rows, advantages_B, strict=True)
    ]


def with_advantages(
    rows: Sequence[SampledRow], config: PolicyGradientConfig, names: Sequence[str], weights: Sequence[float]
) -> list[SampledRow]:
    """The rows of a whole rollout with the advantage of each token.

    names, weights: of the reward sources, in their order. With `kl_in: reward` the rows have old and reference log-probs.
    """
    if not rows:
        return []
    lengths, row_N = _token_rows(rows)
    found_N = _advantages(rows, row_N, config, names, weights)
    return [replace(row, advantages=part) for row, part in zip(rows, torch.split(found_N, lengths), strict=True)]


def with_estimates(rows: Sequence[SampledRow], config: PpoConfig, beta: float) -> list[SampledRow]:
    """The rows of a whole rollout, which have the critic's values, with the advantage and the return of each token."""
    if not rows:
        return []
    lengths, row_N = _token_rows(rows)
    rewards_N = formulas.token_rewards(shaped_rewards(rows, config), row_N, kl_N=_penalties(rows, config), beta=beta)
    values_N = torch.cat([row.values for row in rows if row.values is not None])
    advantages_N, returns_N = formulas.gae(rewards_N, values_N, row_N, gamma=config.discount, lam=config.gae_lambda)
    if config.whiten:
        advantages_N = formulas.whitened(advantages_N)
    parts = zip(rows, torch.split(advantages_N, lengths), torch.split(returns_N, lengths), strict=True)
    return [replace(row, advantages=advantages, returns=returns) for row, advantages, returns in parts]


def mean_kl(rows: Sequence[SampledRow]) -> float:
    """The KL divergence from the reference per token in nats, over rows that have old and reference log-probs: the mean
    log-ratio (k1)."""
    pairs = [(row.old, row.reference) for row in rows if row.old is not None and row.reference is not None]
    return float(torch.cat([(old - reference).double() for old, reference in pairs]).mean())


def _token_rows(rows: Sequence[SampledRow]) -> tuple[list[int], Tensor]:
    """The tokens of each row, and the row of each token, (N,)."""
    lengths = [len(row.completions[0]) for row in rows]
    return lengths, torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths))


def _advantages(
    rows: Sequence[SampledRow],
    row_N: Tensor,
    config: PolicyGradientConfig,
    names: Sequence[str],
    weights: Sequence[float],
) -> Tensor:
    """The advantage of each token, (N,), in float64."""
    group_B = torch.tensor([row.group for row in rows])
    rewards_BR = torch.tensor(reward_columns([_answer(row) for row in rows], names), dtype=torch.float64)
    weights_R = torch.tensor(weights, dtype=torch.float64)
    kl_N = _penalties(rows, config)
    shaping_B = _shaping(rows, config)
    total_B = formulas.weighted_sum(rewards_BR, weights_R) + shaping_B
    if config.advantage == "whitened":
        return formulas.reinforce_pp(total_B, row_N, kl_N=kl_N, beta=config.beta, gamma=config.discount)
    if kl_N is not None:
        penalty_B = config.beta * row_sums(kl_N, row_N, len(rows))
        total_B, shaping_B = total_B - penalty_B, shaping_B - penalty_B
    if config.per_reward:
        own_B = formulas.per_reward_normalized(rewards_BR, weights_R, group_B, over_batch=False)
        return formulas.batch_normalized(own_B + formulas.group_mean_only(shaping_B, group_B))[row_N]
    if config.advantage == "group-whitened":
        return formulas.reinforce_pp_baseline(total_B, group_B, row_N)
    if config.advantage == "length-weighted":
        return formulas.opo(total_B, row_lengths(row_N, len(rows)), group_B)[row_N]
    of_group = {
        "group-normalized": formulas.group_normalized,
        "group-mean": formulas.group_mean_only,
        "leave-one-out": formulas.leave_one_out,
    }
    return of_group[config.advantage](total_B, group_B)[row_N]


def _penalties(rows: Sequence[SampledRow], config: PolicyGradientConfig) -> Tensor | None:
    """The KL of each token from the reference, (N,), before beta; None where it does not go into the reward."""
    if config.kl_in != "reward" or not config.beta:
        return None
    old = torch.cat([row.old for row in rows if row.old is not None])
    reference = torch.cat([row.reference for row in rows if row.reference is not None])
    return kl_estimate(old.double(), reference.double(), config.kl)


def _shaping(rows: Sequence[SampledRow], config: OnlineConfig) -> Tensor:
    """What is added to the reward for the length of a response, (B,)."""
    lengths_B = torch.tensor([len(row.completions[0]) for row in rows], dtype=torch.float64)
    if config.overlong != "punish":
        return torch.zeros_like(lengths_B)
    return formulas.overlong_punishment(lengths_B, max_tokens=config.max_tokens, cache=config.overlong_cache)


def _answer(row: SampledRow) -> Answer:
    assert row.answer is not None
    return row.answer


def parts_of(rows: Sequence[SampledRow], n_groups: int, config: OnlineConfig, rollout: int) -> list[list[int]]:
    """The indexes of the rows of each optimiser step of a rollout: its groups in a new order in each pass, divided evenly."""
    of_group: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        of_group.setdefault(row.group, []).append(index)
    parts = []
    for turn in range(config.passes):
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + rollout) * 1_009 + turn)
        order = (
            torch.randperm(n_groups, generator=generator).tolist() if config.steps_of_rollout > 1 else range(n_groups)
        )
        shares = [list(order)[number :: config.steps_per_rollout] for number in range(config.steps_per_rollout)]
        parts += [[index for group in share for index in of_group.get(group, [])] for share in shares]
    return parts


def step_size(rows: Sequence[SampledRow], rollout: Sequence[SampledRow], config: PolicyGradientConfig) -> StepSize:
    """What the loss of a step over some rows of a rollout is divided by."""

    def tokens(of: Sequence[SampledRow]) -> int:
        return sum(len(row.completions[0]) for row in of)

    return StepSize(
        rows=len(rows), tokens=tokens(rows), rollout_tokens=tokens(rollout), rollout_steps=config.steps_per_rollout,
        max_tokens=config.max_tokens,
    )  # fmt: skip
