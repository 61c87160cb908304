"""rlaif: from a list of prompts to an aligned language model, without human labels.

The seven functions are seven commands; importing this module loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rlaif.engines import EngineConfig as EngineConfig
    from rlaif.evaluation import evaluate as evaluate
    from rlaif.generation import generate as generate
    from rlaif.judges.run import judge as judge
    from rlaif.preferences.pairs import make_pairs as make_pairs
    from rlaif.recipes.run import run as run
    from rlaif.revision.run import revise as revise
    from rlaif.training.run import train as train
    from rlaif.types import Sampling as Sampling

_HOMES = {
    "EngineConfig": "rlaif.engines",
    "Sampling": "rlaif.types",
    "evaluate": "rlaif.evaluation",
    "generate": "rlaif.generation",
    "judge": "rlaif.judges.run",
    "make_pairs": "rlaif.preferences.pairs",
    "revise": "rlaif.revision.run",
    "run": "rlaif.recipes.run",
    "train": "rlaif.training.run",
}
__all__ = [
    "EngineConfig", "Sampling", "__version__", "evaluate", "generate", "judge", "make_pairs", "revise", "run", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rlaif' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
