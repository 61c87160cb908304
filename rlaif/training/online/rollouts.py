"""Rollouts: prompts are answered by the policy and rewarded by judges, everything written down before it is learnt from."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from rlaif.errors import OutageError, RlaifError, TrainError
from rlaif.journal import Journal
from rlaif.training.config.online import OnlineConfig
from rlaif.training.online.answers import (
    Group,
    GroupRecord,
    RewardRecord,
    SampledRecord,
    group_of,
    response_of,
)
from rlaif.training.online.background import Background
from rlaif.training.online.prompts import PromptRows, PromptStream
from rlaif.training.online.rewards import RewardSources
from rlaif.training.online.samples import Sampled, Sampler, SampleRequest
from rlaif.training.ranks import gathered, met, rank, world_size
from rlaif.types import Response, Sampling, content_hash

SAMPLES_FILE, REWARDS_FILE = "samples.jsonl", "rewards.jsonl"
HELD_OUT = "held-out "
"""What the keys of responses to held-out prompts begin with, before the step."""


@dataclass(frozen=True)
class Rollout:
    """What one rollout came to. cursor: where in the stream of prompts the next one begins. barren: groups that were left out
    because their rewards were all one."""

    groups: tuple[Group, ...]
    cursor: int
    barren: int = 0


class Rollouts:
    """Makes rollouts. Opened once for a run; each process answers its share of the prompts."""

    def __init__(
        self,
        config: OnlineConfig,
        rows: PromptRows,
        trained: Sequence[int],
        sampler: Sampler,
        decode: Callable[[Sequence[int]], str],
        sources: RewardSources,
        background: Background,
        watch: RewardSources | None = None,
    ) -> None:
        """trained: the indexes of the prompts that are trained on. decode: the text of a response's token ids. watch: judges
        that are asked about held-out prompts only."""
        self.config, self.rows, self.sampler, self.decode, self.sources = config, rows, sampler, decode, sources
        self.watch = watch
        self.stream = PromptStream(tuple(trained), config.seed)
        self._background = background
        self._folder = config.output / "rollouts" / f"process-{rank()}"
        self._sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens, seed=config.seed)
        self._engine_name = type(sampler).__name__.removesuffix("Sampler").lower()
        self._step = 0
        self._begun: tuple[list[tuple[int, int]], Future[list[Group]]] | None = None
        """The prompts of a rollout that is under way, and what will come of it."""
        self._samples: Journal[GroupRecord]
        self._rewards: Journal[RewardRecord]

    def open(self) -> None:
        """Opens the journals, on the loop that uses them."""
        self._background.run(self._open())

    def close(self) -> None:
        """Closes judges, sampler and journals; a rollout that is under way is given up."""
        if self._begun is not None:
            self._begun[1].cancel()
            wait_for([self._begun[1]])
        self._background.run(self._close())

    async def _open(self) -> None:
        self._samples = Journal(self._folder / SAMPLES_FILE, GroupRecord)
        self._rewards = Journal(self._folder / REWARDS_FILE, RewardRecord)
        for sources in self._all_sources:
            await sources.__aenter__()

    async def _close(self) -> None:
        async with AsyncExitStack() as exits:  # each is closed although another fails
            exits.callback(self._samples.close)
            exits.callback(self._rewards.close)
            exits.push_async_callback(self.sampler.close)
            for sources in self._all_sources:
                exits.push_async_callback(sources.__aexit__, None, None, None)

    @property
    def _all_sources(self) -> list[RewardSources]:
        return [self.sources, *([self.watch] if self.watch is not None else [])]

    def refresh(self, step: int) -> None:
        """Tells the sampler that the weights are those after `step` steps; in every process before any of them samples. What
        was begun before is ended first: it is sampled with the weights it began with."""
        if self._begun is not None:
            wait_for([self._begun[1]])
        problem: RlaifError | None = None
        try:
            self._background.run(self.sampler.refresh(step))
        except RlaifError as error:
            problem = error
        self._step = step
        _agree(problem)

    @property
    def has_begun(self) -> bool:
        """Whether a rollout is under way."""
        return self._begun is not None

    def begin(self, cursor: int) -> None:
        """Begins the rollout at a position of the stream with the present weights; `collect` takes it later."""
        chosen = self.stream.take(cursor, self.config.prompts_per_rollout)
        own = self._answer(chosen[rank() :: world_size()], self.config.group_size, "")
        self._begun = (chosen, self._background.start(own))

    def collect(self, cursor: int) -> Rollout:
        """The rollout that begins at a position of the stream. What the journal has is taken from it.

        With dynamic sampling, groups of one reward are left out and other prompts answered in their place, so often as
        the configuration allows. Raises OutageError for a judge that stays away, in every process.
        """
        config = self.config
        kept: list[Group] = []
        barren = 0
        for _ in range(config.dynamic_sampling + 1):
            missing = config.prompts_per_rollout - len(kept)
            groups = self.answer(self.stream.take(cursor, missing), config.group_size)
            cursor += missing
            useful = [group for group in groups if group.teaches] if config.dynamic_sampling else groups
            kept += useful
            barren += len(groups) - len(useful)
            if len(kept) == config.prompts_per_rollout:
                break
        return Rollout(tuple(kept), cursor, barren)

    def evaluate(self, step: int, held_out: Sequence[int]) -> list[Group]:
        """One response to each held-out prompt by the policy after `step` steps, rewarded, and seen by the judges that watch.
        Each prompt has the same random stream in every evaluation."""
        return self.answer(list(enumerate(held_out)), 1, salt=f"{HELD_OUT}{step} ")

    def answer(self, chosen: Sequence[tuple[int, int]], size: int, salt: str = "") -> list[Group]:
        """The prompts (position, index) with `size` responses each, in this order and the same in every process.

        salt: names what else than a rollout they are for.
        """
        error: RlaifError | None = None
        found: list[Group] = []
        try:
            if self._begun is not None and self._begun[0] == list(chosen) and not salt:
                begun, self._begun = self._begun[1], None
                found = begun.result()
            else:
                own = list(chosen)[rank() :: world_size()]
                found = self._background.run(self._answer(own, size, salt))
        except RlaifError as caught:
            error = caught
        _agree(error)
        place = {position: number for number, (position, _) in enumerate(chosen)}
        everyone = [group for part in gathered(found) for group in part]
        return sorted(everyone, key=lambda group: place[group.position])

    async def _answer(self, chosen: Sequence[tuple[int, int]], size: int, salt: str) -> list[Group]:
        requests = {self._key(position, salt): self._request(position, index, size, salt) for position, index in chosen}
        place = {self._key(position, salt): (position, index) for position, index in chosen}
        known, step = {key for key in requests if self._samples.get(key) is not None}, self._step
        judging = [asyncio.create_task(self._rewarded(sorted(known, key=list(requests).index), place))]
        try:
            if len(known) < len(requests):
                async for batch in self.sampler.sample(list(requests.values()), known):
                    fresh = [self._write(request, answers, place, step) for request, answers in batch]
                    judging.append(asyncio.create_task(self._rewarded([key for key in fresh if key], place)))
            await self.sampler.rest()
            await asyncio.gather(*judging)
        except BaseException:
            for task in judging:
                task.cancel()
            await asyncio.gather(*judging, return_exceptions=True)
            raise
        return [self._group(key, *place[key]) for key in requests]

    def _key(self, position: int, salt: str) -> str:
        return f"{salt}{position}"

    def _request(self, position: int, index: int, size: int, salt: str) -> SampleRequest:
        row = self.rows.rows[index]
        seeds = tuple(
            int(content_hash(self.config.seed, bool(salt), position, row.id, number, length=15), 16)
            for number in range(size)
        )
        return SampleRequest(self._key(position, salt), row.prompt, seeds, 0 if salt else self.config.opponents)

    def _write(
        self, request: SampleRequest, answers: Sequence[Sampled], place: Mapping[str, Any], step: int
    ) -> str | None:
        """Writes the responses to a prompt by the policy after `step` steps; gives back its key, None if they were there."""
        if self._samples.get(request.key) is not None:
            return None
        _, index = place[request.key]
        own = len(answers) - request.opponents
        responses = tuple(
            SampledRecord(
                text=self.decode(item.ids),
                ids=item.ids,
                logps=item.logps,
                stopped=item.stopped,
                by_opponent=number >= own,
            )
            for number, item in enumerate(answers)
        )
        prompt_id = self.rows.rows[index].id
        self._samples.add(GroupRecord(id=request.key, prompt_id=prompt_id, policy_step=step, responses=responses))
        return request.key

    async def _rewarded(self, keys: Sequence[str], place: Mapping[str, tuple[int, int]]) -> None:
        """Has the judges say what the responses to some prompts are worth, unless the journal knows."""
        missing = [key for key in keys if self._rewards.get(key) is None]
        if not missing:
            return
        groups = [self._responses(key, *place[key]) for key in missing]
        asked = self._all_sources if missing[0].startswith(HELD_OUT) else [self.sources]
        by_source = await asyncio.gather(*(sources.score(groups) for sources in asked))
        for key, *parts in zip(missing, *by_source, strict=True):
            scores = [{name: one for found in each for name, one in found.items()} for each in zip(*parts, strict=True)]
            record = RewardRecord(
                id=key,
                values=tuple({name: found.value for name, found in one.items()} for one in scores),
                reasons=tuple(
                    {name: found.reason for name, found in one.items() if found.value is None and found.reason}
                    for one in scores
                ),
            )
            self._rewards.add(record)

    def _responses(self, key: str, position: int, index: int) -> list[Response]:
        record = self._samples.get(key)
        assert record is not None
        prompt = self.rows.prompt(self.rows.rows[index])
        return [
            response_of(
                prompt, position, number, one, self.config.model, self._sampling, self._engine_name, record.policy_step
            )
            for number, one in enumerate(record.responses)
        ]

    def _group(self, key: str, position: int, index: int) -> Group:
        samples, rewards = self._samples.get(key), self._rewards.get(key)
        assert samples is not None
        assert rewards is not None
        if samples.prompt_id != self.rows.rows[index].id:
            raise TrainError(
                f"{self._folder / SAMPLES_FILE}: {key} are responses to {samples.prompt_id}, and the run has another "
                f"prompt there ({self.rows.rows[index].id}); start over with --overwrite"
            )
        weights = self.sources.weights
        if key.startswith(HELD_OUT):  # one response to each prompt, so there is nothing to compare it with
            weights = {name: weight for name, weight in weights.items() if name not in self.sources.within_groups}
        return group_of(position, index, samples, rewards, weights)


def _agree(problem: RlaifError | None) -> None:
    """Waits for all processes, and raises the problem of any of them in each: an outage as one, since then all save."""
    found = met(f"{type(problem).__name__}\n{problem}" if problem is not None else None)
    if problem is not None:
        raise problem
    if found is not None:
        kind, message = found.split("\n", 1)
        raise OutageError(message) if kind == "OutageError" else TrainError(message)
