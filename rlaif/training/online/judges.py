"""The judges of an online run, as its configuration names them."""

from collections.abc import Sequence

from rlaif.errors import ConfigError
from rlaif.training.config.online import OnlineConfig
from rlaif.training.config.rewards import RewardSourceConfig
from rlaif.training.online.rewards import RewardSources
from rlaif.training.ranks import rank


def reward_sources(config: OnlineConfig) -> tuple[RewardSources, RewardSources | None]:
    """The judges of a run's rewards, and those that watch. Raises ConfigError if there are none, or one can not be loaded."""
    if not config.rewards:
        raise ConfigError(
            "rewards: name at least one judge by --reward, or under rewards in the preset ('rlaif ls judges' lists them)"
        )

    def load(rewards: Sequence[RewardSourceConfig], folder: str) -> RewardSources:
        own = config.output / folder / f"process-{rank()}"  # each process has a journal of its own
        return RewardSources(rewards, own, patience_minutes=config.patience_minutes)

    return load(config.rewards, "rewards"), load(config.watch, "watch") if config.watch else None
