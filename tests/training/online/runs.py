"""Training runs in processes of their own."""

import subprocess
from typing import Any

import forked


def in_process(config: Any, code: str, processes: int = 1) -> "subprocess.CompletedProcess[str]":
    """Runs code, which sees the configuration as `config`, in new processes."""
    head = (
        "import json, os, signal, sys\nfrom rlaif.training import parse_config, train\n"
        "config = parse_config(json.loads(sys.argv[1]))\n"
    )
    given = "-c", head + code, config.model_dump_json()
    return forked.run(*given) if processes == 1 else forked.run_group(processes, *given)
