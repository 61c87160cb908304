"""The part of a run that holds the model: load, check, reference, train, save."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback, set_seed
from transformers.integrations import TensorBoardCallback

from rlaif.models import fingerprint as fingerprint_of
from rlaif.models import load_model, load_tokenizer, mark_reward_tokenizer
from rlaif.progress import progress, say
from rlaif.records import disk_errors
from rlaif.training.arguments import training_arguments
from rlaif.training.checkpoints import METRICS_FILE, cut_metrics, resume_point
from rlaif.training.checks import split
from rlaif.training.config import ReferenceConfig, TrainConfig
from rlaif.training.config.paired import DpoConfig
from rlaif.training.forward import checked_plan
from rlaif.training.logps import patch_forward, set_temperature, temperature_of
from rlaif.training.masks import AttentionPlan
from rlaif.training.methods import method_of
from rlaif.training.policy import Policy, check_same_tokens, fast_plan, load_policy, save_policy
from rlaif.training.quantized import compute_alike
from rlaif.training.ranks import on_first, rank
from rlaif.training.reference import (
    AdapterOff,
    FrozenModel,
    Reference,
    cached_reference,
    weights_fingerprint,
)
from rlaif.training.refusals import memory_errors
from rlaif.training.rows import Row, Rows
from rlaif.training.screen import Screen
from rlaif.training.sharding import requested, shard
from rlaif.training.trainer import PolicyTrainer, Work
from rlaif.types import content_hash

AUTO_BUDGET = {"cpu": 2048, "cuda": 16384}
"""micro_batch_tokens: auto, by device type."""
NEVER = -1
"""The step before everything that a run writes: an online one evaluates before its first step."""
Opened = Callable[..., AbstractContextManager[PolicyTrainer]]
"""From (config, policy, rows, callbacks) to the trainer of a run; afterwards what it needed is closed."""


def run_session(config: TrainConfig, rows: Rows, opened: Opened) -> str:
    """Trains a run from where it stands to its end, saves the result in the run folder; returns the base's name."""
    policy = load_policy(config)
    step, checkpoint = on_first(lambda: resume_point(config.output / "checkpoints"))
    if checkpoint is not None:
        say(f"continuing from step {step}")
    if rank() == 0:
        cut_metrics(config.output / METRICS_FILE, step if checkpoint is not None else NEVER)
    total = config.total_steps(len(split(rows.rows, config)[0]))
    with progress(f"train {config.method}", total, "steps") as advance:
        callbacks = [Screen(advance), *_boards(config)]
        with (
            opened(config, policy, rows, callbacks) as trainer,
            memory_errors(trainer.advice),
            disk_errors(config.output),
        ):
            set_seed(config.seed)
            trainer.resume(checkpoint)
    with disk_errors(config.output):
        _save(config, trainer, policy)
    return policy.base


@contextmanager
def opened_trainer(
    config: TrainConfig, policy: Policy, rows: Rows, callbacks: list[TrainerCallback]
) -> Iterator[PolicyTrainer]:
    """The trainer of a run that learns from a file."""
    yield trainer_of(config, policy, rows.rows, *split(rows.rows, config), callbacks)


def open_trainer(config: TrainConfig, rows: Rows, callbacks: list[TrainerCallback] | None = None) -> PolicyTrainer:
    """A trainer over given rows, ready to `resume(None)`: for benchmarks and tests, without a run folder's files."""
    config.output.mkdir(parents=True, exist_ok=True)
    trained, held_out = split(rows.rows, config)
    return trainer_of(config, load_policy(config), rows.rows, trained, held_out, callbacks or [])


def trainer_of(
    config: TrainConfig,
    policy: Policy,
    rows: Sequence[Row],
    trained: Sequence[int],
    held_out: Sequence[int],
    callbacks: list[TrainerCallback],
) -> PolicyTrainer:
    """The trainer of a run, its reference ready. rows[trained] are trained on, rows[held_out] evaluated."""
    arguments = training_arguments(config, config.output / "checkpoints", autocast=policy.autocast)
    device, method = arguments.device, method_of(config)
    budget = token_budget(config, device)
    with memory_errors(f"lower micro_batch_tokens (now {budget})"), autocast(policy, device):
        sample = [rows[index] for index in trained[: config.batch_size]]
        plan = checked_plan(policy.model, sample, policy.plan, device, rewards=method.scores_answers)
        if plan.is_plain:
            say(f"prompts are computed once per answer, not shared: {plan.plain_because}")
        reference = _reference(config, rows, policy, plan, budget, device)
        plan = plan_with_reference(plan, reference)
    follow = None
    if isinstance(config, DpoConfig) and config.reference_sync is not None:
        follow = (config.reference_sync.every, config.reference_sync.mixup)
    work = Work(
        rows=rows, trained=trained, held_out=held_out, method=method, reference=reference, plan=plan, budget=budget,
        metrics_path=config.output / METRICS_FILE, keep_checkpoints=config.keep_checkpoints,
        eval_steps=config.eval_steps, router_loss=config.router_loss, follow=follow,
    )  # fmt: skip
    return PolicyTrainer(policy.model, arguments, work, callbacks)


