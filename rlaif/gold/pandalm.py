"""PandaLM's test set (Wang et al. 2024, WeOpenML/PandaLM): 999 pairs, each labelled by three people.

The gold label is what at least two of the three say (0 is a tie). Where all three differ there is none, and where a
response is not a text the row is unusable: both are listed.
"""

from collections import Counter
from collections.abc import Iterator

from rlaif.gold.records import Gold, GoldPair
from rlaif.gold.sources import Row, Unusable
from rlaif.types import Message

FILES = ("testset-v1.json",)
LABELS: dict[int, Gold] = {0: "tie", 1: 1, 2: 2}


def pairs(row: Row) -> Iterator[GoldPair]:
    """The pair of a row."""
    labels = tuple(row.one_of(f"annotator{number}", LABELS) for number in (1, 2, 3))
    instruction, extra = row.text("instruction"), row.text("input")
    yield GoldPair(
        id=f"pandalm/{row.values.get('idx', row.number - 1)}",
        messages=(Message(role="user", content=f"{instruction}\n\n{extra}" if extra else instruction),),
        response_1=row.text("response1"),
        response_2=row.text("response2"),
        gold=majority(labels),
        subset="pandalm",
        labels=labels,
        metadata={"models": row.values.get("cmp_key"), "motivation_app": row.values.get("motivation_app")},
    )


def majority(labels: tuple[Gold, ...]) -> Gold:
    """The label that more than half gave. Raises Unusable if none has."""
    label, count = Counter(labels).most_common(1)[0]
    if 2 * count <= len(labels):
        raise Unusable(f"no majority among the annotators ({', '.join(map(str, labels))})")
    return label
