"""Progress of long work, on standard error: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

SECONDS_BETWEEN_LINES = 15.0


def say(message: str) -> None:
    """One line for the user on standard error (standard output is for results), from the first of several processes."""
    if is_first():
        print(message, file=sys.stderr, flush=True)


def say_new(notices: Sequence[str], said: int, of: str) -> int:
    """Says the notices after the first `said`, each with whom it is of; gives back how many are said now."""
    for notice in notices[said:]:
        say(f"{of}: {notice}")
    return len(notices)


def is_first() -> bool:
    """Whether this is the only process of the command, or the first that a launcher started."""
    return int(os.environ.get("RANK") or 0) == 0


@contextlib.contextmanager
def progress(description: str, total: int, unit: str, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of units just done. shown: False for work inside of work that is shown."""
    if not shown:
        yield lambda count: None
    elif sys.stderr.isatty() and is_first():
        with _bar(description, total, unit) as advance:
            yield advance
    else:
        yield _lines(description, total, unit)


@contextlib.contextmanager
def _bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


def _lines(description: str, total: int, unit: str) -> Callable[[int], None]:
    started = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        if not count:
            return
        done += count
        now = time.monotonic()
        if done >= total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            say(f"{description}: {done} of {total} {unit}, {now - started:.0f} s")

    return advance
