"""Held-out prompts: what the policy's responses to them are worth, and whether a rising reward was earned."""

import math
import statistics
from collections.abc import Mapping, Sequence

import torch

from rlaif.relevance import other_prompt
from rlaif.training.masks import AttentionPlan
from rlaif.training.online.answers import Group
from rlaif.training.online.prior import Scorer, row_scores
from rlaif.training.rows import Completion, Row

LEAST_RELEVANCE_KEPT = 0.9
"""Of the first evaluation's relevance; below it, a higher reward is suspect."""
STANDARD_ERRORS = 2.0
"""By so many a judge that watches must fall for it to be said."""


def held_out_metrics(
    groups: Sequence[Group], names: Sequence[str], watched: Sequence[str], relevance: float | None
) -> dict[str, float]:
    """The means over the responses to held-out prompts, as eval/... A judge that watches has its standard error beside."""
    answers = [answer for group in groups for answer in group.answers]
    found = {"eval/masked": float(statistics.fmean(answer.reward is None for answer in answers))}
    rewards = [answer.reward for answer in answers if answer.reward is not None]
    if rewards:
        found["eval/reward"] = statistics.fmean(rewards)
    for name in (*names, *watched):
        values = [value for answer in answers if (value := answer.values.get(name)) is not None]
        key = f"eval/{'watch' if name in watched else 'rewards'}/{name}"
        if values:
            found[key] = statistics.fmean(values)
        if len(values) > 1 and name in watched:
            found[f"{key}_standard_error"] = statistics.stdev(values) / math.sqrt(len(values))
    found["eval/completions/mean_length"] = statistics.fmean(len(answer.sampled.ids) for answer in answers)
    found["eval/completions/clipped_ratio"] = float(statistics.fmean(not answer.sampled.stopped for answer in answers))
    if relevance is not None:
        found["eval/relevance"] = relevance
    return found


def alarm(first: Mapping[str, float], last: Mapping[str, float]) -> str | None:
    """What is suspect in an evaluation beside the run's first one: the reward rose, and something that it should bring fell.

    None if the reward did not rise, or nothing fell: a judge that watches by more than two standard errors, or the relevance
    by more than a tenth.
    """
    if last.get("eval/reward", 0.0) <= first.get("eval/reward", 0.0):
        return None
    fallen = [
        f"{key.removeprefix('eval/watch/')} fell from {first[key]:.3g} to {value:.3g}"
        for key, value in last.items()
        if key.startswith("eval/watch/")
        and key in first
        and first[key] - value > STANDARD_ERRORS * last.get(f"{key}_standard_error", math.inf)
    ]
    before, now = first.get("eval/relevance"), last.get("eval/relevance")
    if before is not None and now is not None and now < LEAST_RELEVANCE_KEPT * before:
        fallen.append(f"relevance (how much better a response fits its own prompt) fell from {before:.3g} to {now:.3g}")
    if not fallen:
        return None
    return (
        f"on held-out prompts the reward rose from {first['eval/reward']:.3g} to {last['eval/reward']:.3g}, but "
        f"{' and '.join(fallen)}: the policy may be satisfying the judge and not its users. Look at samples.jsonl"
    )


def mean_relevance(
    groups: Sequence[Group],
    prompts: Sequence[Row],
    reference: Scorer,
    plan: AttentionPlan,
    budget: int,
    device: torch.device,
) -> float | None:
    """The mean over responses of (log p(response | its prompt) - log p(response | another prompt)) / tokens, in nats, under the
    reference. The other prompt is that of `other_prompt`. None if there is only one prompt. Every process must call it."""
    asked = [prompts[group.index].prompt for group in groups]
    rows = []
    for number, group in enumerate(groups):
        other = other_prompt(asked, number)
        if other is None:
            return None
        for answer in group.answers:
            completion = (Completion(answer.sampled.ids),)
            rows += [Row(answer.id, asked[number], completion), Row(answer.id, other, completion)]
    logps = row_scores(rows, reference, plan, budget, device)
    pairs = zip(logps[::2], logps[1::2], strict=True)
    return statistics.fmean(float((own - other).mean()) for own, other in pairs)
