"""Advantages against slow loops in plain floats, by hand, and what must not change them."""

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed import F64, rows_of
from torch import Tensor

from rlaif.training.objectives import advantages as adv

Groups = list[list[float]]

rewards = st.floats(-5, 5)
groups = st.lists(st.lists(rewards, min_size=1, max_size=5), min_size=1, max_size=4)
rows = st.lists(st.lists(st.tuples(rewards, rewards), min_size=1, max_size=9), min_size=1, max_size=5)


def flat(data: Groups) -> tuple[Tensor, Tensor]:
    """Rewards and groups, (B,) each. Group numbers are neither in order nor without gaps."""
    ids = [7 * (len(data) - index) for index, group in enumerate(data) for _ in group]
    return torch.tensor([reward for group in data for reward in group], dtype=F64), torch.tensor(ids)


def normalized(group: list[float], epsilon: float = 1e-4) -> list[float]:
    mean, std = statistics.fmean(group), statistics.stdev(group) if len(group) > 1 else 0.0
    return [(reward - mean) / (std + epsilon) for reward in group]


def others(group: list[float]) -> list[float]:
    if len(group) == 1:
        return [0.0]
    return [reward - statistics.fmean(group[:index] + group[index + 1 :]) for index, reward in enumerate(group)]


ORACLES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[list[float]], list[float]]]] = {
    "group_normalized": (adv.group_normalized, normalized),
    "group_mean_only": (adv.group_mean_only, lambda group: [reward - statistics.fmean(group) for reward in group]),
    "leave_one_out": (adv.leave_one_out, others),
}


@pytest.mark.parametrize("name", ORACLES)
@given(data=groups)
def test_group_advantages_are_their_formulas(name: str, data: Groups) -> None:
    """Whatever the sizes of the groups; epsilon keeps rounding from growing by more than 1e4."""
    function, oracle = ORACLES[name]
    expected = [value for group in data for value in oracle(group)]
    assert function(*flat(data)).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ORACLES)
@given(data=groups, more=st.data(), shift=rewards)
def test_neither_order_nor_a_shift_changes_them(name: str, data: Groups, more: st.DataObject, shift: float) -> None:
    function = ORACLES[name][0]
    values, ids = flat(data)
    order = more.draw(st.permutations(range(len(values))))
    assert torch.allclose(function(values[order], ids[order]), function(values, ids)[order], atol=1e-9)
    assert torch.allclose(function(values + shift, ids), function(values, ids), atol=1e-8)


@pytest.mark.parametrize("name", ORACLES)
def test_equal_rewards_and_a_group_of_one_teach_nothing(name: str) -> None:
    values, ids = flat([[0.1, 0.1, 0.1], [4.0]])
    assert ORACLES[name][0](values, ids).tolist() == pytest.approx([0, 0, 0, 0], abs=1e-12)


def test_group_advantages_by_hand() -> None:
    """Rewards 3, 1, 2: mean 2, std 1; the others' means are 1.5, 2.5, 2. Lengths 1, 2, 1 weigh the mean to 7 / 4."""
    values, ids = flat([[3.0, 1.0, 2.0]])
    assert adv.group_normalized(values, ids, epsilon=0.0).tolist() == pytest.approx([1, -1, 0])
    assert adv.group_normalized(values, ids, epsilon=1.0).tolist() == pytest.approx([0.5, -0.5, 0])
    assert adv.group_mean_only(values, ids).tolist() == pytest.approx([1, -1, 0])
    assert adv.leave_one_out(values, ids).tolist() == pytest.approx([1.5, -1.5, 0])
    assert adv.opo(values, torch.tensor([1, 2, 1]), ids).tolist() == pytest.approx([1.25, -0.75, 0.25])


@given(data=groups, length=st.integers(1, 50))
def test_opo_of_equal_lengths_is_dr_grpo(data: Groups, length: int) -> None:
    values, ids = flat(data)
    lengths = torch.full((len(values),), length)
    assert torch.allclose(adv.opo(values, lengths, ids), adv.group_mean_only(values, ids), atol=1e-12)


def test_spread_is_found_in_groups_of_any_number() -> None:
    values, ids = flat([[0.1, 0.1, 0.1], [1.0, 1.0 + 1e-9], [3.0], [-2.0, -2.0]])
    assert adv.has_spread(values, ids).tolist() == [False] * 3 + [True] * 2 + [False] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_has_no_reward_is_refused(bad: float) -> None:
    values, ids = torch.tensor([1.0, bad]), torch.tensor([0, 0])
    for function in (adv.group_normalized, adv.group_mean_only, adv.leave_one_out, adv.has_spread):
        with pytest.raises(ValueError, match="left out"):
            function(values, ids)
    with pytest.raises(ValueError, match="left out"):
        adv.token_rewards(values, rows_of((1, 2)))


