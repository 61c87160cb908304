"""The online training loop: a rollout, then the optimiser steps that learn from it."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlaif.errors import OutageError
from rlaif.progress import say
from rlaif.training.batches import Batch
from rlaif.training.checkpoints import checkpoints, cut_metrics, read_metrics, step_of
from rlaif.training.config.online import OnlineConfig
from rlaif.training.config.policy_gradient import PpoConfig
from rlaif.training.forward import batch_logps
from rlaif.training.methods import Scored
from rlaif.training.online.critic import Critic
from rlaif.training.online.held_out import alarm, held_out_metrics, mean_relevance
from rlaif.training.online.learners import Learner
from rlaif.training.online.learning import SampledRow, parts_of
from rlaif.training.online.measures import rollout_metrics
from rlaif.training.online.prior import Scorer, row_scores, with_prior, with_values
from rlaif.training.online.rollouts import Rollout, Rollouts
from rlaif.training.online.tables import SAMPLES_FILE, sample_lines
from rlaif.training.ranks import on_first, rank
from rlaif.training.reference import AdapterOff, Reference
from rlaif.training.rows import Row
from rlaif.training.steps import StepLoader
from rlaif.training.trainer import PolicyTrainer, Work


class OnlineTrainer(PolicyTrainer):
    """Runs an online method. A checkpoint falls between two rollouts, so that what a killed run does again it does
    from the journal."""

    def __init__(
        self,
        model: Any,
        arguments: Any,
        work: Work,
        callbacks: list[Any],
        config: OnlineConfig,
        rollouts: Rollouts,
        learner: Learner,
        critic: Critic | None = None,
    ) -> None:
        super().__init__(model, arguments, work, callbacks)
        self.critic = critic
        self.config, self.rollouts, self.learner = config, rollouts, learner
        self.cursor = 0
        self.parts: list[list[int]] = []
        self.sampled: list[SampledRow] = []

    @property
    def advice(self) -> str:
        return f"{super().advice} or generate_rows"

    def resume(self, checkpoint: Path | None) -> None:
        """As for other methods; the tables of samples of rollouts that are made again go."""
        if rank() == 0:
            step = step_of(checkpoint) if checkpoint is not None else 0
            cut_metrics(self.work.metrics_path.with_name(SAMPLES_FILE), step - 1)
        super().resume(checkpoint)

    def get_train_dataloader(self) -> StepLoader:
        """One item for each step, which says nothing: what is learnt from is made as the run goes."""
        return StepLoader(range(self.args.max_steps), 1, self.args.seed)

    def method_state(self) -> dict[str, Any]:
        return {"cursor": self.cursor, "method": self.method.state(), "learner": self.learner.state()}

    def load_method_state(self, state: dict[str, Any]) -> None:
        self.cursor = state["cursor"]
        self.method.load_state(state["method"])
        self.learner.load_state(state["learner"])

    def create_optimizer(self, model: Any = None) -> Any:
        """The optimizer of the policy, and of the critic with its own learning rate."""
        optimizer = super().create_optimizer(model)
        if self.critic is not None:
            assert isinstance(self.config, PpoConfig)
            rate = self.config.critic_peak_learning_rate
            optimizer.add_param_group({"params": self.critic.parameters, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def save_beside(self, checkpoint: Path) -> None:
        super().save_beside(checkpoint)
        if self.critic is not None:
            self.critic.save(checkpoint)

    def load_beside(self, checkpoint: Path) -> None:
        super().load_beside(checkpoint)
        if self.critic is not None:
            self.critic.load(checkpoint)

    def save_result(self, folder: Path) -> None:
        if self.critic is not None:
            self.critic.save_result(folder, self.config)

    def epochs_done(self) -> float:
        return self.cursor / len(self.rollouts.stream.indexes)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One optimiser step; before the first one of a rollout, the rollout."""
        step = self.state.global_step
        number, part = divmod(step, self.config.steps_of_rollout)
        if step == 0 and self.work.held_out:
            self.log(self.evaluate_held_out(model))  # what the policy's later responses are compared with
        started = time.perf_counter()
        if part == 0:
            self._roll(model, number)
            self._time("rollout", started)
            started = time.perf_counter()
        if self.critic is not None:
            self.critic.forget_gradients()
        chosen = [self.sampled[index] for index in self.parts[part]]
        if not chosen:
            say(f"step {step + 1}: no response can be learnt from (see masked in metrics.jsonl)")
            return torch.zeros((), device=self.args.device)
        self.learner.begin_step(chosen, self.sampled)
        self.rows = chosen
        loss = self.learn(model, range(len(chosen)))
        if self.critic is not None:
            self.critic.exchange_gradients()
        self._time("learn", started)
        return loss

    def _scored(self, model: Any, batch: Batch, rows: Sequence[Row]) -> Scored:
        scored = super()._scored(model, batch, rows)
        if self.critic is None:
            return scored
        values = self.critic.values(batch, scored.outputs.get("hidden"))
        return replace(scored, outputs={**scored.outputs, "values": values})

    def _clip_grad_norm(self, model: Any) -> Any:
        """The policy's norm before clipping; the critic's gradients are clipped by themselves."""
        if self.critic is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.critic.parameters, self.args.max_grad_norm)
            self._check_finite(float(norm), "gradient of the critic")
        return super()._clip_grad_norm(model)

    def _time(self, what: str, started: float) -> None:
        if rank() == 0:
            self.progress.add(f"time/{what}_seconds", time.perf_counter() - started, 1.0)

    def _roll(self, model: Any, number: int) -> None:
        """Makes the rollout of a number and prepares its rows."""
        rollout = self._collected(number)
        self.cursor = rollout.cursor
        rows = self.learner.rows(rollout.groups, self.rollouts.rows.rows)
        if self.learner.needs_prior:
            rows = self._with_prior(model, rows)
        if self.critic is not None:
            rows = self._with_values(model, self.critic, rows)
        self.sampled = self.learner.ready(rows, lambda others: self._own_logps(model, others))
        self.parts = parts_of(self.sampled, len(rollout.groups), self.config, number)
        if rank() == 0:
            shown = rollout_metrics(rollout, self.rollouts.sources.names) | self.learner.metrics()
            for name, (value, count) in shown.items():
                self.progress.add(name, value, count)
            if self.rollouts.sampler.gap is not None:
                self.progress.add("sampling/policy_gap", self.rollouts.sampler.gap, 1.0)
            self._show(rollout)

    def _collected(self, number: int) -> Rollout:
        """The rollout of a number; with `ahead` the next one is begun, by the policy as it is now."""
        step, ahead = self.state.global_step, self.config.rollouts.ahead
        with self._saved_at_outages():
            if not self.rollouts.has_begun:
                self.rollouts.refresh(step)
            self.learner.start(self.rollouts)
            rollout = self.rollouts.collect(self.cursor)
            if ahead and (number + 1) * self.config.steps_of_rollout < self.args.max_steps:
                self.rollouts.refresh(step)
                self.rollouts.begin(rollout.cursor)
        if rank() == 0:
            for group in rollout.groups:
                self.progress.add("sampling/stale_steps", step - group.policy_step, 1.0)
        return rollout

    @contextmanager
    def _saved_at_outages(self) -> Iterator[None]:
        """If a judge or the server of the rollouts stays away, all is saved before the run ends."""
        try:
            yield
        except OutageError as error:
            step, folder = self.state.global_step, self.work.metrics_path.parent / "checkpoints"
            between = step % self.config.steps_of_rollout == 0
            if between and step and step not in on_first(lambda: dict(checkpoints(folder))):
                self._save_checkpoint(self.model, None)
            saved = f"at step {step}" if between else "up to its last checkpoint"
            raise OutageError(
                f"{error}. The run is saved {saved}, with every response and judgment so far: the same command continues"
            ) from None

    def _with_prior(self, model: Any, rows: list[SampledRow]) -> list[SampledRow]:
        """The rows with the log-probs of policy and reference before the first step."""
        model.eval()
        reference = self._scorer(model, self.work.reference)
        return with_prior(rows, self._own_scorer(model), reference, self.work.plan, self.work.budget, self.args.device)

    def _with_values(self, model: Any, critic: Critic, rows: list[SampledRow]) -> list[SampledRow]:
        """The rows with the critic's values before the first step."""
        model.eval()
        critic.module.eval()

        def score(batch: Batch) -> Tensor:
            with self.compute_loss_context_manager():
                return critic.rollout_values(model, batch, self.work.plan)

        return with_values(rows, score, self.work.plan, self.work.budget, self.args.device)

    def _own_logps(self, model: Any, rows: Sequence[Row]) -> list[Tensor]:
        """The policy's log-probs of rows as it is now."""
        model.eval()
        return row_scores(rows, self._own_scorer(model), self.work.plan, self.work.budget, self.args.device)

    def _own_scorer(self, model: Any) -> Scorer:
        def score(batch: Batch) -> Tensor:
            with self.compute_loss_context_manager():
                return batch_logps(model, batch, self.work.plan)

        return score

    def _scorer(self, model: Any, reference: Reference | None) -> Scorer | None:
        if reference is None:
            return None

        def score(batch: Batch) -> Tensor:
            with self.compute_loss_context_manager():
                return reference.logps(model, batch)

        return score

    def evaluate_held_out(self, model: Any) -> dict[str, float]:
        """The rewards of fresh responses to the held-out prompts, what the judges that watch say, and their relevance."""
        step = self.state.global_step
        with self._saved_at_outages():
            self.rollouts.refresh(step)
            groups = self.rollouts.evaluate(step, self.work.held_out)
        model.eval()
        reference = self.work.reference
        if reference is None and not self.config.full:
            reference = AdapterOff(self.work.plan, self.accelerator.unwrap_model(model))
        scorer, relevance = self._scorer(model, reference), None
        if scorer is not None:
            relevance = mean_relevance(
                groups, self.rollouts.rows.rows, scorer, self.work.plan, self.work.budget, self.args.device
            )
        watch = self.rollouts.watch
        found = held_out_metrics(groups, self.rollouts.sources.names, watch.names if watch else (), relevance)
        self._raise_alarm(found)
        return found

    def _raise_alarm(self, found: dict[str, float]) -> None:
        earlier = [line for line in read_metrics(self.work.metrics_path) if "eval/reward" in line]
        message = alarm(earlier[0], found) if earlier else None
        found["eval/alarm"] = float(message is not None)
        if message is not None:
            say(f"step {self.state.global_step}: {message}")

    def reference_logps(self, model: Any, batch: Batch, rows: Sequence[Row]) -> Tensor | None:
        if self.work.reference is None:
            return None
        found = [rows[row] for row, _ in batch.layout.sources]
        known = [row.reference for row in found if isinstance(row, SampledRow) and row.reference is not None]
        if len(known) == len(found):
            return torch.cat(known).to(self.args.device)
        return super().reference_logps(model, batch, rows)

    def _show(self, rollout: Rollout) -> None:
        """Appends a table of responses to samples.jsonl, each `sample_steps` steps."""
        step, every = self.state.global_step, self.config.sample_steps
        if step // every == (step - self.config.steps_of_rollout) // every and step:
            return
        path = self.work.metrics_path.with_name(SAMPLES_FILE)
        with path.open("a", encoding="utf-8") as file:
            for line in sample_lines(step, rollout, self.sampled, self.rollouts.rows):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        limit = self.config.stop_kl
        if limit is not None and logs.get("kl", 0.0) > limit:
            self.control.should_training_stop = True
            say(f"step {self.state.global_step}: the KL divergence from the reference is {logs['kl']:.3g}, above stop_kl "
                f"({limit:g}): the run ends here")  # fmt: skip
