"""The reference: the policy as training starts (its adapter off, a frozen copy, or cached log-probs), or a named model."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlaif.records import make_folder
from rlaif.training.batches import Batch
from rlaif.training.forward import batch_hidden, batch_logps
from rlaif.training.logps import Head, adapter_off, model_head
from rlaif.training.masks import AttentionPlan
from rlaif.training.ranks import gathered, on_first, rank
from rlaif.training.rows import Row
from rlaif.training.sharding import sharded_like, whole, whole_weights, zero_gathered
from rlaif.training.steps import plan as plan_rows

ROWS_PER_PASS = 64
LARGER = 4
"""How many times the token budget of training a pass without gradient may take."""
SYNC_FILE = "reference_sync.safetensors"


class Reference:
    """What the reference says of a micro-batch, without gradient. `model` is the policy, wrapped as it is trained."""

    def logps(self, model: Any, batch: Batch) -> Tensor:
        """Log-probs of the learned tokens, shape (N,)."""
        raise NotImplementedError

    def distribution(self, model: Any, batch: Batch) -> tuple[Tensor, Head]:
        """The hidden states (N, H) and the head that give its whole distribution at each learned token."""
        raise NotImplementedError


class AdapterOff(Reference):
    """The policy without its adapter, or with the adapter it started from: no second model and no file."""

    def __init__(self, plan: AttentionPlan, policy: Any) -> None:
        self.plan, self.policy = plan, policy

    def logps(self, model: Any, batch: Batch) -> Tensor:
        with torch.no_grad(), adapter_off(self.policy):
            return batch_logps(model, batch, self.plan)

    def distribution(self, model: Any, batch: Batch) -> tuple[Tensor, Head]:
        with torch.no_grad(), adapter_off(self.policy):
            return batch_hidden(model, batch, self.plan), detached_head(self.policy)


class FrozenModel(Reference):
    """A second model in memory. With a mixup it follows the policy (TR-DPO)."""

    def __init__(self, model: Any, plan: AttentionPlan) -> None:
        self.model, self.plan = model.requires_grad_(False).eval(), plan

    def logps(self, model: Any, batch: Batch) -> Tensor:
        with torch.no_grad():
            return batch_logps(self.model, batch, self.plan)

    def distribution(self, model: Any, batch: Batch) -> tuple[Tensor, Head]:
        with torch.no_grad():
            return batch_hidden(self.model, batch, self.plan), detached_head(self.model)

    def follow(self, policy: Any, mixup: float) -> None:
        """reference = mixup * policy + (1 - mixup) * reference, in the weights (an adapter is multiplied out)."""
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                target = policy_weight(policy, name)
                if target is not None:
                    weight.lerp_(sharded_like(target, weight), mixup)

    def save(self, folder: Path) -> None:
        """Writes the weights into a checkpoint. All processes must call it; the first one writes."""
        from safetensors.torch import save_file

        weights = whole_weights(self.model)
        if rank() == 0:
            save_file(weights, str(folder / SYNC_FILE))

    def load(self, folder: Path) -> None:
        """Takes the weights of a checkpoint."""
        from safetensors.torch import load_file

        saved = load_file(str(folder / SYNC_FILE))
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(sharded_like(saved[name], weight))


def policy_weight(policy: Any, name: str) -> Tensor | None:
    """The policy's whole weight of this name in the model without an adapter, with its adapter multiplied out; None for
    a weight that is not trained."""
    if not hasattr(policy, "peft_config"):
        weight = policy.get_parameter(name)
        return whole(weight) if weight.requires_grad else None
    path, _, kind = name.rpartition(".")
    layer = policy.get_base_model().get_submodule(path)
    while hasattr(layer, "get_delta_weight"):  # adapters of fused experts wrap each other, one for each weight
        if getattr(layer, "parameter_name", "weight") == kind:
            with zero_gathered(layer.parameters()):
                return whole(getattr(layer.get_base_layer(), kind) + layer.get_delta_weight("default"))
        layer = layer.base_layer
    return None


def detached_head(model: Any) -> Head:
    """The head of a model (or of an adapter's base), without gradient."""
    head = model_head(model.get_base_model() if hasattr(model, "peft_config") else model)
    return Head(whole(head.weight).detach(), whole(head.bias).detach() if head.bias is not None else None, head.shape)


class Cached(Reference):
    """Log-probs computed once before training. logps_of[row][side] has the shape of that completion's learned tokens."""

    def __init__(self, logps_of: list[tuple[Tensor, ...]]) -> None:
        self.logps_of = logps_of

    def logps(self, model: Any, batch: Batch) -> Tensor:
        pieces = [self.logps_of[row][side] for row, side in batch.layout.sources]
        return torch.cat(pieces).to(batch.targets.device)


def cached_reference(
    path: Path,
    fingerprint: dict[str, str],
    source: Callable[[], tuple[AdapterOff | FrozenModel, Any]],
    rows: Sequence[Row],
    budget: int,
    device: torch.device,
    advance: Callable[[int], None],
) -> Cached:
    """The cache in `path` if it has this fingerprint, else one computed now and saved there.

    Must be called before the policy's first step. source: gives the live reference and the model to ask it with, called
    only if there is no cache. Processes divide the rows among them. advance is told the number of rows done.
    """
    known = _load(path, fingerprint, rows)
    if all(gathered(known is not None)):
        assert known is not None
        return known
    reference, model = source()
    plan = reference.plan
    was_training = model.training
    model.eval()
    own: dict[int, tuple[Tensor, ...]] = {}
    order = sorted(range(len(rows)), key=lambda index: rows[index].prompt)  # rows of one prompt share a tree
    for start in range(0, len(rows), ROWS_PER_PASS):
        part = order[start : start + ROWS_PER_PASS]
        step = plan_rows(rows, part, budget * LARGER, device, plain=plan.is_plain, long_rows=plan.in_blocks)
        for batch in step.batches:
            own |= sides_of(reference.logps(model, batch).cpu(), batch)
        advance(len(part))
    model.train(was_training)
    everyone = {row: sides for found in gathered(own) for row, sides in found.items()}
    logps = [everyone[row] for row in range(len(rows))]
    on_first(lambda: _save(path, fingerprint, logps))
    return Cached(logps)


def sides_of(flat_N: Tensor, batch: Batch) -> dict[int, tuple[Tensor, ...]]:
    """The log-probs of each data row's completions."""
    pieces = torch.split(flat_N, batch.layout.lengths().tolist())
    members = batch.layout.members.tolist()
    return {
        row: tuple(pieces[completion].clone() for completion in completions)
        for row, completions in zip(batch.layout.rows, members, strict=True)
    }


def _save(path: Path, fingerprint: dict[str, str], logps: list[tuple[Tensor, ...]]) -> None:
    from safetensors.torch import save_file

    flat = torch.cat([side for sides in logps for side in sides])
    make_folder(path.parent)
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
        pieces = iter(
            torch.split(
                file.get_tensor("logps"), [completion.n_learned for row in rows for completion in row.completions]
            )
        )
    return Cached([tuple(next(pieces) for _ in row.completions) for row in rows])


def weights_fingerprint(model: Any) -> str:
    """A hash of names, shapes and 64 evenly spaced values of each frozen or base weight: cheap, and another model, a
    merged adapter or a changed dtype gives another hash."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        if "lora_" in name:
            continue
        flat = whole(weight.detach()).flatten()
        sample = flat[:: max(1, flat.numel() // 64)].double().cpu()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
