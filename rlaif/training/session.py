"""The part of a run that holds the model: load, check, reference, train, save."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import set_seed
from transformers.integrations import TensorBoardCallback

from rlaif.models import load_tokenizer
from rlaif.progress import progress, say
from rlaif.records import disk_errors
from rlaif.training.arguments import training_arguments
from rlaif.training.checkpoints import METRICS_FILE, cut_metrics, resume_point
from rlaif.training.config import TrainConfig
from rlaif.training.forward import checked_plan
from rlaif.training.methods import method_loss
from rlaif.training.policy import Policy, load_policy
from rlaif.training.reference import CACHE_FILE, AdapterOff, Reference, cached_reference, weights_fingerprint
from rlaif.training.rows import Rows
from rlaif.training.trainer import PolicyTrainer, Screen, memory_errors

AUTO_BUDGET = {"cpu": 2048, "cuda": 16384}
"""micro_batch_tokens: auto, by device type."""


def run_session(config: TrainConfig, rows: Rows, manifest: dict[str, Any]) -> str:
    """Trains a run from where it stands to its end, saves the result in the run folder; returns the base's name."""
    policy = load_policy(config)
    checkpoint_folder = config.output / "checkpoints"
    arguments = training_arguments(config, checkpoint_folder, autocast=policy.autocast)
    device = arguments.device
    budget = token_budget(config, device)
    advice = f"lower micro_batch_tokens (now {budget})"
    with memory_errors(advice), _autocast(policy, device):
        plan = checked_plan(policy.model, rows.rows[: config.batch_size], policy.plan, device)
        if plan.is_plain:
            say(f"prompts are computed once per answer, not shared: {plan.plain_because}")
        policy = Policy(policy.model, plan, policy.base, policy.autocast)
        reference = _reference(config, rows, policy, budget, device, manifest)
    step, checkpoint = resume_point(checkpoint_folder)
    if checkpoint is not None:
        say(f"continuing from step {step}")
    cut_metrics(config.output / METRICS_FILE, step)
    total = config.total_steps(len(rows.rows))
    with (
        progress(f"train {config.method}", total, "steps") as advance,
        memory_errors(advice),
        disk_errors(config.output),
    ):
        trainer = PolicyTrainer(
            policy.model, arguments, rows=rows.rows, method=method_loss(config), reference=reference, plan=plan,
            budget=budget, metrics_path=config.output / METRICS_FILE, keep_checkpoints=config.keep_checkpoints,
            callbacks=[Screen(advance), *_boards(config)],
        )  # fmt: skip
        set_seed(config.seed)
        trainer.resume(checkpoint)
    with disk_errors(config.output):
        _save(config, policy)
    return policy.base


def token_budget(config: TrainConfig, device: torch.device) -> int:
    """Positions of a micro-batch on a device."""
    if config.micro_batch_tokens == "auto":
        return AUTO_BUDGET.get(device.type, AUTO_BUDGET["cuda"])
    return config.micro_batch_tokens


def _autocast(policy: Policy, device: torch.device) -> Any:
    return torch.autocast(device.type, torch.bfloat16) if policy.autocast else nullcontext()


def _boards(config: TrainConfig) -> list[Any]:
    """TensorBoard in the run folder, unless the trainer's report_to names other loggers."""
    if "report_to" in config.trainer:
        return []
    return [TensorBoardCallback(SummaryWriter(log_dir=str(config.output / "tensorboard")))]


def _reference(
    config: TrainConfig, rows: Rows, policy: Policy, budget: int, device: torch.device, manifest: dict[str, Any]
) -> Reference | None:
    if config.reference_kind == "none":
        return None
    if config.reference_kind == "adapter-off":
        return AdapterOff(policy.plan)
    fingerprint = {
        "weights": weights_fingerprint(policy.model),
        "rows": manifest["rows_hash"],
        "truncation": config.truncation,
        "max_length": str(config.max_length),
        "autocast": str(policy.autocast),
    }
    with progress("reference log-probs", len(rows.rows), "rows") as advance:
        return cached_reference(
            config.output / CACHE_FILE, fingerprint, policy.model, rows.rows, policy.plan, budget, device, advance
        )


def _save(config: TrainConfig, policy: Policy) -> None:
    """The adapter or model and its tokenizer, in the root of the run folder."""
    folder: Path = config.output
    if policy.autocast:
        policy.model.to(torch.bfloat16)
    policy.model.save_pretrained(str(folder))
    load_tokenizer(config.model).save_pretrained(str(folder))
