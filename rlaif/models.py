"""Loading models and tokenizers: a folder, a hub name, a GGUF file, or a folder with a LoRA adapter.

Imports torch and transformers when called, never on import.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
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
    """Whether a folder or a hub name is a sequence classifier, or an adapter of one."""
    adapter, config = Path(name) / ADAPTER_FILE, Path(name) / "config.json"
    if adapter.is_file() and _adapts_classifier(name):
        return True
    if config.is_file():
        architectures = json.loads(config.read_text(encoding="utf-8")).get("architectures")
    elif Path(name).exists():
        return False
    else:
        architectures = load_config(name).architectures
    return any(str(kind).endswith("ForSequenceClassification") for kind in architectures or [])


def _adapts_classifier(adapter: str) -> bool:
    settings = json.loads((Path(adapter) / ADAPTER_FILE).read_text(encoding="utf-8"))
    return bool(settings.get("task_type") == "SEQ_CLS")


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
    model in so many bits, with bitsandbytes. Raises EngineError, also for a reward model: it has no head for text.
    """
    from transformers import AutoModelForCausalLM

    from rlaif.engines.base import writes_no_text

    if is_reward_model(name):
        raise writes_no_text(name)
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
    """A reward model (a sequence classifier with one label) to train, in evaluation mode. From a causal language model it
    is made with a new, random head; from the adapter of a reward model, merged into its base.

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


def load_trained_reward_model(name: str, dtype: str = "auto", device: str | None = None) -> Any:
    """A reward model to score with: as `load_reward_model`, but nothing in it is drawn at random.

    Its padding token is the one it was trained with, None where its configuration names none. Raises EngineError for a
    model whose weights lack the head, and for a classifier with other than one label.
    """
    device = device or default_device()
    model = _classifier(name, dtype, device)
    labels = model.config.num_labels
    if labels != 1:
        names = ", ".join(str(label) for label in list((model.config.id2label or {}).values())[:5])
        raise EngineError(
            f"{name}: is a classifier with {labels} labels ({names}), and a reward is one number; name a reward model, "
            "which is a sequence classifier with one label"
        )
    tokenizer, text_config = load_tokenizer(name), model.config.get_text_config()
    if reads_turn_end(tokenizer):
        text_config.pad_token_id = reward_padding(tokenizer)
    elif adapter_base(name) is not None:  # the configuration is that of a base which was padded otherwise
        text_config.pad_token_id = tokenizer.pad_token_id
    return model.to(device).eval()


def _classifier(name: str, dtype: str, device: str) -> Any:
    """A sequence classifier, all of whose weights are in its files."""
    base = adapter_base(name)
    if base is None:
        model, missing = _classifier_and_missing(name, dtype, device)
        _refuse_random(name, missing)
        return model
    from peft import PeftModel
    from peft.utils import load_peft_weights

    if not _adapts_classifier(name):
        raise EngineError(
            f"{name}: is the adapter of a language model, not of a reward model; name the folder of a 'rlaif train rm' "
            "run, or another adapter with task_type SEQ_CLS in its adapter_config.json"
        )
    with _loading(name):
        weights = load_peft_weights(name, device="cpu")
    heads = [len(weight) for key, weight in weights.items() if key.endswith(HEADS)]
    model, missing = _classifier_and_missing(base, dtype, device, labels=heads[0] if heads else None)
    _refuse_random(name, {key for key in missing if not any(own.endswith(f".{key}") for own in weights)})
    with _loading(name):
        return PeftModel.from_pretrained(model, name).merge_and_unload()


def _classifier_and_missing(name: str, dtype: str, device: str, labels: int | None = None) -> tuple[Any, set[str]]:
    """A sequence classifier and the names of those of its weights that no file holds.

    labels: as many as the adapter on it has; its own number unless given.
    """
    from transformers import AutoModelForSequenceClassification

    with _loading(name), _without_report():
        model, found = AutoModelForSequenceClassification.from_pretrained(
            **_source(name),
            **_number_format(dtype, device),
            **({} if labels is None else {"num_labels": labels}),
            output_loading_info=True,
        )
    return model, set(found["missing_keys"])


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Within it transformers does not list the weights that a file lacks: an adapter brings them, or they are an error."""
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _refuse_random(name: str, missing: set[str]) -> None:
    """Raises EngineError if there are weights that no file holds, which transformers draws at random."""
    if missing:
        some = ", ".join(sorted(missing)[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise EngineError(
            f"{name}: is not a trained reward model: its weights lack {some}, which would be drawn at random. Name a "
            "sequence classifier with one label, or the folder of a 'rlaif train rm' run; a language model judges with a "
            "judge of another kind"
        )


HEADS = (".score.weight", ".classifier.weight", ".classifier.out_proj.weight")
"""What the last layer of a sequence classifier is called, in the weights of an adapter."""

TURN_END_MARK = "rlaif_reward_at_turn_end"
"""In the tokenizer_config.json of a reward model that was trained here. Others are read at the end of all that the chat
template writes, which is what their makers do."""


def reads_turn_end(tokenizer: Any) -> bool:
    """Whether a reward model with this tokenizer scores the token that ends the answer's turn."""
    return bool(tokenizer.init_kwargs.get(TURN_END_MARK))


def mark_reward_tokenizer(tokenizer: Any) -> None:
    """Makes the tokenizer that of a reward model trained here: padded by `reward_padding`, and read at the turn's end."""
    tokenizer.pad_token_id = reward_padding(tokenizer)
    tokenizer.init_kwargs[TURN_END_MARK] = True


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


def _source(name: str) -> dict[str, Any]:
    """The keywords of from_pretrained that say what is loaded. Code that comes with a model is never run, nor asked for."""
    path = Path(name)
    if name.endswith(".gguf"):
        if not path.is_file():
            raise EngineError(f"{name}: no such file")
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "trust_remote_code": False}
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.is_dir():
        raise EngineError(f"{name}: no such model folder")
    if path.is_dir() and not (path / "config.json").is_file() and not (path / ADAPTER_FILE).is_file():
        raise EngineError(f"{name}: not a model folder: it has neither config.json nor {ADAPTER_FILE}")
    return {"pretrained_model_name_or_path": name, "trust_remote_code": False}


@contextlib.contextmanager
def _loading(name: str) -> Any:
    """Turns what loading can fail with into one message."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise EngineError(
                f"can not load the model '{name}': it needs code from its own repository, which is not run here; name a "
                "model of an architecture that transformers has itself"
            ) from None
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
