"""What a run shows while it trains."""

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from rlaif.progress import say

SHOWN = ("loss", "reward", "kl", "rewards/accuracies", "rewards/margins", "grad_norm")


class Screen(TrainerCallback):
    """Tells `advance` of each step, and a line of the metrics about ten times a run."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance, self.last_said = advance, -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)  # a checkpoint holds the intervals it was saved with
        if state.global_step:
            self.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(1)
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last steps belong in metrics.jsonl whatever logging_steps is

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        tenth = state.global_step * 10 // max(state.max_steps, 1)
        if not logs or "loss" not in logs or tenth == self.last_said:
            return
        self.last_said = tenth
        shown = [f"{name.split('/')[-1]} {logs[name]:.4g}" for name in SHOWN if name in logs]
        say(f"step {state.global_step} of {state.max_steps}: " + ", ".join(shown))
