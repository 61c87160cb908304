import asyncio

import pytest

from rlaif.engines.window import sliding_window


async def test_never_more_than_the_window_is_in_flight_and_every_item_is_answered() -> None:
    running = most = 0

    async def call(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (item % 3))
        running -= 1
        return item

    assert sorted([item async for item in sliding_window(range(50), call, 7)]) == list(range(50))
    assert most == 7


async def test_a_slow_call_holds_nobody_up() -> None:
    release = asyncio.Event()

    async def call(item: int) -> int:
        if item == 0:
            await release.wait()
        return item

    seen = []
    async for item in sliding_window(range(20), call, 2):
        seen.append(item)
        if len(seen) == 19:
            release.set()
    assert seen[-1] == 0


async def test_after_an_error_what_is_in_flight_is_still_yielded_and_nothing_new_is_asked() -> None:
    asked = []

    async def call(item: int) -> int:
        asked.append(item)
        await asyncio.sleep(0.01 if item else 0)
        if item == 0:
            raise ValueError("budget")
        return item

    seen = []

    async def collect() -> None:
        async for item in sliding_window(range(100), call, 3):
            seen.append(item)

    with pytest.raises(ValueError, match="budget"):
        await collect()
    assert sorted(seen) == [1, 2]
    assert asked == [0, 1, 2]
