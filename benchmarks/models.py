"""Models, adapters and reward heads of the peer, the same wherever they are built."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification


def load_base(name: str | Path, method: str, dtype: torch.dtype) -> Any:
    """The model without adapter: a language model, or a reward model with fixed first weights of its head."""
    if method != "rm":
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, dtype=dtype)
    model.score.weight.data.copy_(reward_head(model.config.hidden_size))
    return model


def reward_head(hidden_size: int) -> torch.Tensor:
    """The first weights of a reward model's head, of shape (1, hidden_size): the same on both sides."""
    return torch.randn(1, hidden_size, generator=torch.Generator().manual_seed(0)) / hidden_size**0.5


def lora_config(method: str, r: int, alpha: int) -> LoraConfig:
    """An adapter on all linear layers. Of a reward model peft trains the head as well."""
    task_type = "SEQ_CLS" if method == "rm" else "CAUSAL_LM"
    return LoraConfig(r=r, lora_alpha=alpha, target_modules="all-linear", task_type=task_type)
