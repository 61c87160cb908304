"""One process: steps of rlaif on a task's rows. Prints one JSON object as its last line.

python -m benchmarks.our_side TASK MODEL STEPS THREADS
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.models import reward_head
from benchmarks.rows import IdRow, completions
from benchmarks.side import print_result, read_arguments
from benchmarks.stopwatch import Stopwatch
from benchmarks.tasks import ALPHA, BETA, LEARNING_RATE, RANK, SIMPO_GAMMA, Task
from rlaif.training import session
from rlaif.training.checkpoints import read_metrics
from rlaif.training.config import load_preset
from rlaif.training.rows import Completion, Row, Rows

METHOD_KEYS: dict[str, dict[str, Any]] = {
    "dpo": {"beta": BETA["dpo"]},
    "kto": {"beta": BETA["kto"]},
    "orpo": {"beta": BETA["orpo"]},
    "simpo": {"beta": BETA["simpo"], "gamma_beta_ratio": SIMPO_GAMMA / BETA["simpo"]},
    "sft": {},
    "rm": {"centering": 0.0},
}
"""Keys of the presets by which both sides compute the same loss."""


def main(options: argparse.Namespace) -> None:
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, _reference_clock() as precompute_seconds:
        config = task_config(
            options.task, options.model, Path(folder), options.steps, len(options.rows), options.compile
        )
        trainer = session.open_trainer(config, our_rows(options.rows), callbacks=[stopwatch])
        if options.task.method == "rm":
            _set_head(trainer.model)
        trainer.resume(None)
        logs = read_metrics(Path(folder) / "metrics.jsonl")
    print_result(stopwatch, logs, precompute_seconds=precompute_seconds())


def our_rows(rows: list[IdRow]) -> Rows:
    """A task's rows as rlaif's."""
    return Rows(
        rows=[
            Row(
                str(index),
                tuple(row["prompt_ids"]),
                tuple(Completion(tuple(ids)) for ids in completions(row)),
                label=row.get("label"),
            )
            for index, row in enumerate(rows)
        ]
    )


def task_config(task: Task, model: str, output: Path, steps: int, batch_size: int, compile: bool = False) -> Any:
    """The configuration of a task: the shipped preset, with the benchmark's optimiser and shapes."""
    weights = {"full": True} if task.full else {"lora": {"r": RANK, "alpha": ALPHA}}
    cached = {"reference": "cached", "reference_cache": output / "reference"}  # computed anew in every run
    reference = cached if task.cached or task.full else {"reference": "adapter-off"}
    return load_preset(
        task.method,
        model=model,
        data="rows",
        output=output,
        learning_rate=LEARNING_RATE,
        batch_size=batch_size,
        save_steps=10_000,
        compile=compile,
        trainer={"max_steps": steps, "lr_scheduler_type": "constant", "optim": "adamw_torch", "warmup_steps": 0},
        **METHOD_KEYS[task.method],
        **weights,
        **(reference if task.method == "dpo" else {}),
    )


def _set_head(model: Any) -> None:
    """The reward head's first weights are those of the other side."""
    for name, weight in model.named_parameters():
        if "score" in name and weight.shape[0] == 1:
            weight.data.copy_(reward_head(weight.shape[1]))


@contextmanager
def _reference_clock() -> Iterator[Callable[[], float]]:
    """Measures the seconds spent on computing the cached reference."""
    seconds, compute = 0.0, session.cached_reference

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal seconds
        started = time.perf_counter()
        result = compute(*args, **kwargs)
        seconds += time.perf_counter() - started
        return result

    session.cached_reference = timed
    try:
        yield lambda: seconds
    finally:
        session.cached_reference = compute


if __name__ == "__main__":
    main(read_arguments(__doc__.splitlines()[0]))
