"""What both halves of the parity check start from: a tiny model, an adapter that is not zero, and rows of token ids.

The folder holds model/ (Llama of 2 layers, float32, with a tokenizer), adapter-causal/ and adapter-reward/ (peft's;
the latter with the reward head). Both halves build their own trainer with a fresh adapter, then overwrite its weights
with these: so the reference, which is the model with its adapter off, is the bare model on both sides.
"""

import random
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from benchmarks.models import load_base, lora_config
from benchmarks.rows import IdRow

METHODS = ("dpo", "kto", "orpo", "simpo", "sft", "rm")
VOCABULARY, FIRST_ID = 260, 4
RANK, ALPHA, LEARNING_RATE = 4, 8, 0.1
SGD = {"max_steps": 1, "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "warmup_steps": 0}
"""One plain step: no momentum, no clipping."""
RESULTS, TENSORS = "trl.json", "trl.safetensors"

Tensors = dict[str, torch.Tensor]


def write_task(folder: Path) -> None:
    """Writes the model and the adapters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.15, tie_word_embeddings=False,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder / "model")
    _tokenizer().save_pretrained(folder / "model")
    for kind, method in (("causal", "dpo"), ("reward", "rm")):
        torch.manual_seed(2)
        policy = get_peft_model(load_base(folder / "model", method, torch.float32), lora_config(method, RANK, ALPHA))
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(std=0.1)
        policy.save_pretrained(folder / f"adapter-{kind}")


def set_adapter(model: Any, folder: Path, method: str) -> None:
    """Overwrites the trained weights of a peft model, in place, with those of the saved adapter."""
    saved = load_file(folder / f"adapter-{'reward' if method == 'rm' else 'causal'}" / "adapter_model.safetensors")
    own = trained(model)
    assert own.keys() == saved.keys(), sorted(own.keys() ^ saved.keys())
    for name, weight in own.items():
        weight.data.copy_(saved[name])


def trained(model: Any) -> Tensors:
    """The trained weights, by the names that peft saves them under."""
    return {_saved_name(name): weight for name, weight in model.named_parameters() if weight.requires_grad}


def _saved_name(name: str) -> str:
    return name.replace(".modules_to_save", "").replace(".default", "")


def parity_rows(method: str) -> list[IdRow]:
    """A batch of mixed lengths. ORPO's prompts are one token long.

    TRL's ORPO takes its NLL over prompt and completion; a prompt's first token is never predicted, so with one token
    the NLL is of the completion alone, as in the paper.
    """
    generator = random.Random(0)

    def ids(shortest: int, longest: int) -> list[int]:
        return [generator.randrange(FIRST_ID, VOCABULARY) for _ in range(generator.randint(shortest, longest))]

    rows: list[IdRow] = []
    for index in range(6 if method == "kto" else 4):
        prompt = ids(1, 1) if method == "orpo" else ids(4, 12)
        if method == "kto":
            rows.append({"prompt_ids": prompt, "completion_ids": ids(3, 9), "label": index % 2 == 0})
        elif method == "sft":
            rows.append({"prompt_ids": prompt, "completion_ids": ids(3, 9)})
        else:
            rows.append({"prompt_ids": prompt, "chosen_ids": ids(3, 9), "rejected_ids": ids(3, 9)})
    return rows


class Gradients(TrainerCallback):
    """Keeps a copy of the gradients just before the optimiser's step."""

    def __init__(self) -> None:
        self.gradients: Tensors = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.gradients = {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad.detach().clone()
            for name, weight in trained(model).items()
        }


def _tokenizer() -> PreTrainedTokenizerFast:
    """A word for each id. No text is tokenised, but trainers want a padding token and a chat template."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = special + [f"w{index}" for index in range(len(special), VOCABULARY)]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        chat_template="{% for message in messages %}{{ message['content'] }} </s> {% endfor %}",
    )  # fmt: skip