def token_budget(config: TrainConfig, device: torch.device) -> int:
    """Positions of a micro-batch on a device."""
    if config.micro_batch_tokens == "auto":
        return AUTO_BUDGET.get(device.type, AUTO_BUDGET["cuda"])
    return config.micro_batch_tokens


def autocast(policy: Policy, device: torch.device) -> Any:
    """The context in which a policy computes."""
    return torch.autocast(device.type, torch.bfloat16) if policy.autocast else nullcontext()


def _boards(config: TrainConfig) -> list[Any]:
    """TensorBoard in the run folder, unless the trainer's report_to names other loggers."""
    if "report_to" in config.trainer or rank() > 0:
        return []
    return [TensorBoardCallback(SummaryWriter(log_dir=str(config.output / "tensorboard")))]


def _reference(
    config: TrainConfig, rows: Sequence[Row], policy: Policy, plan: AttentionPlan, budget: int, device: torch.device
) -> Reference | None:
    """The reference of a method that has one."""
    if not isinstance(config, ReferenceConfig) or config.reference_kind == "none":
        return None
    if config.reference_kind == "cached":
        return _cached(config, rows, policy, plan, budget, device)
    return live_reference(config, rows, policy, plan, device)


def live_reference(
    config: ReferenceConfig, rows: Sequence[Row], policy: Policy, plan: AttentionPlan, device: torch.device
) -> Reference | None:
    """The reference as a model: the policy with its adapter off, or a second one. rows: some to check the second one on."""
    if config.reference_kind == "none":
        return None
    if config.reference_kind == "adapter-off":
        return AdapterOff(plan, policy.model)
    name = config.reference_model or config.model
    say(f"the reference is a second model in memory: {name}")
    return _frozen_model(config, name, policy, rows, device)


def plan_with_reference(plan: AttentionPlan, reference: Reference | None) -> AttentionPlan:
    """The policy's plan, plain if the reference is a model that can not share prompts, since both read the same batches."""
    if isinstance(reference, FrozenModel):
        return plan_with(plan, reference.plan, "the reference")
    return plan


def plan_with(plan: AttentionPlan, other: AttentionPlan, who: str) -> AttentionPlan:
    """The policy's plan, plain if that of a model which reads the same batches is. who: that model, in what is said."""
    if not other.is_plain or plan.is_plain:
        return plan
    say(f"prompts are computed once per response, not shared, because of {who}: {other.plain_because}")
    return replace(plan, plain_because=other.plain_because)


def _frozen_model(
    config: ReferenceConfig, name: str, policy: Policy, rows: Sequence[Row], device: torch.device
) -> FrozenModel:
    """A second model, frozen. Raises TrainError if its tokens are not the policy's, or its log-probs not its own."""
    check_same_tokens("reference_model", name, config.model, "so their log-probs can not be compared")
    first, sharding = next(policy.model.parameters()), requested()
    dtype, start = str(first.dtype).removeprefix("torch."), "cpu" if sharding else str(first.device)
    source, bits = (policy.base, config.quantize) if name == config.model else (name, "none")
    model = load_model(source, dtype, start, quantize=bits)
    compute_alike(model)
    patch_forward(model)
    set_temperature(model, temperature_of(policy.model))
    plan = fast_plan(model, first.device.type)
    if sharding is not None:
        shard(model.requires_grad_(False), sharding, first.device)
    reference = FrozenModel(model, plan)
    reference.plan = checked_plan(reference.model, rows[: config.batch_size], plan, device)
    return reference


def _cached(
    config: ReferenceConfig, rows: Sequence[Row], policy: Policy, plan: AttentionPlan, budget: int, device: torch.device
) -> Reference:
    """The reference's log-probs from a file, made now if there is none with the same fingerprint."""
    other = config.reference_model
    fingerprint = {
        "weights": weights_fingerprint(policy.model)
        if other is None
        else f"{other} {fingerprint_of(other)} by its own plan",
        "adapter": fingerprint_of(str(config.init_adapter)) or "" if other is None and config.init_adapter else "",
        "rows": Rows(list(rows)).hash(),
        "truncation": config.truncation,
        "max_length": str(config.max_length),
        "autocast": str(policy.autocast),
    }
    source: Callable[[], tuple[AdapterOff | FrozenModel, Any]] = lambda: (AdapterOff(plan, policy.model), policy.model)  # noqa: E731
    if other is not None:
        source = lambda: (_frozen_model(config, other, policy, rows, device), policy.model)  # noqa: E731
    path = cache_path(config, fingerprint)
    with progress("reference log-probs", len(rows), "rows") as advance:
        return cached_reference(path, fingerprint, source, rows, budget, device, advance)


def cache_path(config: ReferenceConfig, fingerprint: dict[str, str]) -> Path:
    """The file of cached log-probs for a fingerprint."""
    folder = config.reference_cache or config.output.parent / "reference-cache"
    return folder / f"{content_hash(fingerprint)}.safetensors"


def _save(config: TrainConfig, trainer: PolicyTrainer, policy: Policy) -> None:
    """The adapter or model and its tokenizer, in the root of the run folder, and what else the trainer gives."""
    tokenizer = load_tokenizer(config.model)
    if trainer.method.scores_answers:
        mark_reward_tokenizer(tokenizer)
    save_policy(policy, config.output, tokenizer)
    trainer.save_result(config.output)
