"""What a format of verdicts is: which texts of a judge's answer are verdicts, and what they mean."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rlaif.types import NoOutcome

Kind = Literal["pairwise", "pointwise", "ratings", "listwise"]
"""pairwise: which shown response is better; pointwise: a score of one; ratings: a score of each, whose order decides;
listwise: all that are shown, best first."""
Mode = Literal["strict", "lenient"]
FormatName = Literal[
    "label",
    "mt-bench-pair",
    "mt-bench-single",
    "mt-bench-ratings",
    "arena-hard",
    "alpaca-eval",
    "prometheus-absolute",
    "prometheus-relative",
    "ultrafeedback-aspects",
    "ultrafeedback-critique",
    "judgelm",
    "pandalm",
    "llmbar",
    "rewardbench",
    "g-eval",
    "cai-choice",
    "auto-j",
    "ranking",
]

DECORATION = " \t\r\n*_`'\".,:;()[]"
"""What may stand around a verdict that is the whole answer or a whole line."""


@dataclass(frozen=True)
class Choice:
    """One of the shown responses is preferred, by its position; position None is a tie."""

    position: int | None
    strength: float = 1.0
    """In (0, 1]: below 1 where the format has weaker sides."""


@dataclass(frozen=True)
class Ratings:
    """A number for each shown response in their order, within the scale; None where the judge rated it 'N/A'."""

    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Order:
    """All shown responses by their position, best first; those of one tier are equally good."""

    tiers: tuple[tuple[int, ...], ...]


Meaning = Choice | Ratings | Order
Found = Meaning | None
"""A verdict in a text; None is one that was not offered."""


@dataclass(frozen=True)
class Offer:
    """What a judge was asked to say: what the shown responses are called, or the scale of the scores."""

    labels: tuple[str, ...] = ()
    """Of the shown responses in their order; none where the verdict is a score."""
    tie: str | None = None
    """The label of a tie, if one may be voted."""
    scale: tuple[int, int] | None = None
    """Worst and best score."""
    texts: int = 2
    """How many responses are shown."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Every verdict that is a single label: the labels and the tie, or the whole numbers of the scale."""
        if self.labels:
            return self.labels if self.tie is None else (*self.labels, self.tie)
        return tuple(str(score) for score in range(self.scale[0], self.scale[1] + 1)) if self.scale else ()

    def meaning(self, label: str) -> Found:
        """What a label stands for, None if it was not offered."""
        if label in self.labels:
            return Choice(self.labels.index(label))
        if label == self.tie:
            return Choice(None)
        is_score = not self.labels and self.scale is not None and re.fullmatch(r"-?\d{1,9}", label)
        if is_score and self.scale and self.scale[0] <= int(label) <= self.scale[1] and str(int(label)) == label:
            return Ratings((float(label),))
        return None

    def like(self, label: str) -> Found:
        """The same whatever the case, where no two labels differ in their case alone."""
        if len({choice.casefold() for choice in self.choices}) < len(self.choices):
            return self.meaning(label)
        return next((self.meaning(own) for own in self.choices if own.casefold() == label.casefold()), None)


Finder = Callable[[str, Offer], Sequence[Found]]
"""All verdicts of one form in a text, in their order; none if the form does not occur."""


@dataclass(frozen=True)
class Format:
    """One way in which judges write their verdict."""

    name: FormatName
    kinds: tuple[Kind, ...]
    form: Callable[[Offer], str]
    """The verdict's form in words, as a judge is asked for it."""
    strict: Finder
    """The anchored form, exactly."""
    lenient: tuple[Finder, ...]
    """Tolerated forms, the best anchored first: the first that occurs in a text is read."""
    labels: tuple[str, str] | None = None
    """What the format calls the two responses; None: what the judge calls them."""
    tie: str | None = None
    """What it calls a tie; None: it has none, or the judge names it (where `labels` is None)."""
    scale: tuple[int, int] | None = None
    """The scale of its scores, unless the judge has another."""
    single: Callable[[Offer], tuple[str, ...]] | None = None
    """The answers to which a judge can be constrained, in the order of `Offer.choices`; None: it must write a text."""
    tie_within: float = 0.0
    """Ratings at most this far apart are a tie."""
    syntax: re.Pattern[str] | None = None
    """What looks like this format's verdict inside a response; None where it can not be told from ordinary text."""


class Reading(NamedTuple):
    """What a judge's answer says: a meaning, or None with the reason."""

    meaning: Meaning | None
    reason: NoOutcome | None
