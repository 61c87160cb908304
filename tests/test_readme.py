"""The README is true: its tour runs as written, and every other command in it is one that exists."""

import json
import re
import shlex
import shutil
from pathlib import Path

import forked
import pytest
import typer.main

from rlaif.cli import app

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMAND = typer.main.get_command(app)


def commands() -> list[str]:
    """Every `rlaif ...` in the README: lines of code blocks, and code in tables."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("rlaif ")]
    return lines + re.findall(r"^\| `(rlaif [^`]+)`", README, re.M)


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 12


@pytest.mark.parametrize("line", commands())
def test_every_command_exists_with_its_options(line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    command = COMMAND.commands[name]  # type: ignore[attr-defined]
    if hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    assert command.make_context(name, arguments).params


def test_every_file_the_readme_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    for path, _, heading in (link.partition("#") for link in links):
        assert (REPOSITORY / path).exists()
        assert not heading or heading in headings(REPOSITORY / path)


def headings(path: Path) -> set[str]:
    """The headings of a Markdown file as links name them: small letters, words joined by hyphens."""
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in found}


@pytest.mark.model
def test_the_tour_runs_as_written(tmp_path: Path, model_path: str) -> None:
    """With every other row of its prompts."""
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    for path in (tmp_path / "examples/prompts.jsonl", tmp_path / "examples/heldout.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[::2]))
    (tmp_path / ".cache/models").mkdir(parents=True)
    (tmp_path / ".cache/models/SmolLM2-135M-Instruct").symlink_to(Path(model_path).resolve())
    tour = re.search(r"<!-- tour -->\n```bash\n(.*?)```", README, re.S)
    assert tour is not None
    for line in tour[1].splitlines():
        result = forked.run("-m", "rlaif", *shlex.split(line)[1:], cwd=tmp_path)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
    evaluation = json.loads((tmp_path / "runs/tour/eval/evaluation.json").read_text())
    assert evaluation["wins"] + evaluation["ties"] + evaluation["losses"] == 2
    assert (tmp_path / "runs/tour/dpo/adapter_model.safetensors").is_file()
