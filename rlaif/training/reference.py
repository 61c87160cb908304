"""The reference of DPO: the policy as training starts, either with its adapter off at every step, or cached."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rlaif.training.batches import Batch, plan_step
from rlaif.training.forward import batch_logps
from rlaif.training.logps import adapter_off
from rlaif.training.masks import AttentionPlan
from rlaif.training.rows import Row

CACHE_FILE = "reference.safetensors"
ROWS_PER_PASS = 64


class Reference(Protocol):
    """Gives the reference's log-probs of a step's micro-batches, each of shape (N,), without gradient."""

    def step_logps(self, model: Any, batches: Sequence[Batch]) -> list[Tensor]: ...


class AdapterOff:
    """The policy without its adapter, live: no second model and no file."""

    def __init__(self, plan: AttentionPlan) -> None:
        self.plan = plan

    def step_logps(self, model: Any, batches: Sequence[Batch]) -> list[Tensor]:
        with torch.no_grad(), adapter_off(model):
            return [batch_logps(model, batch, self.plan) for batch in batches]


class Cached:
    """Log-probs computed once before training. logps[row][side] has the shape of that completion, in float32 or 64."""

    def __init__(self, logps: list[tuple[Tensor, ...]]) -> None:
        self.logps = logps

    def step_logps(self, model: Any, batches: Sequence[Batch]) -> list[Tensor]:
        return [
            torch.cat([self.logps[row][side] for row, side in batch.sources]).to(batch.targets.device)
            for batch in batches
        ]


def cached_reference(
    path: Path,
    fingerprint: dict[str, str],
    model: Any,
    rows: Sequence[Row],
    plan: AttentionPlan,
    budget: int,
    device: torch.device,
    advance: Callable[[int], None],
) -> Cached:
    """The cache in `path` if it has this fingerprint, else one computed now and saved there.

    Must be called before the policy's first step. advance is told the number of rows done.
    """
    known = _load(path, fingerprint, rows)
    if known is not None:
        return known
    logps: list[tuple[Tensor, ...]] = [()] * len(rows)
    for start in range(0, len(rows), ROWS_PER_PASS):
        part = range(start, min(start + ROWS_PER_PASS, len(rows)))
        for row, sides in _pass(model, rows, part, plan, budget, device).items():
            logps[row] = sides
        advance(len(part))
    _save(path, fingerprint, logps)
    return Cached(logps)


def _pass(
    model: Any, rows: Sequence[Row], part: range, plan: AttentionPlan, budget: int, device: torch.device
) -> dict[int, tuple[Tensor, ...]]:
    """The log-probs of each completion of rows[part], by the same packed path as training."""
    found: dict[int, tuple[Tensor, ...]] = {}
    for batch in plan_step(rows, part, budget, plain=plan.is_plain):
        with torch.no_grad(), adapter_off(model):
            flat = batch_logps(model, batch.to(device), plan).cpu()
        counts = torch.bincount(batch.completion, minlength=len(batch.sources)).tolist()
        pieces = torch.split(flat, counts)
        for row, completions in zip(batch.rows, batch.members.tolist(), strict=True):
            found[row] = tuple(pieces[completion].clone() for completion in completions)
    return found


def _save(path: Path, fingerprint: dict[str, str], logps: list[tuple[Tensor, ...]]) -> None:
    from safetensors.torch import save_file

    flat = torch.cat([side for sides in logps for side in sides])
    temporary = path.with_name(path.name + ".tmp")
    save_file({"logps": flat}, str(temporary), metadata={"fingerprint": json.dumps(fingerprint, sort_keys=True)})
    os.replace(temporary, path)


def _load(path: Path, fingerprint: dict[str, str], rows: Sequence[Row]) -> Cached | None:
    from safetensors import safe_open

    if not path.is_file():
        return None
    with safe_open(str(path), framework="pt") as file:
        if (file.metadata() or {}).get("fingerprint") != json.dumps(fingerprint, sort_keys=True):
            return None
        pieces = iter(torch.split(file.get_tensor("logps"), [len(ids) for row in rows for ids in row.completions]))
    return Cached([tuple(next(pieces) for _ in row.completions) for row in rows])


def weights_fingerprint(model: Any) -> str:
    """A hash of names, shapes and 64 evenly spaced values of each frozen or base weight: cheap, and another model, a
    merged adapter or a changed dtype gives another hash."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        if "lora_" in name:
            continue
        flat = weight.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)].double().cpu()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
