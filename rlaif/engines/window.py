"""The sliding window: at most `size` calls in flight, never a batch with a barrier."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


async def sliding_window(items: Iterable[A], call: Callable[[A], Awaitable[B]], size: int) -> AsyncIterator[B]:
    """Yields call(item) for every item in the order in which the calls finish; items are taken only when there is room.

    After an exception in a call no new item is taken; the calls in flight (already paid for) finish and are yielded,
    then the first exception is raised.
    """
    source = iter(items)
    running: set[asyncio.Task[B]] = set()
    failure: BaseException | None = None

    def fill() -> None:
        while failure is None and len(running) < size:
            try:
                item = next(source)
            except StopIteration:
                return
            running.add(asyncio.ensure_future(call(item)))

    try:
        fill()
        while running:
            done, pending = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running = set(pending)
            for task in done:
                failure = failure or task.exception()
            for task in done:
                if task.exception() is None:
                    yield task.result()
            fill()
        if failure is not None:
            raise failure
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
