"""Lets the tests of this folder import its servers, stub_server.py and vllm_server.py, and the tiny models of training."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "training")]
