"""The training loop: transformers' Trainer, with one Trainer batch = all rows of one optimiser step."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from rlaif.errors import TrainError
from rlaif.records import write_text
from rlaif.training.batches import Batch
from rlaif.training.checkpoints import Progress, mark_complete, read_progress
from rlaif.training.coupling import joined, random_state, set_random_state
from rlaif.training.forward import batch_logps, batch_rewards, batch_scores
from rlaif.training.masks import AttentionPlan
from rlaif.training.methods import Method, Metrics, Scored
from rlaif.training.ranks import gathered, rank, wait, world_size
from rlaif.training.reference import FrozenModel, Reference
from rlaif.training.refusals import setting_errors
from rlaif.training.rows import Row
from rlaif.training.sharding import whole
from rlaif.training.spread_trainer import SpreadTrainer
from rlaif.training.steps import RowIndexes, Step, StepLoader, plan

NAN_FILE = "not_finite.json"


@dataclass(frozen=True)
class Work:
    """What a trainer trains on and how: everything but the model and the arguments of transformers.

    rows: all of them; trained and held_out: indexes into them. plan, budget: how rows become micro-batches.
    eval_steps: steps between evaluations on the held-out rows. router_loss: its weight. follow: (steps, mixup) of a
    reference that follows.
    """

    rows: Sequence[Row]
    trained: Sequence[int]
    held_out: Sequence[int]
    method: Method
    reference: Reference | None
    plan: AttentionPlan
    budget: int
    metrics_path: Path
    keep_checkpoints: int
    eval_steps: int
    router_loss: float = 0.0
    follow: tuple[int, float] | None = None

    @property
    def routes(self) -> bool:
        """Whether the model is asked for its router loss."""
        return self.router_loss > 0


class PolicyTrainer(SpreadTrainer):
    """Runs one method over rows. Its own gradient accumulation stays 1: a step splits itself into micro-batches."""

    def __init__(self, model: Any, arguments: Any, work: Work, callbacks: list[TrainerCallback]) -> None:
        super().__init__(model=model, args=arguments, train_dataset=RowIndexes(work.trained), callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self.work, self.method = work, work.method
        self.rows = work.rows
        self.progress = Progress()
        self.step_row_ids: list[str] = []
        self.evaluated = self.followed = -1

    @property
    def advice(self) -> str:
        """What to do when memory runs out."""
        return f"lower micro_batch_tokens (now {self.work.budget})"

    def resume(self, checkpoint: Path | None) -> None:
        """Trains to the end, from a complete checkpoint if there is one."""
        if checkpoint is not None:
            self.check_kind(checkpoint)
            saved = read_progress(checkpoint)
            self.load_method_state(saved.method)
            self.progress = saved if rank() == 0 else Progress(n_tokens=0)
            self.load_beside(checkpoint)
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)

    def create_optimizer(self, model: Any = None) -> Any:
        """The optimizer. Raises ConfigError for numbers it does not take."""
        with setting_errors("optimizer"):
            return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of transformers, but that a warm-up of w steps starts at 1 / (w + 1) instead of 0: a step with a
        learning rate of 0 would learn nothing, and it may be the only one."""
        with setting_errors("schedule"):
            scheduler = super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps)
        if warmup and isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            scheduler.lr_lambdas = [_warmed_up(own, warmup) for own in scheduler.lr_lambdas]
            for group, initial, rate in zip(
                scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
            ):
                group["lr"] = initial * rate(0)
            scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
        return scheduler

    def get_train_dataloader(self) -> StepLoader:
        """The whole step's rows in every process: a step divides itself among them."""
        return StepLoader(self.work.trained, self.args.per_device_train_batch_size, self.args.seed)

    def method_state(self) -> dict[str, Any]:
        """What a checkpoint carries beside weights and optimizer, as JSON."""
        return self.method.state()

    def load_method_state(self, state: dict[str, Any]) -> None:
        """Takes what `method_state` gave."""
        self.method.load_state(state)

    def save_beside(self, checkpoint: Path) -> None:
        """Writes into a checkpoint what has weights of its own beside the policy. All processes call it."""
        if self.work.follow is not None:
            assert isinstance(self.work.reference, FrozenModel)
            self.work.reference.save(checkpoint)

    def load_beside(self, checkpoint: Path) -> None:
        """Takes what `save_beside` wrote."""
        if self.work.follow is not None:
            assert isinstance(self.work.reference, FrozenModel)
            self.work.reference.load(checkpoint)

    def save_result(self, folder: Path) -> None:
        """Writes what a run gives beside the policy into its folder. All processes call it."""

    def training_step(self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of all rows of one optimiser step; returns this process's share of its loss."""
        return self.learn(model, inputs["rows"].tolist())

    def learn(self, model: Any, indexes: Sequence[int]) -> Tensor:
        """Forward and backward of rows[indexes], which are one optimiser step; returns this process's share of its loss."""
        model.train()
        self.step_row_ids = [self.rows[index].id for index in indexes]
        step = self._plan(indexes)
        self._score_side_rows(model, step, self.state.global_step)
        couples = self.method.couples and (len(step.batches) > 1 or world_size() > 1)
        losses, metrics = self._coupled(model, step) if couples else self._separate(model, step)
        total = torch.stack(losses).sum()
        self._check_finite(total.item(), "loss")
        weight = step.counts.tokens if self.method.unit == "tokens" else step.counts.rows
        self._account([*metrics, {"loss": (total * weight, weight / world_size())}])
        self.progress.n_tokens += sum(batch.n_tokens for batch in step.batches[: step.n_real])
        return total.to(self.args.device, torch.float32)

    def _plan(self, indexes: Sequence[int], rows: Sequence[Row] | None = None) -> Step:
        work = self.work
        return plan(
            self.rows if rows is None else rows, indexes, work.budget, self.args.device,
            plain=work.plan.is_plain, read_last=self.method.scores_answers, long_rows=work.plan.in_blocks,
        )  # fmt: skip

    def _scored(self, model: Any, batch: Batch, rows: Sequence[Row]) -> Scored:
        """What policy and reference say of a micro-batch, with gradient for the policy's part unless switched off."""
        chosen, routes = tuple(rows[index] for index in batch.layout.rows), self.work.routes
        if self.method.scores_answers:
            outputs = batch_rewards(model, batch, self.work.plan, routes=routes)
            balance = outputs.pop("router_loss", None)
            return Scored(batch.layout, chosen, outputs, router_loss=balance)
        reference, known = self.work.reference, None
        if reference is not None and self.method.needs_distribution:
            known = reference.distribution(model, batch)
        logps = self.reference_logps(model, batch, rows)
        outputs = batch_scores(model, batch, self.work.plan, extras=self.method.extras, reference=known, routes=routes)
        balance = outputs.pop("router_loss", None)
        return Scored(batch.layout, chosen, outputs, logps, balance)

    def reference_logps(self, model: Any, batch: Batch, rows: Sequence[Row]) -> Tensor | None:
        """What the reference says of each learned token of a micro-batch of `rows`, (N,); None without a reference."""
        return None if self.work.reference is None else self.work.reference.logps(model, batch)

    def _balance(self, router_loss: Tensor | None, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """A micro-batch's share of the step's weighted router loss, and its metric (which has no weight).

        The step's is the mean over micro-batches of all processes, each weighing as many positions as it has. That is
        not the router loss of all positions at once, which is a product of two means: as in transformers and
        Megatron-LM, experts are balanced within what is read together.
        """
        if router_loss is None:
            return torch.zeros((), device=self.args.device), {}
        share = self.work.router_loss * batch.n_tokens / step.n_tokens
        return share * router_loss, {"router_loss": (router_loss.detach() * batch.n_tokens, float(batch.n_tokens))}

    def _separate(self, model: Any, step: Step) -> tuple[list[Tensor], list[Metrics]]:
        """Each micro-batch's loss by itself, forward and backward in turn."""
        losses, metrics = [], []
        for number, batch in enumerate(step.batches):
            real = number < step.n_real
            with self.synchronised(model, last=number == len(step.batches) - 1):
                with self.compute_loss_context_manager():
                    scored = self._scored(model, batch, self.rows)
                    if self.method.couples:
                        self.method.observe(scored)
                    loss, found = self.method.loss(scored, step.counts)
                    balance, spread = self._balance(scored.router_loss, batch, step)
                    loss = loss + balance
                self._backward(loss if real else loss * 0.0)
            losses.append(loss.detach() if real else torch.zeros_like(loss))
            metrics += [found, spread] if real else []
        return losses, metrics

    def _coupled(self, model: Any, step: Step) -> tuple[list[Tensor], list[Metrics]]:
        """A loss over all rows of all micro-batches and processes at once.

        First their log-probs without gradient, then the loss and its derivative with respect to them, then each
        micro-batch again, now with gradient, with the random numbers (of dropout) it had before.
        """
        states, parts = [], []
        for batch in step.batches:
            states.append(random_state(self.args.device))
            with torch.no_grad(), self.compute_loss_context_manager():
                parts.append(self._scored(model, batch, self.rows))
        leaves = [part.logps.detach().requires_grad_() for part in parts]
        scored = joined(parts[: step.n_real], leaves[: step.n_real], self.args.device)
        self.method.observe(scored)
        loss, metrics = self.method.loss(scored, step.counts)
        slopes = torch.autograd.grad(loss, leaves[: step.n_real]) if step.n_real else ()
        share = 1 / world_size()  # every process computed the whole of it
        total = loss.detach() * share
        found = [{name: (value * share, n * share) for name, (value, n) in metrics.items()}]
        for number, batch in enumerate(step.batches):
            set_random_state(states[number], self.args.device)
            with self.synchronised(model, last=number == len(step.batches) - 1):
                with self.compute_loss_context_manager():
                    outputs = batch_scores(model, batch, self.work.plan, routes=self.work.routes)
                    balance, spread = self._balance(outputs.get("router_loss"), batch, step)
                real = number < step.n_real
                slope = slopes[number] if real else torch.zeros_like(outputs["logps"])
                balance = balance if real else balance * 0.0
                self._backward((outputs["logps"] * slope).sum() + balance)
            total = total + balance.detach()
            found += [spread] if real else []
        return [total], found

    def _backward(self, loss: Tensor) -> None:
        """Adds to the gradients, which wrappers average over processes: hence the factor."""
        self.accelerator.backward(loss * world_size())

    def _score_side_rows(self, model: Any, step: Step, number: int) -> None:
        """Gives the method what it needs of its side rows, whose log-probs have no gradient."""
        rows = self.method.side_rows(step.rows, number)
        if not rows:
            self.method.take_side(0.0, 0.0)
            return
        assert self.work.reference is not None
        total, count = 0.0, 0
        side = self._plan(range(len(rows)), rows)
        for position, batch in enumerate(side.batches):
            with torch.no_grad(), self.compute_loss_context_manager():
                ratio = batch_logps(model, batch, self.work.plan) - self.work.reference.logps(model, batch)
            if position < side.n_real:
                total += batch.layout.sums(ratio)[batch.layout.members].sum().item()
                count += len(batch.layout.rows)
        everyone = gathered((total, count))
        self.method.take_side(sum(part for part, _ in everyone), sum(n for _, n in everyone))

    def _account(self, found: Sequence[Metrics]) -> None:
        """Adds to the totals since the last log."""
        flat = [(name, value, count) for metrics in found for name, (value, count) in metrics.items()]
        numbers = torch.stack([value.detach().double().cpu() for _, value, _ in flat]).tolist()
        for (name, _, count), number in zip(flat, numbers, strict=True):
            self.progress.add(name, number, count)

    def evaluate_held_out(self, model: Any) -> dict[str, float]:
        """The means over the held-out rows of the loss and every metric, as eval/..."""
        model.eval()
        kept, self.progress = self.progress, Progress()
        size = self.args.per_device_train_batch_size
        for start in range(0, len(self.work.held_out), size):
            step = self._plan(self.work.held_out[start : start + size])
            self._score_side_rows(model, step, -1)
            with torch.no_grad(), self.compute_loss_context_manager():
                parts = [self._scored(model, batch, self.rows) for batch in step.batches][: step.n_real]
                spread = [
                    self._balance(part.router_loss, batch, step)
                    for part, batch in zip(parts, step.batches, strict=False)
                ]
                if self.method.couples:
                    parts = [joined(parts, [part.logps for part in parts], self.args.device)]
                found = [self.method.loss(part, step.counts) for part in parts]
            share = 1 / world_size() if self.method.couples else 1.0
            weight = step.counts.tokens if self.method.unit == "tokens" else step.counts.rows
            losses = [{"loss": (loss * weight * share, 0.0)} for loss, _ in found]
            losses += [{"loss": (balance * weight, 0.0)} for balance, _ in spread]
            self._account([*losses, *(metrics for _, metrics in [*found, *spread])]) if found else None
            self.progress.add("loss", 0.0, weight / world_size())
        means = self.method.means(self._reduced(self.progress).means())
        self.progress = kept
        model.train()
        return {f"eval/{name}": value for name, value in means.items()}

    def _reduced(self, progress: Progress) -> Progress:
        """The totals of all processes."""
        return Progress.total(gathered(progress))

    def _clip_grad_norm(self, model: Any) -> Any:
        """The norm before clipping. Stops before a gradient that is no number reaches the weights."""
        norm = whole(super()._clip_grad_norm(model))
        self._check_finite(float(norm), "gradient")
        return norm

    def _check_finite(self, value: float, what: str) -> None:
        if math.isfinite(value):
            return
        path = self.work.metrics_path.with_name(NAN_FILE)
        step = self.state.global_step + 1
        write_text(path, json.dumps({"step": step, "what": what, "rows": self.step_row_ids}, indent=1) + "\n")
        raise TrainError(
            f"step {step}: the {what} is not a finite number; the ids of the step's rows are in {path}. "
            "Lower learning_rate, look at these rows, or use dtype: float32; checkpoints up to then are kept"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Replaces Trainer's running loss with exact means since the last log, and writes metrics.jsonl."""
        if "loss" in logs:
            total = self._reduced(self.progress)
            logs = {**logs, **self.method.means(total.means()), "num_tokens": total.n_tokens}
            self.progress = self.progress.restarted()
        super().log(logs, start_time)
        if self.is_world_process_zero() and any(name == "loss" or name.startswith("eval/") for name in logs):
            line = {"step": self.state.global_step, **logs, "epoch": self.epochs_done()}
            with self.work.metrics_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def epochs_done(self) -> float:
        """Passes over the data so far."""
        return self.state.epoch or 0.0

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, model: Any, *rest: Any, **named: Any) -> None:
        step, work = self.state.global_step, self.work
        if work.follow is not None and step and step % work.follow[0] == 0 and self.followed != step:
            self.followed = step
            assert isinstance(work.reference, FrozenModel)
            work.reference.follow(self.accelerator.unwrap_model(model), work.follow[1])
        is_due = step % work.eval_steps == 0 or step >= self.state.max_steps
        if work.held_out and step and is_due and self.evaluated != step:
            self.evaluated, should_log = step, self.control.should_log
            self.log(self.evaluate_held_out(model))
            self.control.should_log = should_log  # logging clears it, and the training metrics are yet to come
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, *rest, **named)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        total = self._reduced(self.progress)
        self.progress = total if rank() == 0 else Progress()
        self.save_beside(folder)
        wait()
        if self.is_world_process_zero():
            total.method = self.method_state()
            mark_complete(folder, total, self.work.keep_checkpoints)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: Trainer's formula counts padded positions."""
        return 0


def _warmed_up(own: Callable[[int], float], warmup: int) -> Callable[[int], float]:
    """A schedule's factor for each step, with a warm-up that does not start at 0."""
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else own(step)
