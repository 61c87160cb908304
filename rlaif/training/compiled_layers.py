"""Decoder layers compiled by torch, each by itself: what is compiled for one serves all that are alike, and rows of any
length.

The head stays as it is (logps.py), a second model as the reference is not compiled, and weights keep their names. Layers
written by hand (fused_layers.py, fused_lora.py, tree_attention.py) are left to the library's, which torch can trace. peft's
DoRA and its adapters of fused experts break a layer into dozens of graphs: the results are right, but nothing is gained.
"""

from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from rlaif.errors import TrainError, on_one_line

VARIANTS = 64
"""How often torch may compile the same code anew before it gives up: layers differ in kind, and each kind is needed with
the adapter on and off, with and without gradient, for one row and for several."""


def compile_layers(model: Any) -> None:
    """Compiles the decoder layers of a model that has its adapter already, and tries them on two tokens.

    Raises TrainError if there are no such layers or they can not be compiled here.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise TrainError(f"compile: no decoder layers are known in a {type(model).__name__}; leave compile out")
    torch._dynamo.config.recompile_limit = VARIANTS
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    except Exception as error:  # whatever compilers raise
        raise TrainError(f"compile: impossible here ({on_one_line(error)}); leave compile out") from None
