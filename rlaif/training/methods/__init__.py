"""Methods: an objective, what it needs of the model and the reference, and its metrics. Selected by a configuration."""

from collections.abc import Callable
from typing import Any

from rlaif.training.config import TrainConfig
from rlaif.training.methods.base import Counts, Method, Metrics, Scored
from rlaif.training.methods.online import PolicyGradientMethod, PpoMethod
from rlaif.training.methods.opponents import NashMdMethod, XpoMethod
from rlaif.training.methods.paired import (
    DpoMethod,
    OrpoMethod,
    alphapo_method,
    cpo_method,
    rainbow_method,
    simpo_method,
)
from rlaif.training.methods.single import RewardMethod, SftMethod
from rlaif.training.methods.tdpo import TdpoMethod
from rlaif.training.methods.unpaired import ApoUnpairedMethod, BcoMethod, KtoMethod

__all__ = ["Counts", "Method", "Metrics", "Scored", "method_of"]

MAKERS: dict[str, Callable[[Any], Method]] = {
    "dpo": DpoMethod,
    "step-dpo": DpoMethod,
    "spin": DpoMethod,
    "tdpo": TdpoMethod,
    "rainbowpo": rainbow_method,
    "simpo": simpo_method,
    "alphapo": alphapo_method,
    "cpo": cpo_method,
    "orpo": OrpoMethod,
    "kto": KtoMethod,
    "bco": BcoMethod,
    "apo-unpaired": ApoUnpairedMethod,
    "sft": lambda config: SftMethod(),
    "rm": RewardMethod,
    "grpo": PolicyGradientMethod,
    "rloo": PolicyGradientMethod,
    "reinforce++": PolicyGradientMethod,
    "ppo": PpoMethod,
    "spo": PolicyGradientMethod,
    "online-dpo": DpoMethod,
    "online-simpo": simpo_method,
    "online-kto": KtoMethod,
    "xpo": XpoMethod,
    "nash-md": NashMdMethod,
}


def method_of(config: TrainConfig) -> Method:
    """The method of a configuration."""
    return MAKERS[config.method](config)
