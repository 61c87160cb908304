"""What is asked of a policy, and what it answers: token ids in and out, never text that would be tokenised again."""

import abc
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SampleRequest:
    """One prompt to sample responses of. seeds: one random stream for each response. opponents: so many of them, the last ones,
    are the opponent's."""

    key: str
    prompt: tuple[int, ...]
    seeds: tuple[int, ...]
    opponents: int = 0


@dataclass(frozen=True)
class Sampled:
    """One response. logps: of each token, in nats, under the (tempered) distribution it was drawn from.

    ids: with the stop token that ended it. stopped: by a stop token, not by the limit on tokens.
    """

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    stopped: bool


class Sampler(abc.ABC):
    """Where the responses of rollouts come from."""

    corrects = False
    """Whether its log-probs are so far from the trainer's (other kernels, another number format) that the learner corrects for
    the difference."""

    gap: float | None = None
    """The largest difference of its log-probs from the trainer's, in nats, found when it last took the weights; None if it
    uses them in place, or another process gave it them."""

    @abc.abstractmethod
    def sample(
        self, requests: Sequence[SampleRequest], known: Collection[str]
    ) -> AsyncIterator[list[tuple[SampleRequest, list[Sampled]]]]:
        """Yields some requests with their responses as they are ready, with the policy's present weights.

        known: keys of requests whose responses are known already. They may be left out, and may be given again.
        """

    async def refresh(self, step: int) -> None:  # noqa: B027 - one that uses the weights in place has nothing to do
        """Told that the policy's weights are now those after `step` optimiser steps."""

    async def rest(self) -> None:  # noqa: B027
        """Told that nothing more is sampled for now: it gives up what the learner can use, until it is asked again."""

    async def close(self) -> None:  # noqa: B027
        """Frees what it holds."""
