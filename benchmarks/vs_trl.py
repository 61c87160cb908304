"""rlaif against TRL 1.16, paired: the same token ids, the same machine, turn and turn about.

python -m benchmarks.vs_trl --model MODEL_FOLDER --trl-python TRL_ENVIRONMENT/bin/python [--task NAME ...]
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.agreement import Result, check_agreement
from benchmarks.side import TINY
from benchmarks.stopwatch import on_gpu
from benchmarks.tasks import DEFAULT_TASKS, MEMORY_TASKS, TASKS, Task

ROOT = Path(__file__).resolve().parents[1]
MEMORY_LIMIT = 1.10
HEAD = """\
| task | side | seconds a step (median) | samples/s | peak memory, MB | speed, rlaif : this | memory, rlaif : this |
|---|---|---|---|---|---|---|"""


def main() -> None:
    options = _options()
    peaks: dict[str, float] = {}

    def compare(name: str) -> list[str]:
        task = TASKS[name]
        results = run_task(task, options)
        if task.peer:
            first = {side: rounds[0] for side, rounds in results.items()}
            check_agreement(task, task.rows(TINY if options.tiny else 1), first, 2e-2 if on_gpu() else 1e-4)
        missed = print_rows(task, results, options)
        peaks[name] = peak_memory(results["rlaif"])
        return missed

    print(HEAD, flush=True)
    failures = compare_all(options.task or DEFAULT_TASKS, compare)
    end(failures + check_memory_tasks(peaks))


def compare_all(names: Iterable[str], compare: Callable[[str], list[str]]) -> list[str]:
    """What is wrong with any of the tasks: the limits that `compare` says were missed, sides that differ or fail."""
    failures: list[str] = []
    for name in names:
        try:
            failures += compare(name)
        except (AssertionError, subprocess.CalledProcessError) as error:
            failures.append(f"{name}: {error}")
    return failures


def end(failures: list[str]) -> None:
    """Says what is wrong, if anything is, and ends with status 3."""
    if failures:
        print("\n".join(failures), file=sys.stderr)
        sys.exit(3)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--trl-python", required=True, help="the Python of an environment with trl==1.16.0")
    parser.add_argument("--task", action="append", choices=TASKS, help="run this one; may be repeated; else all but rm")
    parser.add_argument("--steps", type=int, default=2, help="measured steps a round, after one warm-up")
    parser.add_argument("--rounds", type=int, default=2, help="rounds; in each, every side runs once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="also TRL with its default gradient checkpointing")
    parser.add_argument("--liger", action="store_true", help="also TRL with Liger's kernels, which must be installed")
    parser.add_argument("--compile", action="store_true", help="also rlaif with compile: true")
    parser.add_argument("--without-onednn", action="store_true", help="both sides with torch's own matrix products")
    parser.add_argument("--min-speedup", type=float, default=0.0, help="exit status 3 below this, in any task")
    parser.add_argument("--max-memory", type=float, default=math.inf, help="exit status 3 above this ratio")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_task(task: Task, options: argparse.Namespace) -> dict[str, list[Result]]:
    """The results of each side, one a round."""
    arguments = [task.name, options.model, str(1 + options.steps), str(options.threads)]
    arguments += ["--tiny"] if options.tiny else []
    arguments += ["--without-onednn"] if options.without_onednn else []
    sides = {"rlaif": [sys.executable, "-m", "benchmarks.our_side", *arguments]}
    if options.compile:
        sides["rlaif, compile"] = [*sides["rlaif"], "--compile"]
    if task.peer:
        sides["TRL"] = [options.trl_python, "-m", "benchmarks.trl_side", *arguments]
        if options.checkpointing:
            sides["TRL, gradient checkpointing"] = [*sides["TRL"], "--checkpointing"]
        if options.liger:
            sides["TRL, Liger"] = [*sides["TRL"], "--liger"]
    results: dict[str, list[Result]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side, command in sides.items():
            print(f"{task.name}, round {number + 1} of {options.rounds}: {side}", file=sys.stderr, flush=True)
            results[side].append(run_side(command, options.threads))
    return results


def run_side(command: list[str], threads: int) -> Result:
    """Runs one side in a process of its own and reads the JSON it prints last."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def print_rows(task: Task, results: dict[str, list[Result]], options: argparse.Namespace) -> list[str]:
    """Prints the task's rows of the table; returns which limits were missed."""
    seconds = {side: median_seconds(rounds) for side, rounds in results.items()}
    memory = {side: peak_memory(rounds) for side, rounds in results.items()}
    for side in results:
        speed_ratio, memory_ratio = seconds[side] / seconds["rlaif"], memory["rlaif"] / memory[side]
        ratios = f"{speed_ratio:.2f} | {memory_ratio:.2f}" if side != "rlaif" else "|"
        samples = len(task.rows(1)) / seconds[side]
        print(f"| {task.name} | {side} | {seconds[side]:.3g} | {samples:.3f} | {memory[side]:,.0f} | {ratios} |")
    if task.cached:
        spent = [f"{side} {rounds[0]['precompute_seconds']:.2f} s" for side, rounds in results.items()]
        print(f"| {task.name} | reference cached before: {', '.join(spent)} | | | | | |")
    sys.stdout.flush()
    missed = []
    if "TRL" in results and seconds["TRL"] / seconds["rlaif"] < options.min_speedup:
        missed.append(f"{task.name}: speed is below {options.min_speedup} x TRL's")
    if "TRL" in results and memory["rlaif"] / memory["TRL"] > options.max_memory:
        missed.append(f"{task.name}: memory is above {options.max_memory} of TRL's")
    return missed


def median_seconds(rounds: list[Result]) -> float:
    """Of all steps but the first of each process."""
    return statistics.median(value for result in rounds for value in result["seconds"][1:])


def peak_memory(rounds: list[Result]) -> float:
    return max(result["peak_mb"] for result in rounds)


def check_memory_tasks(peaks: dict[str, float]) -> list[str]:
    """With equally many tokens in all, it may not matter to memory whether prompts or answers are long."""
    if not set(MEMORY_TASKS) <= peaks.keys():
        return []
    measured = [peaks[name] for name in MEMORY_TASKS]
    ratio = max(measured) / min(measured)
    print(f"\nPeak memory, {' against '.join(MEMORY_TASKS)}: {ratio:.3f} (limit {MEMORY_LIMIT})")
    return [f"memory depends on whether prompts or answers are long: {ratio:.3f}"] if ratio > MEMORY_LIMIT else []


if __name__ == "__main__":
    main()
