"""Which layers a LoRA adapter reached: nothing that was named is left out without a word."""

from typing import Any

from rlaif.errors import TrainError
from rlaif.progress import say


def check_targets(policy: Any, experts: set[str]) -> None:
    """Raises TrainError for names of target_modules that the model has no layer of; says if 'all-linear' missed experts.

    policy: a model with its fresh adapter. experts: what `fused_experts` gave before. peft itself only complains where no
    name at all has a layer.
    """
    tuner, settings = policy.base_model, policy.peft_config["default"]
    reached = set(tuner.targeted_module_names)
    missing = [name for name in settings.target_modules if not any(f".{one}".endswith(f".{name}") for one in reached)]
    if missing:
        hint = "; experts go by their old names (gate_proj, up_proj and down_proj, or w1, w2 and w3)" if experts else ""
        raise TrainError(
            f"lora.target_modules: the model has no linear layer {', '.join(sorted(missing))}; it has "
            f"{', '.join(sorted(linear_names(policy)))}{hint}"
        )
    if experts and not experts & set(tuner.targeted_parameter_names):
        say(
            f"the adapter leaves the experts of this {policy.config.model_type} as they are (they are fused weights, not "
            f"linear layers); it trains {', '.join(sorted(_last_names(reached)))}"
        )


def fused_experts(model: Any) -> set[str]:
    """The names of the weights (E, ., .) that hold all experts of a layer of a mixture-of-experts model."""
    return {name for name, weight in model.named_parameters() if weight.ndim == 3 and "conv" not in name}


def linear_names(model: Any) -> set[str]:
    """The last parts of the names of a model's linear layers, with or without an adapter, but for the head."""
    import torch

    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    plain = {name.removesuffix(".base_layer") for name in linear if ".lora_" not in name}
    return _last_names(plain) - {"lm_head", "score"}


def _last_names(names: set[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}
