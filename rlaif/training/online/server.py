"""Rollouts by vLLM, in a server beside the trainer or in the run itself: each step's policy, an adapter or all weights, is
loaded under a new name, checked, and the last one removed.

A new name, because vLLM keys its prefix cache by an adapter's name: under the old one it would go on from keys and values of
old weights. Of whole weights the name is the version by which vLLM labels what they answer.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlaif.errors import EngineError
from rlaif.training.online.samples import Sampled, Sampler, SampleRequest
from rlaif.types import content_hash

WHOLE = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""The whole distribution: a server takes from the model's own files what a request does not say."""
PROBE_TOKENS = 8


class Vllm(Protocol):
    """Who is given policies by name, and answers with them: a server or vLLM in the run, in the form of adapters or of whole
    weights. What it refuses raises EngineError."""

    shown: str
    """How it is called in messages."""
    must: str
    """What it must be and do, for its log-probs to be the policy's."""

    async def loaded(self) -> list[str]:
        """The names it answers to."""

    async def load(self, name: str, folder: Path) -> None:
        """Takes the policy in `folder` under a new name."""

    async def unload(self, name: str) -> None:
        """Forgets a policy; one that it does not have is well."""

    async def forget(self, name: str) -> bool:
        """As `unload`, for a run that ends: without an error, and whether it is done."""

    async def complete(self, body: Mapping[str, Any]) -> list[Sampled] | None:
        """The responses to a prompt (`ServerSampler` makes the body); None if it does not have the policy that is asked."""

    async def wake(self) -> None:
        """Before it is asked for anything."""

    async def rest(self) -> None:
        """It is not asked until it is woken."""

    async def close(self) -> None: ...


@dataclass(frozen=True)
class ServerSettings:
    """folder: where policies are written for vLLM to read. attempt: a word that no earlier start of this run had, the same in
    all its processes. tolerance: most that a log-prob of vLLM's may differ from the trainer's, in nats, when a policy was
    loaded."""

    folder: Path
    attempt: str
    temperature: float
    max_tokens: int
    concurrency: int
    tolerance: float


class ServerSampler(Sampler):
    """Samples with vLLM. Used on one event loop."""

    corrects = True

    def __init__(
        self,
        settings: ServerSettings,
        server: Vllm,
        stops: Collection[int],
        probe: tuple[int, ...],
        *,
        save: Callable[[Path], None],
        score: Callable[[tuple[int, ...], tuple[int, ...]], Sequence[float]],
        loads: bool = True,
    ) -> None:
        """probe: a prompt by which a loaded policy is checked. save: writes the present one into a folder. score: the
        trainer's log-probs of a response (ids) to a prompt (ids). loads: whether this process loads the policies, as one of
        several does for all.
        """
        self.settings, self.server, self.stops, self.probe = settings, server, sorted(stops), probe
        self._save, self._score, self._loads = save, score, loads
        self._name = ""
        self._held: list[str] = []
        """What this process loaded and has not unloaded."""
        self._slots = asyncio.Semaphore(settings.concurrency)

    @property
    def run_prefix(self) -> str:
        """What the names of all policies of this run begin with, and no other run's."""
        return f"rlaif-{content_hash(str(self.settings.folder.resolve()), length=8)}-"

    async def refresh(self, step: int) -> None:
        name = f"{self.run_prefix}{self.settings.attempt}-{step}"
        if name == self._name:
            return
        begins, self._name = not self._name, name
        if not self._loads:
            return
        if begins:
            await self._remove_leftovers()
        earlier = tuple(self._held)
        folder = self.settings.folder / name
        await asyncio.to_thread(self._save, folder)
        self._held.append(name)
        await self.server.load(name, folder)
        self.gap = await self._checked_gap()
        for one in earlier:
            await self.server.unload(one)
            self._held.remove(one)
            shutil.rmtree(self.settings.folder / one)

    async def rest(self) -> None:
        await self.server.rest()

    async def close(self) -> None:
        """Unloads what is loaded, as far as the server answers: the next start of the run removes what is left there."""
        for name in self._held:
            if not await self.server.forget(name):
                break
        if self._loads:
            shutil.rmtree(self.settings.folder, ignore_errors=True)
        await self.server.close()

    async def sample(
        self, requests: Sequence[SampleRequest], known: Collection[str]
    ) -> AsyncIterator[list[tuple[SampleRequest, list[Sampled]]]]:
        await self.server.wake()
        missing = [request for request in requests if request.key not in known]
        tasks = [asyncio.create_task(self._answers(request)) for request in missing]
        try:
            for finished in asyncio.as_completed(tasks):
                yield [await finished]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answers(self, request: SampleRequest) -> tuple[SampleRequest, list[Sampled]]:
        async with self._slots:
            body = self._body(request.prompt, len(request.seeds), self.settings.max_tokens, request.seeds[0])
            return request, await self._complete(body)

    def _body(self, prompt: tuple[int, ...], n: int, max_tokens: int, seed: int) -> dict[str, Any]:
        """vLLM gives each of the n responses a seed of its own, made from this one."""
        return {
            "model": self._name, "prompt": list(prompt), "n": n, "max_tokens": max_tokens, "seed": seed % 2**31,
            "temperature": self.settings.temperature, **WHOLE, "logprobs": 0, "return_token_ids": True,
            "stop_token_ids": self.stops, "add_special_tokens": False,
        }  # fmt: skip

    async def _complete(self, body: dict[str, Any]) -> list[Sampled]:
        found = await self.server.complete(body)
        if found is None:  # it was started anew since the policy was loaded
            await self.server.load(self._name, self.settings.folder / self._name)
            found = await self.server.complete(body)
        if found is None:
            raise EngineError(
                f"{self.server.shown} takes the policy {self._name}, and then does not answer with it; does another run use it?"
            )
        return found

    async def _checked_gap(self) -> float:
        """The largest difference between log-probs with the loaded policy, there and here, in nats. Raises EngineError if it
        is above the tolerance."""
        settings = self.settings
        body = self._body(self.probe, 1, min(PROBE_TOKENS, settings.max_tokens), 0)
        (one,) = await self._complete(body)
        own = await asyncio.to_thread(self._score, self.probe, one.ids)
        gaps = [abs(here - there) for here, there in zip(own, one.logps, strict=True)]
        if all(gap <= settings.tolerance for gap in gaps):  # not by max(), which may pass over a NaN
            return max(gaps)
        raw = (
            f" At a temperature other than 1 (here {settings.temperature:g}) it must be started with --logprobs-mode "
            "processed_logprobs, since what vLLM says otherwise is of temperature 1."
        )
        raise EngineError(
            f"{self.server.shown} answers with other log-probs than the policy it was given ({self._name}): they "
            f"differ by up to {max(gaps):.3g} nats, and {settings.tolerance:g} is allowed (rollouts.tolerance). "
            f"{self.server.must}{raw if settings.temperature != 1 else ''}"
        )

    async def _remove_leftovers(self) -> None:
        """Removes the policies that an earlier start of this run left with vLLM and on disk when it was killed."""
        for name in await self.server.loaded():
            if name.startswith(self.run_prefix):
                await self.server.unload(name)
        shutil.rmtree(self.settings.folder, ignore_errors=True)
