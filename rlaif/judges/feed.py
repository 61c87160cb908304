"""Requests on their way to an engine: what an answer leads to is asked before anything new, and nothing waits for a round."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

R = TypeVar("R")


class Feed(Iterator[R]):
    """An iterator that can be refilled: after its end it goes on when requests were pushed.

    An engine that takes requests as it has room for them gets the follow-ups at once; one that takes all that are there
    gets them when it is called again.
    """

    def __init__(self, fresh: Iterable[R]) -> None:
        self._fresh = iter(fresh)
        self._pushed: deque[R] = deque()

    def push(self, requests: Iterable[R]) -> None:
        self._pushed.extend(requests)

    def __next__(self) -> R:
        return self._pushed.popleft() if self._pushed else next(self._fresh)

    def __bool__(self) -> bool:
        """Whether there is a request."""
        if not self._pushed:
            self._pushed.extend(islice(self._fresh, 1))
        return bool(self._pushed)
