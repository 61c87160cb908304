"""Loading models and tokenizers: a folder, a hub name, a GGUF file, or a folder with a LoRA adapter.

Imports torch and transformers when called, never on import.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from rlaif.errors import EngineError, missing_extra

ADAPTER_FILE = "adapter_config.json"
Bits = Literal["none", "4bit", "8bit"]


def adapter_base(name: str) -> str | None:
    """The base model of a LoRA adapter folder, or None if `name` is not one."""
    config = Path(name) / ADAPTER_FILE
    if not config.is_file():
        return None
    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise EngineError(f"{config}: no base_model_name_or_path; the adapter does not say which model it belongs to")
    return str(base)


def is_reward_model(name: str) -> bool:
    """Whether a folder holds a sequence classifier, or an adapter of one."""

    def read(file: str) -> Any:
        path = Path(name) / file
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    architectures = read("config.json").get("architectures") or []
    is_classifier = any(str(kind).endswith("ForSequenceClassification") for kind in architectures)
    return is_classifier or read(ADAPTER_FILE).get("task_type") == "SEQ_CLS"


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model folder, hub name, GGUF file or adapter folder."""
    from transformers import AutoTokenizer

    base = adapter_base(name)
    if base is not None and not (Path(name) / "tokenizer_config.json").is_file():
        return load_tokenizer(base)
    with _loading(name):
        return AutoTokenizer.from_pretrained(**_source(name))


def load_config(name: str) -> Any:
    """The configuration of a model folder or hub name; of an adapter, its base's."""
    from transformers import AutoConfig

    base = adapter_base(name)
    if base is not None:
        return load_config(base)
    with _loading(name):
        return AutoConfig.from_pretrained(**_source(name))


def load_model(name: str, dtype: str = "auto", device: str | None = None, *, quantize: Bits = "none") -> Any:
    """A causal language model in evaluation mode on `device` (CUDA if there is one). An adapter is merged into its base.

    dtype: 'auto' (bfloat16 on CUDA, float32 on the CPU) or a torch dtype name. quantize: hold the weights of a whole
    model in so many bits, with bitsandbytes.
    """
    from transformers import AutoModelForCausalLM

    device = device or default_device()
    base = adapter_base(name)
    if base is not None:
        from peft import PeftModel

        with _loading(name):
            merged: Any = PeftModel.from_pretrained(load_model(base, dtype, device), name).merge_and_unload()
        return merged.eval()
    with _loading(name):
        model = AutoModelForCausalLM.from_pretrained(
            **_source(name),
            **_number_format(dtype, device),
            **_quantization(quantize, resolve_dtype(dtype, device)),
        )
    if quantize != "none":
        return model.eval()
    if name.endswith(".gguf"):
        _forget_quantization(model)
    return model.to(device).eval()


def load_reward_model(name: str, dtype: str = "auto", device: str | None = None, *, quantize: Bits = "none") -> Any:
    """A reward model (a sequence classifier with one label) in evaluation mode. From a causal language model it is made
    with a new, random head; from the adapter of a reward model, merged into its base.

    dtype, device, quantize: as for load_model. Its padding token is that of `reward_padding`.
    """
    from transformers import AutoModelForSequenceClassification

    device = device or default_device()
    base = adapter_base(name)
    if base is not None:
        from peft import PeftModel

        with _loading(name):
            merged: Any = PeftModel.from_pretrained(load_reward_model(base, dtype, device), name).merge_and_unload()
        return merged.eval()
    with _loading(name):
        model = AutoModelForSequenceClassification.from_pretrained(
            **_source(name),
            **_number_format(dtype, device),
            **_quantization(quantize, resolve_dtype(dtype, device)),
            num_labels=1,
        )
    model.config.get_text_config().pad_token_id = reward_padding(load_tokenizer(name))
    if quantize != "none":
        return model.eval()
    if name.endswith(".gguf"):
        _forget_quantization(model)
    return model.to(device).eval()


def reward_padding(tokenizer: Any) -> int:
    """The padding token of a reward model: the tokenizer's own, unless that also ends a turn.

    transformers scores the last token that is no padding, and an answer's score is that of its last token, which ends the
    turn. Raises EngineError for a tokenizer with no other special token.
    """
    ends = tokenizer.eos_token_id
    added = [token for token, item in tokenizer.added_tokens_decoder.items() if item.special]
    special = [tokenizer.pad_token_id, tokenizer.unk_token_id, *tokenizer.all_special_ids, *added]
    found = next((token for token in special if token is not None and token != ends), None)
    if found is None:
        raise EngineError(
            f"{tokenizer.name_or_path}: has no special token but the one that ends a turn, so answers can not be padded "
            "for a reward model; add a padding token to its tokenizer"
        )
    return int(found)


def _quantization(quantize: Bits, dtype: str) -> dict[str, Any]:
    """The keywords of from_pretrained that quantise. Raises EngineError where bitsandbytes is missing."""
    import importlib.util

    if quantize == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise missing_extra("quantize: bitsandbytes", "quantize")
    import torch
    from transformers import BitsAndBytesConfig

    if quantize == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": settings}


def fingerprint(name: str) -> str | None:
    """Tells the weights in a local folder (or file) from others; None for a name on a hub.

    A hash of each weight file's name, size and 16 blocks spread over it: quick also for large models.
    """
    path = Path(name)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as data:
            for block in range(16):
                data.seek(size * block // 16)
                digest.update(data.read(65536))
    return digest.hexdigest()[:16]


def default_device() -> str:
    """'cuda' if there is one, else 'cpu'."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str, device: str) -> str:
    """The torch dtype name for 'auto' on a device, or the given one."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") else "float32"


def _number_format(dtype: str, device: str) -> dict[str, Any]:
    """The keywords of from_pretrained for a dtype. Experts are multiplied one by one in float64, which the grouped
    products do not know."""
    import torch

    name = resolve_dtype(dtype, device)
    return {"dtype": getattr(torch, name), **({"experts_implementation": "eager"} if name == "float64" else {})}


def _source(name: str) -> dict[str, str]:
    path = Path(name)
    if name.endswith(".gguf"):
        if not path.is_file():
            raise EngineError(f"{name}: no such file")
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.is_dir():
        raise EngineError(f"{name}: no such model folder")
    if path.is_dir() and not (path / "config.json").is_file() and not (path / ADAPTER_FILE).is_file():
        raise EngineError(f"{name}: not a model folder: it has neither config.json nor {ADAPTER_FILE}")
    return {"pretrained_model_name_or_path": name}


@contextlib.contextmanager
def _loading(name: str) -> Any:
    """Turns what loading can fail with into one message."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EngineError(
            f"can not load the model '{name}': {first_line}\n"
            "It must be a folder with config.json and weights, a GGUF file, a LoRA adapter folder, "
            "or the name of a model on the hub that this machine can reach"
        ) from None


def _forget_quantization(model: Any) -> None:
    """A GGUF file is de-quantised on load; without this the model would refuse to be saved or trained."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
