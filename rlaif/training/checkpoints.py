"""Checkpoints that survive a kill: one counts only once its marker is written, as the very last thing."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlaif.errors import TrainError
from rlaif.records import write_text

MARKER = "complete.json"
METRICS_FILE = "metrics.jsonl"


@dataclass
class Progress:
    """What must be carried over a kill beside weights and optimizer.

    n_tokens: read so far. sums: (sum, count) of each metric since the last line of metrics.jsonl. method: its state.
    """

    n_tokens: int = 0
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: float, count: float) -> None:
        """Adds to a metric's sum and count."""
        before, n = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (before + value, n + count)

    def means(self) -> dict[str, float]:
        """The mean of each metric; one that was never counted is left out."""
        return {name: value / count for name, (value, count) in self.sums.items() if count}

    def restarted(self) -> "Progress":
        """The same after a line was written."""
        return Progress(self.n_tokens, {}, self.method)

    @classmethod
    def total(cls, parts: "Sequence[Progress]") -> "Progress":
        """The sums over all processes."""
        whole = cls(sum(part.n_tokens for part in parts), {}, parts[0].method)
        for part in parts:
            for name, (value, count) in part.sums.items():
                whole.add(name, value, count)
        return whole


def step_of(path: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(path.name.removeprefix("checkpoint-"))


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the complete checkpoints, oldest first."""
    found = []
    for path in folder.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and _is_marked(path):
            found.append((int(match[1]), path))
    return sorted(found)


def _is_marked(path: Path) -> bool:
    try:
        return isinstance(_marker(path), dict)
    except (OSError, ValueError):
        return False


def _marker(path: Path) -> Any:
    return json.loads((path / MARKER).read_text(encoding="utf-8"))


def mark_complete(path: Path, progress: Progress, keep: int) -> None:
    """Marks a checkpoint as complete, with the sizes of its files, then removes all but the newest `keep` complete ones."""
    write_text(path / MARKER, json.dumps({**asdict(progress), "files": _sizes(path)}))
    for _, old in checkpoints(path.parent)[:-keep]:
        (old / MARKER).unlink()
        shutil.rmtree(old)


def _sizes(path: Path) -> dict[str, int]:
    """The bytes of each file of a checkpoint but its marker."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file != path / MARKER]
    return {file.relative_to(path).as_posix(): file.stat().st_size for file in files}


def read_progress(path: Path) -> Progress:
    """The running totals saved with a complete checkpoint."""
    saved = {key: value for key, value in _marker(path).items() if key != "files"}
    return Progress(**{**saved, "sums": {name: (value, count) for name, (value, count) in saved["sums"].items()}})


def resume_point(folder: Path) -> tuple[int, Path | None]:
    """The step and folder of the last complete checkpoint (0 and None if there is none); torn ones are removed.

    Raises TrainError if a file of the last complete one is no longer as it was written.
    """
    complete = checkpoints(folder)
    for path in folder.glob("checkpoint-*"):
        if path not in [kept for _, kept in complete]:
            shutil.rmtree(path)
    if not complete:
        return 0, None
    _check_whole(complete[-1][1], f"from {complete[-2][1].name}" if len(complete) > 1 else "from the beginning")
    return complete[-1]


def _check_whole(path: Path, otherwise: str) -> None:
    """Raises TrainError for a file that is missing or has another size than when the checkpoint was marked complete.

    otherwise: where the run continues without this checkpoint.
    """
    found = _sizes(path)
    for name, size in _marker(path).get("files", {}).items():
        if found.get(name) == size:
            continue
        state = f"has {found[name]} bytes instead of {size}" if name in found else "is missing"
        raise TrainError(
            f"{path / name}: {state}, so this checkpoint can not be continued from; delete the folder {path}, and the same "
            f"command continues {otherwise}"
        )


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
