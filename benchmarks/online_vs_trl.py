"""GRPO steps of rlaif against TRL 1.16's GRPOTrainer, paired: the same machine, turn and turn about.

python -m benchmarks.online_vs_trl --model MODEL_FOLDER --trl-python TRL_ENVIRONMENT/bin/python [--task NAME ...]
"""

import argparse
import math
import os
import statistics
import sys

from benchmarks.agreement import Result
from benchmarks.online_tasks import GROUP, TASKS, OnlineTask
from benchmarks.vs_trl import compare_all, end, peak_memory, run_side

EQUAL = {
    "learner": ("loss", "grad_norm", "entropy", "reward"),
    "learner-kl": ("loss", "grad_norm", "entropy", "kl", "reward"),
}
"""By task, what both sides must log alike of their first step."""
LENGTHS = ("completions/min_length", "completions/max_length")
TOLERANCE, ABSOLUTE = 1e-3, 1e-6
"""Relative; and absolute, for the loss: without KL it is 0 but for rounding, as the advantages of a group sum to 0."""
HEAD = """\
| task | side | seconds a step | of it sampling | CPU seconds a step | peak memory, MB | speed | by CPU seconds | memory |
|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    options = read_options()

    def compare(name: str) -> list[str]:
        task = TASKS[name]
        results = run_task(task, options)
        check_agreement(task, {side: rounds[0] for side, rounds in results.items()})
        return print_rows(task, results, limits=options.limits)

    print(HEAD, flush=True)
    end(compare_all(options.task or TASKS, compare))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--trl-python", required=True, help="the Python of an environment with trl==1.16.0")
    parser.add_argument("--task", action="append", choices=TASKS, help="run this one; may be repeated; else all")
    parser.add_argument("--prompts", type=int, default=8, help=f"prompts of a step, with {GROUP} responses each")
    parser.add_argument(
        "--trl-rows", type=int, action="append",
        help="responses TRL has in memory at once, the rest by gradient accumulation; may be repeated, the faster one is "
        "compared with; else 8, the responses to one prompt",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=1, help="measured steps a round, after one warm-up")
    parser.add_argument("--rounds", type=int, default=2, help="rounds; in each, every side runs once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="TRL with its default gradient checkpointing")
    parser.add_argument("--limits", action="store_true", help="exit status 3 if a task misses what is asked of it")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_task(task: OnlineTask, options: argparse.Namespace) -> dict[str, list[Result]]:
    """The results of each side, one a round. Says how busy the machine was while each ran."""
    results: dict[str, list[Result]] = {side: [] for side in commands(task, options)}
    for number in range(options.rounds):
        for side, command in commands(task, options).items():
            before = os.getloadavg()[0]
            result = run_side(command, options.threads)
            results[side].append(result)
            print(
                f"{task.name}, round {number + 1} of {options.rounds}: {side}: {shown(result['seconds'])} s, "
                f"{shown(result['cpu_seconds'])} CPU s; load {before:.1f} before, {os.getloadavg()[0]:.1f} after",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return results


def commands(task: OnlineTask, options: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each side."""
    total = options.prompts * GROUP
    arguments = [task.name, options.model, str(options.prompts), str(1 + options.steps), str(options.threads)]
    arguments += ["--tiny"] if options.tiny else []
    trl = [options.trl_python, "-m", "benchmarks.online_trl_side", *arguments]
    trl += ["--checkpointing"] if options.checkpointing else []
    sides = {"rlaif": [sys.executable, "-m", "benchmarks.online_our_side", *arguments]}
    for rows in options.trl_rows or [GROUP]:
        at_once = min(rows, total)
        sides[f"TRL, {at_once} at once"] = [*trl, "--rows", str(at_once)]
    return sides


def shown(seconds: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in seconds)


def check_agreement(task: OnlineTask, results: dict[str, Result]) -> tuple[str, ...]:
    """What of the sides' first steps was found equal. Raises AssertionError naming what they logged differently.

    The learner's steps begin with the same weights, tokens and rewards, so they have the same loss and gradient; those that
    sample have responses of the same length.
    """
    ours, keys = results["rlaif"]["logs"][0], (*EQUAL.get(task.name, ()), *LENGTHS)
    for side, result in results.items():
        first = result["logs"][0]
        for key in keys:
            assert math.isclose(first[key], ours[key], rel_tol=TOLERANCE, abs_tol=ABSOLUTE), (
                f"{key} is {first[key]} for {side} and {ours[key]} for rlaif"
            )
    return keys


def median_of(rounds: list[Result], key: str) -> float:
    """Of all steps but the first of each process."""
    return statistics.median(value for result in rounds for value in result[key][1:])


def print_rows(task: OnlineTask, results: dict[str, list[Result]], *, limits: bool) -> list[str]:
    """Prints the task's rows of the table; returns which limits were missed, against the faster of TRL's sides."""
    found = {
        side: (median_of(rounds, "seconds"), median_of(rounds, "cpu_seconds"), peak_memory(rounds))
        for side, rounds in results.items()
    }
    clock, cpu, memory = found["rlaif"]
    for side, (own_clock, own_cpu, own_memory) in found.items():
        ratios = (
            f"{own_clock / clock:.2f} | {own_cpu / cpu:.2f} | {memory / own_memory:.2f}" if side != "rlaif" else "| |"
        )
        sampling = f"{median_of(results[side], 'sampling'):.3g}" if task.samples else ""
        print(f"| {task.name} | {side} | {own_clock:.3g} | {sampling} | {own_cpu:.3g} | {own_memory:,.0f} | {ratios} |")
    sys.stdout.flush()
    if not limits:
        return []
    best, _, most = min(values for side, values in found.items() if side != "rlaif")
    missed = [f"{task.name}: speed is below {task.speedup} x TRL's"] if best / clock < task.speedup else []
    return missed + ([f"{task.name}: memory is above {task.memory} of TRL's"] if memory / most > task.memory else [])


if __name__ == "__main__":
    main()
