"""What a loss over all rows of a step at once needs: the rows of all processes as one, and the same dropout twice."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaif.training.batches import merge
from rlaif.training.methods import Scored
from rlaif.training.ranks import gathered, rank, world_size


def joined(parts: Sequence[Scored], logps: Sequence[Tensor], device: torch.device) -> Scored:
    """The rows of all micro-batches of all processes as one; `logps` are this process's, by micro-batch."""
    own = [
        Scored(part.layout, part.rows, {**part.outputs, "logps": values}, part.reference)
        for part, values in zip(parts, logps, strict=True)
    ]
    everyone = own
    if world_size() > 1:
        others = gathered([_on_cpu(part) for part in own])
        everyone = [
            part for number, group in enumerate(others)
            for part in (own if number == rank() else [_on(part, device) for part in group])
        ]  # fmt: skip
    outputs = {
        name: torch.cat([part.outputs[name] for part in everyone])
        for name in everyone[0].outputs
    }  # fmt: skip
    references = [part.reference for part in everyone if part.reference is not None]
    return Scored(
        layout=merge([part.layout for part in everyone]),
        rows=tuple(row for part in everyone for row in part.rows),
        outputs=outputs,
        reference=torch.cat(references) if references else None,
    )


def _on_cpu(part: Scored) -> Scored:
    return _on(part, torch.device("cpu"))


def _on(part: Scored, device: torch.device) -> Scored:
    return Scored(
        part.layout.to(device),
        part.rows,
        {name: value.detach().to(device) for name, value in part.outputs.items()},
        part.reference.detach().to(device) if part.reference is not None else None,
    )


def random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Where the random numbers of this process and its device stand."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    """Goes back to where they stood."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
