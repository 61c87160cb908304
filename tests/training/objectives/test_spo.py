"""SPO's trackers: what they expect, how they forget, and that they survive a checkpoint."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed import F64, rows_of

from rlaif.training.objectives.spo import GlobalTracker, PromptTrackers, drift, retention

shares = st.floats(0, 1)


def test_counts_halve_each_half_life_and_rho_is_held() -> None:
    assert retention(0.06, 0.06, 0.1, 0.96) == 0.5
    assert retention(0.03, 0.06, 0.1, 0.96) == pytest.approx(math.sqrt(0.5))
    assert retention(0.0, 0.06, 0.875, 0.96) == 0.96
    assert retention(9.0, 0.06, 0.875, 0.96) == 0.875


def test_drift_is_the_mean_size_of_what_changed() -> None:
    """Changes 0.1 and -0.3 have the mean size 0.2; their sum would be smaller. The other row did not move."""
    now, then = torch.tensor([-1.0, -1.0, -2.0], dtype=F64), torch.tensor([-1.1, -0.7, -2.0], dtype=F64)
    assert drift(now, then, rows_of((2, 1)), 2).tolist() == pytest.approx([0.2, 0])


def test_the_global_tracker_by_hand() -> None:
    """It starts at p = 1/2 of [-3, 3], that is 0. Rewards 3 and 0 are 1 and 1/2 of the range, 3/4 on average: first rho
    0.9, alpha 0.9 + 0.75 = 1.65, beta 0.9 + 0.25 = 1.15, p = 1.65 / 2.8. The mean log-prob then moves by 0.03, so rho
    is 1 / sqrt(2), and a reward of -3 counts as failure."""
    start = GlobalTracker()
    assert start.baseline == 0
    assert start.advantages(torch.tensor([3.0, -1.0])).tolist() == [3, -1]
    assert start.advantages(torch.tensor([9.0, -9.0])).tolist() == [5, -5]
    first = start.update([3.0, 0.0], -1.0)
    assert (first.alpha, first.beta, first.previous) == pytest.approx((1.65, 1.15, -1.0))
    assert first.baseline == pytest.approx(6 * 1.65 / 2.8 - 3)
    second = first.update([-3.0], -1.03)
    assert (second.alpha, second.beta) == pytest.approx((1.65 * math.sqrt(0.5), 1.15 * math.sqrt(0.5) + 1))
    assert start == GlobalTracker()  # updates give back new trackers


def test_a_step_without_rewards_leaves_the_tracker_alone() -> None:
    tracker = GlobalTracker().update([1.0], -1.0)
    assert tracker.update([], -2.0) is tracker


@given(values=st.lists(st.floats(-20, 20), min_size=1, max_size=5), logps=st.lists(st.floats(-5, 0), max_size=5))
def test_counts_stay_positive_whatever_the_rewards(values: list[float], logps: list[float]) -> None:
    tracker = GlobalTracker()
    for logp in logps:
        tracker = tracker.update(values, logp)
        assert tracker.alpha > 0
        assert tracker.beta > 0
        assert -3 < tracker.baseline < 3


def test_prompts_begin_with_their_offline_samples_by_hand() -> None:
    """N = 1 / (1 - 0.875) = 8; 6 successes of 8: alpha = 8 x 6.5 / 9, beta = 8 x 2.5 / 9, p = 6.5 / 9. One that was never
    sampled: p = 1/2 with one observation in all, so that its first success makes it (0.96 / 2 + 1) / (0.96 + 1)."""
    trackers = PromptTrackers.initial({"a": [1.0] * 6 + [0.0] * 2, "b": []})
    assert trackers.counts == {"a": pytest.approx((8 * 6.5 / 9, 8 * 2.5 / 9))}
    assert trackers.p("a") == pytest.approx(6.5 / 9)
    assert trackers.p("b") == trackers.p("never seen") == 0.5
    assert trackers.update({"b": [1.0]}).p("b") == pytest.approx(1.48 / 1.96)


def test_an_update_by_hand() -> None:
    """alpha 4, beta 4. The policy moved by 0.006 on the last response: rho = 2^-0.1; one success. Prompt b moved by 1:
    rho is held at 0.875. c was not answered."""
    trackers = PromptTrackers(dict.fromkeys("abc", (4.0, 4.0)))
    later = trackers.update({"a": [1.0], "b": [0.0], "c": []}, {"a": 0.006, "b": 1.0, "c": 1.0})
    rho = 2**-0.1
    assert later.counts["a"] == pytest.approx((4 * rho + 1, 4 * rho))
    assert later.counts["b"] == pytest.approx((3.5, 4.5))
    assert later.counts["c"] == trackers.counts["c"] == (4.0, 4.0)
    assert trackers.counts["a"] == (4.0, 4.0)


@given(values=st.lists(shares, min_size=1, max_size=5), data=st.data())
def test_responses_to_one_prompt_count_in_no_order_and_decay_once(values: list[float], data: st.DataObject) -> None:
    trackers = PromptTrackers({"a": (2.0, 3.0)})
    plain = trackers.update({"a": values}, {"a": 0.01}).counts["a"]
    mixed = trackers.update({"a": data.draw(st.permutations(values))}, {"a": 0.01}).counts["a"]
    assert mixed == pytest.approx(plain, rel=1e-12)
    assert sum(plain) == pytest.approx(5 * trackers.rho(0.01) + len(values))


def test_a_steady_prompt_forgets_until_its_counts_are_those_of_n_observations() -> None:
    """At rho = 0.875 counts tend to 1 / (1 - 0.875) = 8, and p to the rate of success: here 3 of 4."""
    trackers = PromptTrackers.initial({"a": [0.0] * 8})
    for _ in range(100):
        for reward in (1.0, 0.0, 1.0, 1.0):
            trackers = trackers.update({"a": [reward]}, {"a": 9.0})
    assert sum(trackers.counts["a"]) == pytest.approx(8)
    assert trackers.p("a") == pytest.approx(0.75, abs=0.1)


def test_advantages_are_normalised_over_the_batch_by_hand() -> None:
    """Baselines 1/2, 3/4 and 1/2, rewards 1, 0 and 1/2: differences 1/2, -3/4 and 0. From their mean, -1/12, that is 7, -8
    and 1 twelfths, with a variance of 57/144 (114 / 144 / 2)."""
    trackers = PromptTrackers({"a": (4.0, 4.0), "b": (3.0, 1.0)})
    result = trackers.advantages(["a", "b", "never seen"], torch.tensor([1.0, 0.0, 0.5]))
    assert result.tolist() == pytest.approx([7 / math.sqrt(57), -8 / math.sqrt(57), 1 / math.sqrt(57)], rel=1e-6)
    assert trackers.advantages(["a"], torch.tensor([1.0])).tolist() == [0]


def test_uncertain_prompts_are_drawn_most() -> None:
    """sqrt(p (1 - p)) + 0.05: 0.55 at 1/2, sqrt(0.1875) + 0.05 at 3/4, and never less than 0.05."""
    trackers = PromptTrackers({"half": (4.0, 4.0), "most": (3.0, 1.0), "all": (1e9, 1e-9)})
    assert trackers.weight("half") == pytest.approx(0.55)
    assert trackers.weight("most") == pytest.approx(math.sqrt(0.1875) + 0.05)
    assert trackers.weight("all") == pytest.approx(0.05)


@given(values=st.lists(shares, min_size=1, max_size=5))
def test_rewards_of_another_range_are_tracked_alike(values: list[float]) -> None:
    """Rewards 10 r - 5 in [-5, 5] have baselines 10 p - 5, and after normalisation the same advantages."""
    unit = PromptTrackers.initial({"a": values})
    wide = PromptTrackers.initial({"a": [10 * value - 5 for value in values]}, low=-5.0, high=5.0)
    prompts, rewards = ["a", "b", "a"], torch.tensor([1.0, 0.0, 0.25], dtype=F64)
    assert wide.baselines(prompts).tolist() == pytest.approx((10 * unit.baselines(prompts) - 5).tolist())
    expected = unit.advantages(prompts, rewards).tolist()
    assert wide.advantages(prompts, 10 * rewards - 5).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "tracker",
    [
        GlobalTracker(),
        GlobalTracker(low=0.0, high=1.0).update([0.3], -1.5),
        PromptTrackers(),
        PromptTrackers.initial({"a": [0.1, 0.7], "b": [1.0]}, half_life=0.1).update({"c": [0.3]}),
    ],
)
def test_trackers_come_back_from_json_as_they_were(tracker: Any) -> None:
    assert type(tracker).from_state(json.loads(json.dumps(tracker.state()))) == tracker


def test_a_reward_that_is_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="left out"):
        GlobalTracker().update([math.nan], -1.0)
    with pytest.raises(ValueError, match="left out"):
        PromptTrackers().update({"a": [math.nan]})
