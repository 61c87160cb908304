"""An adapter multiplied into its base: one model folder that needs no peft."""

import json
from pathlib import Path

from rlaif.errors import ConfigError
from rlaif.models import ADAPTER_FILE, adapter_base, load_model, load_reward_model, load_tokenizer


def merge(run: str | Path, output: str | Path, *, dtype: str = "auto") -> Path:
    """Writes the model of a run's adapter, its weights merged into the base's, as safetensors with its tokenizer.

    dtype: of the saved weights, 'auto' (bfloat16 on CUDA, float32 on the CPU) or a torch dtype name. Works for policies
    and reward models. Raises ConfigError if `run` holds no adapter or `output` is not empty, EngineError if its base is
    missing.
    """
    folder, target = Path(run), Path(output)
    if adapter_base(str(folder)) is None:
        raise ConfigError(
            f"{folder}: holds no adapter (no {ADAPTER_FILE}), so there is nothing to merge; a run with --full is a "
            "whole model already"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: exists and is not empty; choose another -o")
    settings = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    load = load_reward_model if settings.get("task_type") == "SEQ_CLS" else load_model
    load(str(folder), dtype).save_pretrained(str(target))
    load_tokenizer(str(folder)).save_pretrained(str(target))
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8").replace("library_name: peft", "library_name: transformers")
        (target / "README.md").write_text(text.replace("- lora\n", ""), encoding="utf-8")
    return target
