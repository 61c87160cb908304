"""The judges of an online run, as its configuration names them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlaif.errors import ConfigError
from rlaif.judges.family import shared_families
from rlaif.progress import say
from rlaif.training.config.online import OnlineConfig
from rlaif.training.config.rewards import RewardSourceConfig, is_policy
from rlaif.training.online.rewards import RewardSources
from rlaif.training.ranks import rank

if TYPE_CHECKING:
    from rlaif.training.online.policy_engine import PolicyEngine


def reward_sources(
    config: OnlineConfig, policy: "PolicyEngine | None" = None
) -> tuple[RewardSources, RewardSources | None]:
    """The judges of a run's rewards, and those that watch. policy: answers for those whose model it is. Raises ConfigError if
    there are none, or one can not be what it is named for."""
    if not config.rewards:
        raise ConfigError(
            "rewards: name at least one judge by --reward, or under rewards in the preset ('rlaif ls judges' lists them)"
        )

    def load(rewards: Sequence[RewardSourceConfig], folder: str) -> RewardSources:
        own = config.output / folder / f"process-{rank()}"  # each process has a journal of its own
        return RewardSources(
            rewards, own, judge_model=config.judge_model, patience_minutes=config.patience_minutes, policy=policy
        )

    sources, watch = load(config.rewards, "rewards"), load(config.watch, "watch") if config.watch else None
    _check_groups("rewards", sources, config.group_size)
    if watch is not None:
        _check_groups("watch", watch, 1)
        if shared := sorted(set(sources.names) & set(watch.names)):
            raise ConfigError(f"watch: '{shared[0]}' is the name of a reward too; give one of them another (name: ...)")
    asked = [judge for each in (sources, watch) if each is not None for judge in each.judges]
    if config.judge_model is not None and not any(judge.engine.model == config.judge_model.model for judge in asked):
        raise ConfigError(
            f"judge_model: no judge asks {config.judge_model.model}: they are programs, or name a model of their own; leave it "
            "out, or name another judge"
        )
    if watch is not None and (same := [judge.name for judge in watch.judges if is_policy(judge.engine)]):
        raise ConfigError(
            f"watch: '{same[0]}' would be the policy itself, which shows nothing of how it judges itself; name another model "
            "there (model: ...)"
        )
    own = [judge.name for judge in asked if is_policy(judge.engine)]
    if own and config.rollouts.engine != "transformers":
        raise ConfigError(
            f"{own[0]}: its model is the policy itself, which judges in this process, and rollouts.engine is "
            f"{config.rollouts.engine}; use rollouts.engine: transformers, or name a model"
        )
    return sources, watch


def tell_of_judges(config: OnlineConfig, sources: RewardSources, watch: RewardSources | None) -> None:
    """Says which judges are the policy itself, and which are of its family."""
    advice = "" if watch else "; set validation and watch, a judge of another model, to see whether it gets better"
    for judge in sources.judges:
        if is_policy(judge.engine):
            say(
                f"{judge.name}: the policy judges itself. Its judgments change as it learns and favour how it writes, so a "
                f"rising reward alone shows nothing{advice}"
            )
        elif shared := shared_families(judge.model, [config.model]):
            say(
                f"{judge.name}: its model is of the policy's family ({', '.join(sorted(shared))}), and judges favour answers "
                "of their own family; use a judge of another one, or watch with one"
            )


def _check_groups(where: str, sources: RewardSources, size: int) -> None:
    """Raises ConfigError for judges that compare responses to a prompt of which there is one."""
    if size == 1 and (names := sources.within_groups):
        raise ConfigError(
            f"{where}: '{names[0]}' compares the responses to a prompt, and each has one here; compare it with a fixed answer "
            "(comparisons: baseline), or use a judge that scores"
        )
