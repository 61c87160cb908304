"""The stored order of gold pairs: several public sets put the better answer first, which flatters who picks the first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from rlaif.gold.records import Gold, GoldPair
from rlaif.types import content_hash


@dataclass(frozen=True)
class Balance:
    """How often the better response of the decided pairs is stored first."""

    first: int
    second: int
    ties: int

    @property
    def first_share(self) -> float | None:
        """In [0, 1]; None if every pair is a tie."""
        decided = self.first + self.second
        return self.first / decided if decided else None


def balance_of(pairs: Iterable[GoldPair]) -> Balance:
    """The counts of gold 1, gold 2 and ties."""
    golds = [pair.gold for pair in pairs]
    return Balance(golds.count(1), golds.count(2), golds.count("tie"))


def balanced(pairs: Sequence[GoldPair]) -> list[GoldPair]:
    """The pairs, some of them swapped, so that the better response is stored first as often as second.

    In each subset the decided pairs, sorted by the hash of their ids, get gold 1 and 2 in turn: the counts differ by at
    most one, in each subset and altogether. It depends on the ids only, not on the order of the rows; doing it twice
    changes nothing. Ties stay as they are.
    """
    decided = sorted((pair for pair in pairs if pair.gold != "tie"), key=lambda p: (p.subset, content_hash(p.id), p.id))
    wanted: dict[str, Gold] = {pair.id: 1 if position % 2 == 0 else 2 for position, pair in enumerate(decided)}
    return [pair if pair.gold == wanted.get(pair.id, pair.gold) else pair.swap() for pair in pairs]


def sample(pairs: Sequence[GoldPair], limit: int, seed: int = 0) -> list[GoldPair]:
    """`limit` pairs drawn by (seed, id), the subsets and the two gold orders taken in turn; in their order in `pairs`.

    A larger limit keeps the pairs of a smaller one, so that votes already asked stay of use.
    """
    strata: dict[tuple[str, str], list[GoldPair]] = {}
    for pair in sorted(pairs, key=lambda pair: content_hash(seed, pair.id)):
        strata.setdefault((str(pair.gold), pair.subset), []).append(pair)
    turns = chain.from_iterable(zip_longest(*(strata[key] for key in sorted(strata))))
    taken = {pair.id for pair in [pair for pair in turns if pair is not None][:limit]}
    return [pair for pair in pairs if pair.id in taken]
