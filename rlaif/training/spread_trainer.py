"""transformers' Trainer for weights that are spread over processes: when gradients are exchanged, and checkpoints."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from rlaif.errors import TrainError
from rlaif.training.ranks import world_size
from rlaif.training.sharding import (
    is_sharded,
    is_spread,
    load_optimizer_state,
    load_weights,
    optimizer_state,
    whole_weights,
)

OPTIMIZER_FILE, SCHEDULER_FILE = "optimizer_by_name.pt", "scheduler.pt"
"""A sharded run's optimizer state goes by the names of the weights, so that any number of processes can continue it."""


class SpreadTrainer(Trainer):
    """Trainer, for a model that is whole in every process, sharded before it comes (FSDP2), or handed to DeepSpeed."""

    def __init__(self, model: Any, **keys: Any) -> None:
        super().__init__(model=model, **keys)
        # What Trainer calls a model that was sharded before it came: it is not wrapped.
        self.is_sharded = self.is_distributed_loading_by_transformers = is_sharded(model)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """Shards stay where they are, on their devices or waiting on the CPU."""
        if not is_sharded(model):
            super()._move_model_to_device(model, device)

    def synchronised(self, model: Any, last: bool) -> Any:
        """Processes exchange gradients once a step, after the last micro-batch; with sharded weights after each, which
        keeps the gradients sharded too. DeepSpeed's engine also makes its step after the last one, and must be told."""
        if self.is_deepspeed_enabled:
            self.accelerator.gradient_state._set_sync_gradients(last)
            return contextlib.nullcontext()
        now = last or world_size() == 1 or self.is_sharded
        return contextlib.nullcontext() if now else self.accelerator.no_sync(model)

    def check_kind(self, checkpoint: Path) -> None:
        """Raises TrainError for a checkpoint that this way of spreading can not continue."""
        with_deepspeed = any(checkpoint.glob("global_step*"))
        if with_deepspeed != self.is_deepspeed_enabled:
            raise TrainError(
                f"{checkpoint} was written with{'' if with_deepspeed else 'out'} DeepSpeed; continue the run as it began, "
                "or start it again"
            )
        if self.is_sharded and not (checkpoint / OPTIMIZER_FILE).is_file():
            raise TrainError(
                f"{checkpoint} was written by processes with whole weights; continue the run without sharding, or start "
                "it again"
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The weights of a checkpoint."""
        if not is_spread(self.model):
            super().save_model(output_dir, _internal_call)
            return
        weights = whole_weights(self.model)
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = optimizer_state(self.model, self.optimizer.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_FILE)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_sharded:
            load_weights(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Of a sharded run, into any other; of one with whole weights, as Trainer does."""
        if checkpoint is None or not (path := Path(checkpoint) / OPTIMIZER_FILE).is_file():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        load_optimizer_state(self.model, self.optimizer.optimizer, state)
        self.lr_scheduler.load_state_dict(torch.load(path.with_name(SCHEDULER_FILE), weights_only=True))
