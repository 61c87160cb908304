"""A tiny tokenizer with a ChatML template, tiny random models, rows of random token ids, and files of pairs."""

import json
import types
from pathlib import Path
from typing import Any

import torch

from rlaif.training.rows import Completion, Row

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer() -> Any:
    """Byte-level, so any text has tokens; ids 0..2 are the special tokens, 3.. the bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHATML
    return fast


def without_float32_norms(model: Any) -> Any:
    """The model with RMS norms in its own dtype: the library's compute in float32, which would hide a float64 error."""

    def forward(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
        epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
        scaled = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + epsilon)
        return scaled * (1 + norm.weight) if "Gemma" in type(norm).__name__ else scaled * norm.weight

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(forward, module)
    return model


def build_llama(dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """A random Llama of two layers with grouped-query attention."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        **{"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
           "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
           "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 2, **settings}
    )  # fmt: skip
    return without_float32_norms(LlamaForCausalLM(config).to(dtype))


def build_gemma3(dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """A random Gemma 3 with sliding windows of 5 tokens, so that the window bites in every test row."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        **{"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
           "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 5,
           "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
           "initializer_range": 0.3, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 0, **settings}
    )  # fmt: skip
    return without_float32_norms(Gemma3ForCausalLM(config).to(dtype))


def with_exact_routers(model: Any) -> Any:
    """The model with routers in its own dtype, for the reason of `without_float32_norms`."""

    def forward(router: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = hidden.reshape(-1, hidden.shape[-1]) @ router.weight.T
        scores, indices = logits.softmax(-1).topk(router.top_k, dim=-1)
        return logits, scores / scores.sum(-1, keepdim=True), indices

    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter"):
            module.forward = types.MethodType(forward, module)
    return model


def build_moe(kind: str = "mixtral", dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """A random Mixtral or Qwen3-MoE of two layers with four experts, two for each position."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    experts = {
        "mixtral": {"num_local_experts": 4, "intermediate_size": 24},
        "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 24, "norm_topk_prob": True, "head_dim": 8},
    }
    config = AutoConfig.for_model(
        kind,
        **{"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2, "num_experts_per_tok": 2, "max_position_embeddings": 512,
           "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 2, **experts[kind], **settings}
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").to(dtype)
    return with_exact_routers(without_float32_norms(model))


def random_row(generator: torch.Generator, id: str, prompt: int, *completions: int) -> Row:
    """A row of random ids with a prompt and completions of the given lengths."""

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 259, (length,), generator=generator).tolist())

    return Row(id, ids(prompt), tuple(Completion(ids(length)) for length in completions))


def write_pairs(path: Path, count: int, **extra: Any) -> Path:
    """A file of `count` small preference pairs."""
    lines = []
    for index in range(count):
        row = {
            "id": f"pair-{index}",
            "prompt": [{"role": "user", "content": f"Say {index * 7}" + "!" * (index % 3)}],
            "chosen": [{"role": "assistant", "content": f"yes {index}" + " sir" * (index % 4)}],
            "rejected": [{"role": "assistant", "content": "no" + " no" * (index % 2)}],
            **extra,
        }
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n")
    return path
