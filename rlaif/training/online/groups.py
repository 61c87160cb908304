"""What a source is asked about: the responses of one prompt, each text once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from rlaif.types import Response


@dataclass(frozen=True)
class Group:
    """The responses that were sampled of one prompt. Equal ids mean equal texts."""

    responses: tuple[Response, ...]

    @cached_property
    def distinct(self) -> tuple[Response, ...]:
        """The first response of each text, in the order in which they were sampled."""
        return tuple({response.text: response for response in reversed(self.responses)}.values())[::-1]

    @cached_property
    def copies(self) -> Counter[str]:
        """How many responses have each text."""
        return Counter(response.text for response in self.responses)


@dataclass(frozen=True)
class Shown:
    """Groups as a session goes through them, in their order and each in its own."""

    shown: Sequence[Sequence[Response]]

    def __len__(self) -> int:
        return sum(len(group) for group in self.shown)

    def groups(self) -> Iterator[list[Response]]:
        for group in self.shown:
            yield list(group)

    def models(self) -> set[str]:
        return {response.model for group in self.shown for response in group}

    def prompts(self) -> int:
        return len(self.shown)
