"""The judges of an online run, as its configuration names them."""

from collections.abc import Sequence

from rlaif.errors import ConfigError
from rlaif.training.config.online import OnlineConfig
from rlaif.training.config.rewards import RewardSourceConfig
from rlaif.training.online.rewards import RewardSources
from rlaif.training.ranks import rank


def reward_sources(config: OnlineConfig) -> tuple[RewardSources, RewardSources | None]:
    """The judges of a run's rewards, and those that watch. Raises ConfigError if there are none, or one can not be what it is
    named for."""
    if not config.rewards:
        raise ConfigError(
            "rewards: name at least one judge by --reward, or under rewards in the preset ('rlaif ls judges' lists them)"
        )

    def load(rewards: Sequence[RewardSourceConfig], folder: str) -> RewardSources:
        own = config.output / folder / f"process-{rank()}"  # each process has a journal of its own
        return RewardSources(rewards, own, judge_model=config.judge_model, patience_minutes=config.patience_minutes)

    sources, watch = load(config.rewards, "rewards"), load(config.watch, "watch") if config.watch else None
    _check_groups("rewards", sources, config.group_size)
    if watch is not None:
        _check_groups("watch", watch, 1)
        if shared := sorted(set(sources.names) & set(watch.names)):
            raise ConfigError(f"watch: '{shared[0]}' is the name of a reward too; give one of them another (name: ...)")
    return sources, watch


def _check_groups(where: str, sources: RewardSources, size: int) -> None:
    """Raises ConfigError for judges that compare responses to a prompt of which there is one."""
    if size == 1 and (names := sources.within_groups):
        raise ConfigError(
            f"{where}: '{names[0]}' compares the responses to a prompt, and each has one here; compare it with a fixed answer "
            "(comparisons: baseline), or use a judge that scores"
        )
