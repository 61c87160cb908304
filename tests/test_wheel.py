"""The built wheel carries the four folders of text, and the command finds them there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from rlaif import resources

REPOSITORY = Path(__file__).resolve().parent.parent


def test_the_wheel_finds_every_shipped_file(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(REPOSITORY),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
    ]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("rlaif_toolkit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "rlaif/py.typed" in names
    assert not [name for name in names if name.startswith(("judges/", "prompts/", "train/", "recipes/", "tests/"))]
    code = "from rlaif import resources as r; print(r.__file__); print([(k, n) for k in r.KINDS for n in r.names(k)])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    ).stdout.splitlines()
    assert out[0].startswith(str(tmp_path))
    assert out[1] == str([(kind, name) for kind in resources.KINDS for name in resources.names(kind)])
    assert "rlaif/data/recipes/quickstart/train.jsonl" in names
