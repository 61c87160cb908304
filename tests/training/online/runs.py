"""Training runs in processes of their own."""

import os
import subprocess
import sys
from typing import Any


def in_process(config: Any, code: str, processes: int = 1) -> "subprocess.CompletedProcess[str]":
    """Runs code, which sees the configuration as `config`, in fresh processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--no-python", sys.executable]
    head = (
        "import json, os, signal, sys\nfrom rlaif.training import parse_config, train\n"
        "config = parse_config(json.loads(sys.argv[1]))\n"
    )
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), "-c", head + code, config.model_dump_json()],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
