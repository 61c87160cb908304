"""The processes of a run: how many there are, and sums and lists over them. With one process each is its own sum."""

import atexit
import gc
import itertools
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from rlaif.errors import RlaifError, TrainError
from rlaif.training import sharding

T = TypeVar("T")
MEETINGS = itertools.count()
MEETING_SECONDS = 0.05
"""Between looks at who came to a meeting."""


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


def met(problem: str | None) -> str | None:
    """Waits until every process came here as often as this one; gives back the problem that any of them brought, or None.

    Outside collectives, which give up after minutes: a process may be long about something that has no bound, such as a
    judge that is away.
    """
    if world_size() == 1:
        return problem
    store: Any = dist.distributed_c10d._get_default_store()
    meeting = next(MEETINGS)
    keys = [f"rlaif/meeting {meeting}/{number}" for number in range(world_size())]
    store.set(keys[rank()], problem or "")
    while not store.check(keys):
        time.sleep(MEETING_SECONDS)
    found = [store.get(key).decode() for key in keys]
    return next((text for text in found if text), None)


def wait() -> None:
    """Waits for the other processes."""
    if world_size() > 1:
        dist.barrier()


def start() -> None:
    """Joins the processes that torchrun or accelerate started, if they did. Raises TrainError if they were told to
    train in a way that is not possible here."""
    sharding.requested()
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        raise TrainError("accelerate's configuration: mixed_precision has its place in the run: use the key dtype")
    if sharding.zero_stage() == 3:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # of an earlier run in this process: models would be loaded in pieces
    if int(os.environ.get("WORLD_SIZE") or 1) == 1 or world_size() > 1:
        return
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())
    atexit.register(_leave)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0))


def _leave() -> None:
    """Ends the threads of the process group while there still is an interpreter: they would abort the process."""
    dist.destroy_process_group()
    gc.collect()


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
