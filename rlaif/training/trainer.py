"""The training loop: transformers' Trainer, with one Trainer batch = all rows of one optimiser step."""

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback

from rlaif.errors import TrainError
from rlaif.progress import say
from rlaif.records import write_text
from rlaif.training.batches import Batch, plan_step
from rlaif.training.checkpoints import Progress, mark_complete, read_progress
from rlaif.training.forward import batch_logps
from rlaif.training.masks import AttentionPlan
from rlaif.training.methods import MethodLoss
from rlaif.training.reference import Reference
from rlaif.training.rows import Row

NAN_FILE = "not_finite.json"


class RowIndexes(Dataset[dict[str, int]]):
    """The Trainer's data set: indexes only, since a step's rows are planned together."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"row": index}


def collate(items: list[dict[str, int]]) -> dict[str, Tensor]:
    return {"rows": torch.tensor([item["row"] for item in items])}


class PolicyTrainer(Trainer):
    """Runs one method over rows. Its own gradient accumulation stays 1: a step splits itself into micro-batches."""

    def __init__(
        self,
        model: Any,
        arguments: Any,
        *,
        rows: Sequence[Row],
        method: MethodLoss,
        reference: Reference | None,
        plan: AttentionPlan,
        budget: int,
        metrics_path: Path,
        keep_checkpoints: int,
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(
            model=model, args=arguments, train_dataset=RowIndexes(len(rows)), data_collator=collate, callbacks=callbacks
        )
        self.remove_callback(PrinterCallback)
        self.rows, self.method, self.reference = rows, method, reference
        self.plan, self.budget = plan, budget
        self.metrics_path, self.keep_checkpoints = metrics_path, keep_checkpoints
        self.progress = Progress(n_tokens=0, weight=0.0, sums={})
        self.step_row_ids: list[str] = []

    def resume(self, checkpoint: Path | None) -> None:
        """Trains to the end, from a complete checkpoint if there is one."""
        if checkpoint is not None:
            self.progress = read_progress(checkpoint)
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)

    def training_step(self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of all rows of one optimiser step; returns its loss, averaged over rows or tokens."""
        model.train()
        indexes = inputs["rows"].tolist()
        self.step_row_ids = [self.rows[index].id for index in indexes]
        batches = [
            batch.to(self.args.device) for batch in plan_step(self.rows, indexes, self.budget, plain=self.plan.is_plain)
        ]
        with self.compute_loss_context_manager():
            references = self.reference.step_logps(model, batches) if self.reference is not None else None
        weight = self._count(indexes)
        total = torch.zeros((), dtype=torch.float64)
        sums: dict[str, float] = {}
        for number, batch in enumerate(batches):
            reference = references[number] if references is not None else None
            loss, metrics = self._backward(model, batch, reference, weight)
            total += loss
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
        self._account(total.item() * weight, sums, weight, sum(batch.n_tokens for batch in batches))
        return total.to(self.args.device, torch.float32)

    def _backward(
        self, model: Any, batch: Batch, reference: Tensor | None, weight: int
    ) -> tuple[float, dict[str, float]]:
        """This micro-batch's share of the step's loss, and its sums of metrics; gradients are added to the model."""
        with self.compute_loss_context_manager():
            loss, metrics = self.method(batch, batch_logps(model, batch, self.plan), reference)
        share = loss / weight
        value: float = share.detach().item()
        if not math.isfinite(value):
            self._stop_not_finite("loss")
        self.accelerator.backward(share)
        return value, {name: total.item() for name, total in metrics.items()}

    def _count(self, indexes: list[int]) -> int:
        if self.method.unit == "rows":
            return len(indexes)
        return sum(self.rows[index].completion_tokens for index in indexes)

    def _account(self, loss_sum: float, sums: dict[str, float], weight: int, n_tokens: int) -> None:
        """Adds a step to the totals since the last log."""
        self.progress.weight += weight
        self.progress.n_tokens += n_tokens
        for name, value in {"loss": loss_sum, **sums}.items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value

    def _clip_grad_norm(self, model: Any) -> Any:
        """The norm before clipping. Stops before a gradient that is no number reaches the weights."""
        norm = super()._clip_grad_norm(model)
        if not math.isfinite(float(norm)):
            self._stop_not_finite("gradient")
        return norm

    def _stop_not_finite(self, what: str) -> None:
        path = self.metrics_path.with_name(NAN_FILE)
        step = self.state.global_step + 1
        write_text(path, json.dumps({"step": step, "what": what, "rows": self.step_row_ids}, indent=1) + "\n")
        raise TrainError(
            f"step {step}: the {what} is not a finite number; the ids of the step's rows are in {path}. "
            "Lower learning_rate, look at these rows, or use dtype: float32; checkpoints up to then are kept"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Replaces Trainer's running loss with exact means since the last log, and writes metrics.jsonl."""
        if "loss" not in logs:
            super().log(logs, start_time)
            return
        totals, weight = self.progress.sums, self.progress.weight
        logs = {**logs, **{name: value / weight for name, value in totals.items()}}
        logs["num_tokens"] = self.progress.n_tokens
        self.progress.sums, self.progress.weight = {}, 0.0
        super().log(logs, start_time)
        logs["epoch"] = self.state.epoch or 0.0
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.state.global_step, **logs}) + "\n")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        mark_complete(folder, self.progress, self.keep_checkpoints)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: Trainer's formula counts padded positions."""
        return 0


class Screen(TrainerCallback):
    """Tells `advance` of each step, and a line of the metrics about ten times a run."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance, self.last_said = advance, -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
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


SHOWN = ("loss", "rewards/accuracies", "rewards/margins", "grad_norm")


@contextlib.contextmanager
def memory_errors(advice: str) -> Any:
    """Turns running out of memory into a message that says what to lower."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise TrainError(
            f"out of memory: {advice}; or set gradient_checkpointing: true. What is done is kept: the same command "
            "with the new value continues"
        ) from None
