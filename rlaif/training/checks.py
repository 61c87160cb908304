"""Whether the rows are what the method needs, told before any model is loaded."""

import os
import random
from collections.abc import Sequence

from rlaif.errors import ConfigError, DataError
from rlaif.models import adapter_base, is_reward_model
from rlaif.progress import say
from rlaif.training.config import TrainConfig
from rlaif.training.config.paired import DpoConfig
from rlaif.training.config.policy_gradient import PolicyGradientConfig
from rlaif.training.config.single import RewardConfig
from rlaif.training.config.terms import COUPLED
from rlaif.training.config.unpaired import ApoUnpairedConfig, BcoConfig, KtoConfig
from rlaif.training.rows import Row

Unpaired = KtoConfig | BcoConfig | ApoUnpairedConfig


def check_models(config: TrainConfig) -> None:
    """Raises ConfigError for models in folders that can not be what the run needs them for."""
    reference = getattr(config, "reference_model", None)
    for key, name in (("model", config.model), ("reference_model", reference)):
        if name is not None and config.method != "rm" and os.path.exists(name) and is_reward_model(name):
            raise ConfigError(
                f"{key}: {name} is a reward model, which writes no text; name a language model, or let 'rlaif judge' use it"
            )
    if config.init_adapter is not None and adapter_base(config.model) is not None:
        raise ConfigError(
            f"init_adapter: {config.model} is an adapter itself, which is merged into its base before training, and the "
            "named adapter was not made for the merged model; name the base as the model, or leave init_adapter out"
        )


def check_rows(config: TrainConfig, rows: Sequence[Row]) -> None:
    """Raises DataError for rows that the method can not learn from; says what is unwise."""
    split(rows, config)
    if getattr(config, "use_confidence", False):
        _all_have(config, rows, "confidence", "use_confidence", "calibrated judges write it; else leave it out")
    if isinstance(config, RewardConfig) and config.use_margin:
        _all_have(config, rows, "margin", "use_margin", "the judge's pairs have it; else leave it out")
    if isinstance(config, Unpaired) and config.data_kind == "labels":
        _both_classes(config, rows)
    if isinstance(config, DpoConfig) and {term.name for term in config.loss} & COUPLED and config.batch_size < 2:
        raise DataError("loss aot sorts the pairs of a step, so batch_size must be at least 2")
    if isinstance(config, PolicyGradientConfig) and config.beta and config.idle_kl:
        say(
            "kl: k1 as a term of the loss has a gradient of 0 in the mean, so beta holds the policy to nothing; use kl: k3 or "
            "k2, kl_ratio: true, or kl_in: reward"
        )
    if isinstance(config, KtoConfig):
        if config.batch_size < 2:
            raise DataError(
                f"{config.method} pairs each prompt with another row's answer, so batch_size must be at least 2"
            )
        if len({row.prompt for row in rows}) < 2:
            raise DataError(f"{config.data}: kto needs answers to at least two different prompts")


def _all_have(config: TrainConfig, rows: Sequence[Row], field: str, key: str, advice: str) -> None:
    without = [row.id for row in rows if getattr(row, field) is None]
    if without:
        raise DataError(
            f"{config.data}: {len(without)} of {len(rows)} rows have no {field} (first: {without[0]}), and {key} needs "
            f"one in every row; {advice}"
        )


def _both_classes(config: Unpaired, rows: Sequence[Row]) -> None:
    from rlaif.training.objectives.kto import CLASS_BALANCE_RANGE, class_balance

    desirable = sum(bool(row.label) for row in rows)
    undesirable = len(rows) - desirable
    if not desirable or not undesirable:
        missing = "undesirable" if desirable else "desirable"
        raise DataError(f"{config.data}: no {missing} answers; {config.method} learns from both kinds")
    ratio = class_balance(desirable, undesirable, config.desirable_weight, config.undesirable_weight)
    low, high = CLASS_BALANCE_RANGE
    if isinstance(config, KtoConfig) and not low <= ratio <= high:
        least, most = (bound * undesirable * config.undesirable_weight / desirable for bound in (low, high))
        say(
            f"{desirable} desirable and {undesirable} undesirable answers: weighted, that is {ratio:.2f} to 1, and the "
            f"authors advise 1 to {high:.2f}: set desirable_weight between {least:.2f} and {most:.2f}"
        )


def split(rows: Sequence[Row], config: TrainConfig) -> tuple[list[int], list[int]]:
    """The indexes that are trained on and the held-out ones; the rows of one prompt are on the same side.

    Raises ConfigError if either side would be empty although a share is held out.
    """
    prompts = sorted({row.prompt for row in rows})
    random.Random(config.seed).shuffle(prompts)
    count = round(len(prompts) * config.validation)
    if config.validation and not 0 < count < len(prompts):
        raise ConfigError(
            f"validation: {config.validation:g} of {len(prompts)} prompts leaves {count} held out and "
            f"{len(prompts) - count} to train on; choose another share, or use more prompts"
        )
    held = set(prompts[:count])
    sides: tuple[list[int], list[int]] = ([], [])
    for index, row in enumerate(rows):
        sides[row.prompt in held].append(index)
    return sides
