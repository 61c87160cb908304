"""Tables of sampled responses, for people to read: samples.jsonl."""

from collections.abc import Iterator, Sequence
from typing import Any

from rlaif.training.online.learning import SampledRow
from rlaif.training.online.prompts import PromptRows
from rlaif.training.online.rollouts import Rollout

SAMPLES_FILE = "samples.jsonl"
GROUPS_SHOWN = 4


def sample_lines(
    step: int, rollout: Rollout, rows: Sequence[SampledRow], prompts: PromptRows
) -> Iterator[dict[str, Any]]:
    """A line for each response to the first prompts of a rollout: what was asked and answered, what it was worth and why."""
    learnt = {row.id: row for row in rows}
    for group in rollout.groups[:GROUPS_SHOWN]:
        prompt = prompts.prompt(prompts.rows[group.index])
        for answer in group.answers:
            row = learnt.get(answer.id)
            advantages = row.advantages if row is not None else None
            yield {
                "step": step,
                "prompt": prompt.messages[-1].content,
                "response": answer.text,
                "by": "opponent" if answer.by_opponent else "policy",
                "reward": answer.reward,
                "rewards": dict(answer.values),
                "reasons": dict(answer.reasons),
                "advantage": float(advantages[0]) if advantages is not None else None,
                "tokens": len(answer.sampled.ids),
                "stopped": answer.sampled.stopped,
            }