def slow_gae(row: list[tuple[float, float]], gamma: float, lam: float) -> list[float]:
    """One row of (reward, value), by the definition: the sum of all later deltas, each discounted."""
    values = [value for _, value in row] + [0.0]
    deltas = [reward + gamma * values[t + 1] - values[t] for t, (reward, _) in enumerate(row)]
    return [
        math.fsum((gamma * lam) ** (later - t) * deltas[later] for later in range(t, len(row))) for t in range(len(row))
    ]


@given(data=rows, gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]), lam=st.sampled_from([0.0, 0.9, 0.95, 1.0]))
def test_gae_is_the_sum_of_later_deltas(data: list[list[tuple[float, float]]], gamma: float, lam: float) -> None:
    """Rows of any length side by side: nothing runs over from one into another."""
    reward, value = torch.tensor([pair for row in data for pair in row], dtype=F64).unbind(1)
    advantages, returns = adv.gae(reward, value, rows_of([len(row) for row in data]), gamma=gamma, lam=lam)
    expected = [number for row in data for number in slow_gae(row, gamma, lam)]
    assert advantages.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert torch.allclose(returns, advantages + value)


def test_gae_by_hand() -> None:
    """gamma 1, lambda 1/2; values 1, 2, reward 4 on the last token. delta: 2 - 1 = 1 and 4 - 2 = 2. A: 1 + 1/2 x 2 = 2
    and 2. Returns 3 and 4. The other row, of one token: delta = 5 - 3."""
    row = rows_of((2, 1))
    shaped = adv.token_rewards(torch.tensor([4.0, 5.0]), row)
    advantages, returns = adv.gae(shaped, torch.tensor([1.0, 2.0, 3.0]), row, gamma=1.0, lam=0.5)
    assert advantages.tolist() == [2, 2, 2]
    assert returns.tolist() == [3, 4, 5]


@given(data=rows, gamma=st.sampled_from([0.5, 1.0]))
def test_gae_with_lambda_1_is_the_return_less_the_value(data: list[list[tuple[float, float]]], gamma: float) -> None:
    reward, value = torch.tensor([pair for row in data for pair in row], dtype=F64).unbind(1)
    row = rows_of([len(row) for row in data])
    advantages, returns = adv.gae(reward, value, row, gamma=gamma, lam=1.0)
    expected = adv.discounted_returns(reward, row, gamma=gamma)
    assert torch.allclose(returns, expected, atol=1e-9)
    assert torch.allclose(advantages, expected - value, atol=1e-9)


def test_rewards_and_returns_of_tokens_by_hand() -> None:
    """beta 0.1, KLs 1, 2, 3 and a reward of 5: -0.1, -0.2, 4.7; gamma 1/2: 4.7, then 2.15, then 0.975."""
    row = rows_of((3, 1))
    kl = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
    shaped = adv.token_rewards(torch.tensor([5.0, 1.0]), row, kl_N=kl, beta=0.1)
    assert shaped.tolist() == pytest.approx([-0.1, -0.2, 4.7, 0.6])
    assert adv.discounted_returns(shaped, row, gamma=0.5).tolist() == pytest.approx([0.975, 2.15, 4.7, 0.6])


def test_a_row_without_tokens_can_not_be_rewarded() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        adv.token_rewards(torch.tensor([5.0, 1.0]), torch.tensor([0, 0]))


@given(values=st.lists(rewards, min_size=1, max_size=20))
def test_whitened_values_are_standardised(values: list[float]) -> None:
    result = adv.whitened(torch.tensor(values, dtype=F64)).tolist()
    variance = statistics.variance(values) if len(values) > 1 else 0.0
    mean = statistics.fmean(values)
    expected = [(value - mean) / math.sqrt(variance + 1e-8) for value in values]
    assert result == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_reinforce_pp_whitens_over_tokens_by_hand() -> None:
    """Rewards 4 and 0 in rows of 1 and 3 tokens: tokens 4, 0, 0, 0 have mean 1 and variance (9 + 3) / 3 = 4."""
    row, values = rows_of((1, 3)), torch.tensor([4.0, 0.0])
    expected = pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert adv.reinforce_pp(values, row).tolist() == expected
    # One group: 2, -2, -2, -2 are 4, 0, 0, 0 shifted. Two groups of one: nothing is left.
    assert adv.reinforce_pp_baseline(values, torch.tensor([0, 0]), row).tolist() == expected
    assert adv.reinforce_pp_baseline(values, torch.tensor([0, 1]), row).tolist() == [0] * 4


@given(data=rows, more=st.data())
def test_token_advantages_move_with_their_rows(data: list[list[tuple[float, float]]], more: st.DataObject) -> None:
    def computed(order: list[int]) -> list[list[float]]:
        chosen = [data[index] for index in order]
        row = rows_of([len(pairs) for pairs in chosen])
        reward, kl = (torch.tensor([pairs[0][side] for pairs in chosen], dtype=F64) for side in (0, 1))
        advantages = adv.reinforce_pp(reward, row, kl_N=kl[row], beta=0.1, gamma=0.9)
        parts = advantages.split([len(pairs) for pairs in chosen])
        return [part.tolist() for part in parts]

    order = more.draw(st.permutations(range(len(data))))
    plain, moved = computed(list(range(len(data)))), computed(order)
    for index, part in zip(order, moved, strict=True):
        assert part == pytest.approx(plain[index], rel=1e-6, abs=1e-6)


