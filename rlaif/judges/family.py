"""Model families, told from names: a judge tends to favour answers of its own (arXiv 2404.13076, 2410.21819)."""

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

FAMILIES = {
    "Claude": r"claude",
    "Cohere": r"command-?[ra]|\baya\b|cohere",
    "DeepSeek": r"deepseek",
    "Falcon": r"falcon",
    "Gemini and Gemma": r"gemini|gemma",
    "GLM": r"\bglm|chatglm",
    "GPT": r"\bgpt-?[345]|chatgpt|gpt-oss|\bo[134](?:-|$)",
    "Granite": r"granite",
    "Grok": r"\bgrok",
    "InternLM": r"internlm",
    "Kimi": r"\bkimi",
    "Llama": r"llama|vicuna",
    "MiniMax": r"minimax",
    "Mistral": r"mistral|mixtral|ministral|magistral|codestral|zephyr",
    "OLMo": r"olmo",
    "Phi": r"\bphi-?\d",
    "Qwen": r"qwen|\bqwq",
    "SmolLM": r"smollm",
    "Yi": r"\byi-\d",
}
"""By what their models' names hold."""
_NAMES = ("_name_or_path", "base_model_name_or_path")


@lru_cache(maxsize=256)
def families(model: str) -> frozenset[str]:
    """The families of a model: of its name, and for a folder of the names in its configuration; none if unknown.

    A model may belong to two, as one that was distilled from another. Its architecture (model_type) counts where nothing else
    tells: many families use Llama's.
    """
    configured = _configured(Path(model))
    names = [*Path(model).parts[-2:], *(configured[key] for key in _NAMES if key in configured)]
    return _named(" ".join(names)) or _named(configured.get("model_type", ""))


def shared_families(judge: str, judged: Iterable[str]) -> frozenset[str]:
    """The families that a judge's model has in common with the models whose answers it judges."""
    return families(judge) & frozenset(family for model in judged for family in families(model))


def _named(text: str) -> frozenset[str]:
    return frozenset(family for family, pattern in FAMILIES.items() if re.search(pattern, text.lower()))


def _configured(folder: Path) -> dict[str, str]:
    """What the configuration in a model's folder says of its name."""
    found: dict[str, str] = {}
    for file in ("config.json", "adapter_config.json"):
        try:
            config = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no folder of a model: the engine says so if it should be one
            continue
        if isinstance(config, dict):
            found |= {key: str(config[key]) for key in (*_NAMES, "model_type") if config.get(key)}
    return found
