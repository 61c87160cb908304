"""The routers of mixture-of-experts models: which models have them, and how evenly they spread what is read."""

from typing import Any

from torch import Tensor

from rlaif.errors import TrainError
from rlaif.models import load_config
from rlaif.training.config import TrainConfig
from rlaif.training.objectives.load_balancing import load_balancing

RECORD = {"output_router_logits": True}
"""The keyword of a model's forward that puts the routers' logits into its output."""


def check_router(config: TrainConfig) -> None:
    """Raises TrainError if the model of a run with a router loss has no routers. Reads no weights; what a GGUF file holds
    is only seen when it is loaded."""
    if not config.model.endswith(".gguf"):
        _shape(load_config(config.model))


def router_loss(config: Any, output: Any, is_read: Tensor) -> Tensor:
    """The load-balancing loss of what a model just read, a scalar.

    config: the model's. output: of its inner forward, with RECORD among its keywords. is_read: (R * L,), True where a
    position is no padding.
    Raises TrainError if the model records other than its routers' logits.
    """
    n_experts, top_k = _shape(config)
    logits = [layer.reshape(-1, layer.shape[-1]) for layer in getattr(output, "router_logits", None) or ()]
    shapes = {tuple(layer.shape) for layer in logits}
    if shapes != {(len(is_read), n_experts)}:
        raise TrainError(
            f"router_loss: of the routers of {config.model_type}, logits of the shapes {sorted(shapes) or 'none'} are "
            f"recorded, and {(len(is_read), n_experts)} is expected; set router_loss: 0, or leave the routers out of "
            "lora.target_modules"
        )
    return load_balancing(logits, is_read, top_k)


def _shape(config: Any) -> tuple[int, int]:
    """The experts of a layer, and how many of them a position is sent to."""
    text = config.get_text_config()
    names = ("num_experts", "num_local_experts")
    n_experts = next((n for name in names if (n := getattr(text, name, None)) is not None), 0)
    top_k = getattr(text, "num_experts_per_tok", None) or 0
    if n_experts < 2 or top_k < 1 or not hasattr(text, "router_aux_loss_coef"):
        raise TrainError(
            f"router_loss: {text.model_type} is no mixture-of-experts model with a router that is trained to spread its "
            "load (its configuration has no router_aux_loss_coef); set router_loss: 0"
        )
    return n_experts, top_k
