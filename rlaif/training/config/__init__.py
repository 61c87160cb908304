"""The configuration of a training run: presets in train/*.yaml, flags of `rlaif train`, or these classes in Python."""

from collections.abc import Collection
from typing import Any

from rlaif import resources
from rlaif.config import read_yaml, validate
from rlaif.errors import ConfigError, did_you_mean
from rlaif.training.config.base import DataKind, LoraSettings, ReferenceConfig, TrainConfig, Truncation
from rlaif.training.config.fresh_pairs import (
    NashMdConfig,
    OnlineDpoConfig,
    OnlineKtoConfig,
    OnlineSimpoConfig,
    XpoConfig,
)
from rlaif.training.config.paired import (
    AlphapoConfig,
    CpoConfig,
    DpoConfig,
    OrpoConfig,
    RainbowConfig,
    SimpoConfig,
    SpinConfig,
    StepDpoConfig,
    TdpoConfig,
)
from rlaif.training.config.policy_gradient import GrpoConfig, PpoConfig, ReinforceConfig, RlooConfig, SpoConfig
from rlaif.training.config.single import RewardConfig, SftConfig
from rlaif.training.config.unpaired import ApoUnpairedConfig, BcoConfig, KtoConfig

METHODS: dict[str, type[TrainConfig]] = {
    "dpo": DpoConfig,
    "sft": SftConfig,
    "rm": RewardConfig,
    "kto": KtoConfig,
    "bco": BcoConfig,
    "apo-unpaired": ApoUnpairedConfig,
    "simpo": SimpoConfig,
    "cpo": CpoConfig,
    "alphapo": AlphapoConfig,
    "orpo": OrpoConfig,
    "tdpo": TdpoConfig,
    "step-dpo": StepDpoConfig,
    "rainbowpo": RainbowConfig,
    "spin": SpinConfig,
    "grpo": GrpoConfig,
    "rloo": RlooConfig,
    "reinforce++": ReinforceConfig,
    "ppo": PpoConfig,
    "spo": SpoConfig,
    "online-dpo": OnlineDpoConfig,
    "online-simpo": OnlineSimpoConfig,
    "online-kto": OnlineKtoConfig,
    "xpo": XpoConfig,
    "nash-md": NashMdConfig,
}
"""Every method and its configuration."""

__all__ = [
    "METHODS", "DataKind", "LoraSettings", "ReferenceConfig", "TrainConfig", "Truncation", "check_method", "load_preset",
    "parse_config",
]  # fmt: skip


def check_method(name: str) -> str:
    """`name` as a method. Raises ConfigError naming the nearest one."""
    if name in METHODS:
        return name
    raise ConfigError(f"unknown method '{name}'{did_you_mean(name, METHODS)}; methods: {', '.join(METHODS)}")


def parse_config(data: dict[str, Any], where: str = "configuration", *, given: Collection[str] = ()) -> TrainConfig:
    """`data` as the configuration of its method. Raises ConfigError naming every wrong key and value.

    where, given: as for rlaif.config.validate.
    """
    if "method" not in data:
        raise ConfigError(f"{where}: missing key 'method'; methods: {', '.join(METHODS)}")
    return validate(data, METHODS[check_method(str(data["method"]))], where, given=given)


def load_preset(name: str, /, **overrides: Any) -> TrainConfig:
    """The preset `name` (shipped, or a path) with the given keys replaced; None leaves a key as the preset has it.

    Mappings such as lora and trainer are merged key by key. Raises ConfigError naming every wrong key and value.
    """
    path = resources.find("train", name)
    data = read_yaml(path)
    if (method := overrides.get("method")) is not None and data.get("method", method) != method:
        raise ConfigError(f"{path}: is a preset of the method {data['method']}, not {method}")
    given = {key: value for key, value in overrides.items() if value is not None}
    for key, value in given.items():
        old = data.get(key)
        data[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return parse_config(data, name, given=given)
