"""The sliding window: at most `size` calls in flight, never a batch with a barrier."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

TURNS_TO_SEND = 4
"""Turns of the event loop in which a call that has just begun gets as far as its first wait, its request sent."""


async def sliding_window(items: Iterable[A], call: Callable[[A], Awaitable[B]], size: int) -> AsyncIterator[B]:
    """Yields call(item) for every item in the order in which the calls finish.

    A call that finishes is followed at once by the next one, before its own result is yielded, and the item after that is
    taken while calls are under way: so no call waits for what is done with a result, and calls that finish together do not
    go on doing so. No more than one item is taken ahead; `items` may grow by what is done with the results.

    After an exception in a call no new one begins; the calls in flight (already paid for) finish and are yielded, then the
    first exception is raised.
    """
    source = iter(items)
    ahead: list[A] = []
    running: set[asyncio.Future[B]] = set()
    finished: asyncio.Queue[asyncio.Future[B]] = asyncio.Queue()
    failure: BaseException | None = None

    def end(task: asyncio.Future[B]) -> None:
        nonlocal failure
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        failure = failure or error
        finished.put_nowait(task)

    def take() -> bool:
        """Whether there is an item to call, taken if it has to be."""
        if failure is None and not ahead:
            ahead.extend(islice(source, 1))
        return failure is None and bool(ahead)

    def begin() -> None:
        while len(running) < size and take():
            task = asyncio.ensure_future(call(ahead.pop()))
            task.add_done_callback(end)
            running.add(task)

    try:
        begin()
        while running:
            take()
            task = await finished.get()
            running.discard(task)
            begin()
            for _ in range(TURNS_TO_SEND):
                await asyncio.sleep(0)
            if not task.cancelled() and task.exception() is None:
                yield task.result()
            begin()
        if failure is not None:
            raise failure
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
