"""The processes of a run: how many there are, and sums and lists over them. With one process each is its own sum."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from rlaif.errors import RlaifError, TrainError

T = TypeVar("T")


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gathered(value: Any) -> list[Any]:
    """`value` of every process, in their order; it must be picklable."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def most(value: int) -> int:
    """The largest `value` of all processes."""
    return max(gathered(value))


def wait() -> None:
    """Waits for the other processes."""
    if world_size() > 1:
        dist.barrier()


def start() -> None:
    """Joins the processes that torchrun or accelerate started, if they did. Raises TrainError for sharded training."""
    for name, what in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(name, "").lower() in ("1", "true", "yes"):
            raise TrainError(
                f"accelerate was told to use {what}, which is not supported yet: weights can not be sharded over devices; "
                "use plain data parallelism (accelerate launch --multi_gpu, or torchrun)"
            )
    if int(os.environ.get("WORLD_SIZE") or 1) == 1 or world_size() > 1:
        return
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0))


def on_first(work: Callable[[], T]) -> T:
    """What `work` gives in the first process, in every process; an error is raised in every process."""
    if world_size() == 1:
        return work()
    found: list[Any] = [None, None]
    if rank() == 0:
        try:
            found[0] = work()
        except RlaifError as error:
            found[1] = error
    dist.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise found[1]
    value: T = found[0]
    return value
