"""EvalBiasBench (Park et al. 2024, ncsoft/offsetbias): 80 pairs over six biases of judges."""

from collections.abc import Iterator
from pathlib import Path

from rlaif.errors import DataError
from rlaif.gold.records import GoldPair
from rlaif.gold.sources import Row, read_json
from rlaif.types import Message

FILES = ("biasbench.json",)


def rows(path: Path) -> Iterator[Row]:
    """The rows of all biases: the file is an object of lists. Numbers go on from list to list."""
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(part, list) for part in data.values()):
        raise DataError(f"{path}: expected a JSON object that has a list of pairs for each bias")
    every = [values for part in data.values() for values in part]
    yield from (Row(path, number, values) for number, values in enumerate(every, start=1))


def pairs(row: Row) -> Iterator[GoldPair]:
    """The pair of a row; the bias is its subset."""
    yield GoldPair(
        id=f"evalbiasbench/{row.number - 1}",
        messages=(Message(role="user", content=row.text("instruction")),),
        response_1=row.text("response1"),
        response_2=row.text("response2"),
        gold=row.one_of("label", {1: 1, 2: 2}),
        subset=f"evalbiasbench/{row.text('bias').replace('_', ' ')}",
    )
