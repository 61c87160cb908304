"""Rewards of online training: any judge, ensemble, program or reward model, several with weights.

What a source's value is:

* judges that score (programs, pointwise, criteria and checklist judges): the ensemble's score, as `rlaif judge` gives it, in
  [0, 1];
* one reward model alone: its own reward, a number without unit or zero, which only compares within a prompt;
* judges that compare (pairwise, listwise): the mean margin in the response's favour over its comparisons in the group, in
  [-1, 1], and so 0 in the mean over a group where every two are compared; with a baseline, the margin against that answer.

Unlike `rlaif judge`, every vote is asked (no stopping rule ends a comparison early): here the margin itself counts, and not
only on which side of a gate it lies.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rlaif.engines import EngineConfig, Task, make_engine
from rlaif.engines.base import Engine
from rlaif.engines.kept import KeptOpen
from rlaif.errors import ConfigError
from rlaif.judges.ensemble import Ensemble, compares, load_ensemble
from rlaif.judges.judge import LLMJudge
from rlaif.judges.reward import RewardJudge
from rlaif.training.config.rewards import POLICY, SAFE_NAME, GroupComparisons, RewardSourceConfig, is_policy
from rlaif.training.online.baselines import load_baseline
from rlaif.training.online.groups import Group
from rlaif.training.online.source import Source
from rlaif.training.online.values import Scored
from rlaif.types import Response

if TYPE_CHECKING:
    from rlaif.training.online.policy_engine import PolicyEngine

__all__ = ["RewardSources", "Scored"]


class RewardSources:
    """The sources of a run, open for as long as it lasts and used on one event loop: `async with sources: ...`.

    Engines open when they are first needed, stay open until the end, and are shared by sources with the same model. Every
    judgment is in <folder>/<source name>/judgments.jsonl before anything is derived from it, and is not asked again by a
    continued run.
    """

    def __init__(
        self,
        configs: Sequence[RewardSourceConfig],
        folder: Path,
        *,
        judge_model: EngineConfig | None = None,
        patience_minutes: float = 10,
        engines: Mapping[str, Engine] | None = None,
        policy: "PolicyEngine | None" = None,
    ) -> None:
        """Loads all judges. Raises ConfigError for whatever is wrong in them, before anything is trained.

        judge_model: of judges that are named no model anywhere else. patience_minutes: how long an endpoint that gives no
        answer is asked again, with growing pauses. engines: already made ones by judge name, instead of those the
        configurations describe. policy: who answers for judges whose model is POLICY.
        """
        self._policy = policy
        self._engines: dict[str, KeptOpen] = {}
        given = {name: self._kept(f"given {id(engine)}", engine) for name, engine in (engines or {}).items()}
        loaded = [(config, _read_by(_load(config, judge_model), policy)) for config in configs]
        self._sources = [
            Source(
                name=config.name or ensemble.name,
                weight=config.weight,
                ensemble=ensemble,
                comparisons=_comparisons(config, ensemble),
                baseline=load_baseline(config.baseline) if config.baseline is not None else None,
                folder=folder / (config.name or ensemble.name),
                engines={judge.name: given.get(judge.name) or self._engine(judge) for judge in _asked(ensemble)},
                patience_seconds=60 * patience_minutes,
            )
            for config, ensemble in loaded
        ]
        _check_names(self.names)
        self._exits = AsyncExitStack()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self._sources)

    @property
    def weights(self) -> dict[str, float]:
        """Of each source, by name; a negative one makes a penalty."""
        return {source.name: source.weight for source in self._sources}

    @property
    def within_groups(self) -> tuple[str, ...]:
        """The sources that compare the responses of a group, and so have no value for a prompt with a single one."""
        return tuple(source.name for source in self._sources if source.comparisons in ("ring", "all"))

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as exits:
            for source in self._sources:
                source.open()
                exits.callback(source.close)
            for engine in self._engines.values():
                exits.push_async_callback(engine.shut)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes engines and journals. No call of `score` may still be under way."""
        await self._exits.aclose()

    async def score(self, groups: Sequence[Sequence[Response]]) -> list[list[dict[str, Scored]]]:
        """What each source says of each response: by group, response and source name.

        A group holds the responses to one prompt; equal ids mean equal texts, and equal texts are asked about once. Sources
        work at the same time; a call made while another is under way is judged together with what else waits.

        A vote that can not be read, a request that is refused and a response that is too long for a judge give no value,
        with the reason. Where an endpoint gives no answer it is asked again; raises OutageError after patience_minutes, and
        other errors of engines (a refused key, a budget that is used up) at once. What was answered is kept in any case,
        and no source is interrupted because of another.
        """
        asked = [Group(tuple(group)) for group in groups]
        columns = await asyncio.gather(*(source.score(asked) for source in self._sources), return_exceptions=True)
        scored: list[list[list[Scored]]] = []
        for column in columns:
            if isinstance(column, BaseException):
                raise column
            scored.append(column)
        return [
            [
                {name: column[place][row] for name, column in zip(self.names, scored, strict=True)}
                for row in range(len(group))
            ]
            for place, group in enumerate(groups)
        ]

    @property
    def judges(self) -> list[LLMJudge | RewardJudge]:
        """Those that a model answers for."""
        return [judge for source in self._sources for judge in _asked(source.ensemble)]

    def _engine(self, judge: LLMJudge | RewardJudge) -> KeptOpen:
        task: Task = "score" if isinstance(judge, RewardJudge) else "generate"
        if is_policy(judge.engine) and task == "score":
            raise ConfigError(
                f"{judge.name}: the policy writes text and is no reward model; name one, or use another judge"
            )
        if is_policy(judge.engine) and self._policy is not None:
            return self._kept(POLICY, self._policy)
        key = f"{task} {judge.engine.model_dump_json()}"
        return self._engines.get(key) or self._kept(key, make_engine(judge.engine, task))

    def _kept(self, key: str, engine: Engine) -> KeptOpen:
        return self._engines.setdefault(key, KeptOpen(engine))


