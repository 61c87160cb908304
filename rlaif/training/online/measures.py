"""What a rollout shows of itself, under the names the field knows."""

import statistics
from collections.abc import Sequence

from rlaif.training.online.answers import Answer, Group
from rlaif.training.online.rollouts import Rollout

Sums = dict[str, tuple[float, float]]
"""Name to (sum, count)."""


def rollout_metrics(rollout: Rollout, names: Sequence[str]) -> Sums:
    """Of the responses of a rollout: rewards in all and by source, their spread, lengths, and what is left out. What an
    opponent said counts in the spread of its group only, and its rewards stand by themselves."""
    everyone = [answer for group in rollout.groups for answer in group.answers]
    answers = [answer for answer in everyone if not answer.by_opponent]
    if not answers:
        return {}
    rewarded = [group for group in rollout.groups if group.rewards]
    theirs = [answer.reward for answer in everyone if answer.by_opponent and answer.reward is not None]
    found: Sums = {
        "reward": _sum([answer.reward for answer in answers if answer.reward is not None]),
        **({"opponent/reward": _sum(theirs)} if theirs else {}),
        "reward_std": _sum([_spread(group) for group in rewarded]),
        "frac_reward_zero_std": _sum([float(not group.teaches) for group in rewarded]),
        "masked": _sum([float(answer.reward is None) for answer in answers]),
        "barren_groups": (float(rollout.barren), 1.0),
        **_lengths(answers),
    }
    for name in names:
        values = [value for answer in answers if (value := answer.values.get(name)) is not None]
        if values:
            found[f"rewards/{name}/mean"] = _sum(values)
            found[f"rewards/{name}/std"] = (statistics.pstdev(values), 1.0)
        found[f"rewards/{name}/missing"] = _sum([float(answer.values.get(name) is None) for answer in answers])
    return found


def _lengths(answers: Sequence[Answer]) -> Sums:
    lengths = [float(len(answer.sampled.ids)) for answer in answers]
    ended = [length for length, answer in zip(lengths, answers, strict=True) if answer.sampled.stopped]
    found: Sums = {
        "completions/mean_length": _sum(lengths),
        "completions/min_length": (min(lengths), 1.0),
        "completions/max_length": (max(lengths), 1.0),
        "completions/clipped_ratio": _sum([float(not answer.sampled.stopped) for answer in answers]),
    }
    if ended:
        found["completions/mean_terminated_length"] = _sum(ended)
    return found


def _sum(values: Sequence[float]) -> tuple[float, float]:
    return sum(values), float(len(values))


def _spread(group: Group) -> float:
    return statistics.stdev(group.rewards) if len(group.rewards) > 1 else 0.0
