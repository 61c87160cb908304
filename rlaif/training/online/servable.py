"""Whether vLLM can serve the adapter that a run trains, told before any model is loaded."""

import json
from typing import Any

from rlaif.errors import ConfigError
from rlaif.models import ADAPTER_FILE, adapter_base
from rlaif.training.config.online import OnlineConfig

HEADS = ("lm_head", "embed_out", "output_layer", "score")
"""What models call their head. Of one with another name it is told when the model is loaded."""
FEATURES = {
    "use_dora": "it is a DoRA",
    "lora_bias": "it has biases (lora_bias)",
    "layer_replication": "it replicates layers (layer_replication)",
    "alora_invocation_tokens": "it is an activated LoRA (alora_invocation_tokens)",
    "trainable_token_indices": "it trains embeddings (trainable_token_indices)",
}
"""What vLLM's loader refuses or leaves out, by the key of an adapter's configuration, and how that is said."""


def check_servable(config: OnlineConfig) -> None:
    """Raises ConfigError if the rollouts are vLLM's and the adapter is of a kind that vLLM does not serve."""
    engine = config.rollouts.engine
    if engine == "transformers" or config.full:
        return
    if on_head := _heads(config.lora.target_modules):
        raise ConfigError(
            f"lora.target_modules: rollouts.engine: {engine} is impossible with an adapter on the head ({on_head[0]}), which "
            "vLLM does not serve; leave it out ('all-linear' does)"
        )
    if config.init_adapter is None or adapter_base(str(config.init_adapter)) is None:
        return
    path = config.init_adapter / ADAPTER_FILE
    reasons = unservable(json.loads(path.read_text(encoding="utf-8")))
    if reasons:
        raise ConfigError(
            f"init_adapter: {path}: rollouts.engine: {engine} is impossible with this adapter, which vLLM does not serve: "
            f"{'; '.join(reasons)}; go on from another adapter, or leave rollouts.engine out"
        )


def unservable(settings: dict[str, Any]) -> list[str]:
    """Why vLLM does not serve an adapter, from its adapter_config.json; empty if it does."""
    found = [reason for key, reason in FEATURES.items() if settings.get(key)]
    if modules := settings.get("modules_to_save"):
        found.append(f"it trains modules whole (modules_to_save: {', '.join(modules)})")
    if settings.get("bias", "none") != "none":
        found.append(f"it trains biases (bias: {settings['bias']})")
    if on_head := _heads(settings.get("target_modules") or ()):
        found.append(f"it adapts the head ({', '.join(on_head)})")
    return found


def _heads(modules: Any) -> list[str]:
    """The head among the names of modules that get an adapter."""
    names = [modules] if isinstance(modules, str) else modules
    return [name for name in names if name.rpartition(".")[2] in HEADS]