def _load(config: RewardSourceConfig, judge_model: EngineConfig | None) -> Ensemble:
    """The judge of a source, so that it asks every vote and compares only if a judge that has a say does."""
    model = config.judge_model
    ensemble = load_ensemble(
        config.judge,
        votes=config.votes,
        models=(model,) if model is not None else (),
        comparisons="ring" if config.comparisons in ("ring", None) else "all",
        stop="all",
        otherwise=judge_model,
    )
    if ensemble.humans:
        raise ConfigError(
            f"the reward '{config.judge}': people ({ensemble.humans[0].name}) can not label what is not sampled yet; use a "
            "program, a model, or a reward model trained on their labels (rlaif train rm)"
        )
    deciding = [judge for judge in ensemble.judges if judge.weight]
    if any(compares(judge) for judge in deciding):
        only_ranks = not any(judge.weight for judge in ensemble.pairwise)
        return replace(ensemble, comparisons="all") if only_ranks else ensemble
    if not any(judge.weight > 0 for judge in deciding):
        raise ConfigError(
            f"the reward '{config.judge}': none of its judges that score has a weight above 0, so it has no score; give the "
            "source itself a negative weight to make a penalty of it"
        )
    return replace(ensemble, comparisons=None)


def _read_by(ensemble: Ensemble, policy: "PolicyEngine | None") -> Ensemble:
    """The ensemble, its judges knowing whose tokenizer reads what the policy is asked."""
    if policy is None:
        return ensemble
    judges = tuple(
        replace(judge, read_by=policy.start) if isinstance(judge, LLMJudge) and is_policy(judge.engine) else judge
        for judge in ensemble.judges
    )
    return replace(ensemble, judges=judges)


def _comparisons(config: RewardSourceConfig, ensemble: Ensemble) -> GroupComparisons | None:
    """What is compared, None for judges that score. Raises ConfigError where comparisons are asked of those."""
    if ensemble.comparisons is None:
        if config.comparisons is not None:
            raise ConfigError(
                f"the reward '{config.judge}' scores single responses, so comparisons: {config.comparisons} means nothing "
                "there; leave it out, or use a judge that compares (pairwise or listwise)"
            )
        return None
    if config.comparisons == "baseline":
        return "baseline"
    return "ring" if ensemble.comparisons == "ring" else "all"


def _asked(ensemble: Ensemble) -> tuple[LLMJudge | RewardJudge, ...]:
    """The judges that need an engine."""
    return (*ensemble.rewards, *ensemble.llms)


def _check_names(names: Sequence[str]) -> None:
    """Raises ConfigError unless names tell the sources apart, and can be those of folders."""
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two rewards are called '{name}'; name one of them otherwise (name: ...)")
        if not re.match(SAFE_NAME, name):
            raise ConfigError(
                f"the reward '{name}' can not be the name of a folder; give it one (name: ...) of letters, digits and _ . @ -"
            )
