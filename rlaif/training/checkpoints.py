"""Checkpoints that survive a kill: one counts only once its marker is written, as the very last thing."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from rlaif.records import write_text

MARKER = "complete.json"
METRICS_FILE = "metrics.jsonl"


@dataclass
class Progress:
    """What must be carried over a kill beside weights and optimizer: running totals of the metrics.

    sums and weight: of the steps since the last line of metrics.jsonl.
    """

    n_tokens: int
    weight: float
    sums: dict[str, float]


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the complete checkpoints, oldest first."""
    found = []
    for path in folder.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and (path / MARKER).is_file():
            found.append((int(match[1]), path))
    return sorted(found)


def mark_complete(path: Path, progress: Progress, keep: int) -> None:
    """Marks a checkpoint as complete, then removes all but the newest `keep` complete ones."""
    write_text(path / MARKER, json.dumps(vars(progress)))
    for _, old in checkpoints(path.parent)[:-keep]:
        (old / MARKER).unlink()
        shutil.rmtree(old)


def read_progress(path: Path) -> Progress:
    """The running totals saved with a complete checkpoint."""
    return Progress(**json.loads((path / MARKER).read_text(encoding="utf-8")))


def resume_point(folder: Path) -> tuple[int, Path | None]:
    """The step and folder of the last complete checkpoint (0 and None if there is none); torn ones are removed."""
    complete = checkpoints(folder)
    for path in folder.glob("checkpoint-*"):
        if path not in [kept for _, kept in complete]:
            shutil.rmtree(path)
    return complete[-1] if complete else (0, None)


def cut_metrics(path: Path, step: int) -> None:
    """Removes the lines of metrics.jsonl after `step`: a continued run writes them again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break  # torn by a kill while it was written
        if row["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