NAN = math.nan


def test_a_reward_that_does_not_apply_adds_nothing() -> None:
    """Weights 1 and 2: 1 + 2 x 3 = 7; 5 alone; 2 x 4 = 8."""
    table, weights = torch.tensor([[1.0, 3.0], [5.0, NAN], [NAN, 4.0]]), torch.tensor([1.0, 2.0])
    assert adv.weighted_sum(table, weights).tolist() == [7, 5, 8]
    with pytest.raises(ValueError, match="no reward at all"):
        adv.weighted_sum(torch.tensor([[1.0, 3.0], [NAN, NAN]]), weights)
    with pytest.raises(ValueError, match="no reward at all"):
        adv.per_reward_normalized(torch.tensor([[1.0], [NAN]]), torch.ones(1), torch.tensor([0, 0]))


def test_normalised_rewards_count_by_weight_and_not_by_spread() -> None:
    """One group of three, epsilon 0. The second reward, 300, 100, 200, is 1, -1, 0 once normalised, like 3, 1, 2, and
    weighs 1/2; where it does not apply to the last row, 300 and 100 are 1 / sqrt(2) and -1 / sqrt(2) among themselves.
    """
    ids, weights = torch.zeros(3, dtype=torch.int64), torch.tensor([1.0, 0.5])
    settings: dict[str, Any] = {"epsilon": 0.0, "over_batch": False}
    table = torch.tensor([[3.0, 300.0], [1.0, 100.0], [2.0, 200.0]])
    assert adv.per_reward_normalized(table, weights, ids, **settings).tolist() == pytest.approx([1.5, -1.5, 0])
    table[2, 1] = NAN
    half = 0.5 / math.sqrt(2)
    expected = pytest.approx([1 + half, -1 - half, 0])
    assert adv.per_reward_normalized(table, weights, ids, **settings).tolist() == expected


@given(data=groups)
def test_one_reward_normalised_is_grpo_and_then_once_more_over_the_batch(data: Groups) -> None:
    values, ids = flat(data)
    table, weight = values[:, None], torch.ones(1)
    plain = adv.group_normalized(values, ids)
    assert torch.equal(adv.per_reward_normalized(table, weight, ids, over_batch=False), plain)
    expected = normalized(plain.tolist())
    assert adv.per_reward_normalized(table, weight, ids).tolist() == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_normalising_first_keeps_apart_what_the_sum_does_not() -> None:
    """Two groups of two: rewards (0, 1) against (0, 0), and (1, 1) against (0, 0). GRPO on the sum gives both winners the
    same advantage, 1 / sqrt(2); GDPO gives the second, better in both ways, twice as much before the last step."""
    table = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    weights, ids = torch.ones(2), torch.tensor([0, 0, 1, 1])
    summed = adv.group_normalized(adv.weighted_sum(table, weights), ids, epsilon=0.0)
    assert summed[0].item() == pytest.approx(summed[2].item())
    # epsilon may not be 0: the first reward has no spread in the first group.
    apart = adv.per_reward_normalized(table, weights, ids, epsilon=1e-9, over_batch=False)
    assert apart.tolist() == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2), math.sqrt(2), -math.sqrt(2)])


def test_the_batch_is_one_group() -> None:
    values = torch.tensor([3.0, 1.0, 2.0])
    assert adv.batch_normalized(values).tolist() == pytest.approx([1, -1, 0])
    assert adv.batch_normalized(torch.tensor([3.0])).tolist() == [0]


def test_overlong_punishment_by_hand() -> None:
    """20 tokens at most, the last 5 punished: 15 is free, 16 costs 1/5, 20 costs 1, and so does what is longer."""
    lengths = torch.tensor([1, 15, 16, 18, 20, 25])
    expected = pytest.approx([0, 0, -0.2, -0.6, -1, -1])
    assert adv.overlong_punishment(lengths, max_tokens=20, cache=5).tolist() == expected


def test_everything_is_computed_in_float64() -> None:
    """In float32, 1e8 + 1 is 1e8, and the group would have no spread."""
    values = torch.tensor([1e8, 1e8 + 1], dtype=F64)
    assert adv.group_normalized(values, torch.tensor([0, 0]), epsilon=0.0)[1].item() == pytest.approx(math.sqrt(0.5))
    for result in (
        adv.group_mean_only(torch.ones(2), torch.tensor([0, 0])),
        adv.reinforce_pp(torch.ones(2), rows_of((1, 1))),
        adv.gae(torch.ones(2), torch.ones(2), rows_of((1, 1)))[0],
    ):
        assert result.dtype == F64
