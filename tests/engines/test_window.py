import asyncio
from collections.abc import Iterator

import pytest

from rlaif.engines.base import Request
from rlaif.engines.window import sliding_window
from rlaif.judges.feed import Feed
from rlaif.types import Message, Sampling


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


@pytest.mark.parametrize("turns", [0, 3])
async def test_the_next_call_has_sent_its_request_before_the_answer_is_looked_at(turns: int) -> None:
    """Even if it takes some turns of the event loop to send it, as HTTP does.

    Of three answers at once, too: each is followed by its successor, and none waits for what is done with the others.
    """
    events: list[str] = []
    together = asyncio.Event()

    async def call(item: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        events.append("call")
        await together.wait()
        return item

    async def collect() -> None:
        async for _ in sliding_window(range(6), call, 3):
            events.append("answer")

    collecting = asyncio.ensure_future(collect())
    while len(events) < 3:
        await asyncio.sleep(0)
    together.set()
    await collecting
    assert events[:9] == ["call"] * 3 + ["call", "answer"] * 3


async def test_one_item_is_taken_ahead_while_calls_are_under_way_and_no_more() -> None:
    taken = 0
    release = asyncio.Event()

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(10):
            taken += 1
            yield item

    async def call(item: int) -> int:
        await release.wait()
        return item

    seen = []

    async def collect() -> None:
        async for item in sliding_window(items(), call, 3):
            seen.append(item)

    collecting = asyncio.ensure_future(collect())
    for _ in range(20):
        await asyncio.sleep(0)
    assert taken == 4
    release.set()
    await collecting
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize("size", [1, 4])
async def test_items_that_come_of_answers_are_called_too(size: int) -> None:
    """Even those of the very last answer."""
    feed = Feed([request("1"), request("2")])

    async def call(item: Request) -> str:
        await asyncio.sleep(0)
        return item.key

    seen = []
    async for key in sliding_window(feed, call, size):
        seen.append(key)
        if len(key) < 3:
            feed.push([request(key + "a"), request(key + "b")])
    assert sorted(seen) == ["1", "1a", "1aa", "1ab", "1b", "1ba", "1bb", "2", "2a", "2aa", "2ab", "2b", "2ba", "2bb"]


def request(key: str) -> Request:
    return Request(key=key, messages=(Message(role="user", content=key),), sampling=Sampling())
