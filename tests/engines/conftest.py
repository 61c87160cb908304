"""Lets the tests of this folder import its servers: stub_server.py and vllm_server.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
