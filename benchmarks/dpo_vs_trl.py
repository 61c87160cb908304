"""DPO, rlaif against TRL 1.16, paired: the same token ids, the same machine, turn and turn about.

python -m benchmarks.dpo_vs_trl --model MODEL_FOLDER --trl-python TRL_ENVIRONMENT/bin/python
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.dpo_rows import COMPLETION_TOKENS, PAIRS, PROMPT_TOKENS

ROOT = Path(__file__).resolve().parents[1]
TOKENS_PADDED = PAIRS * 2 * (PROMPT_TOKENS + COMPLETION_TOKENS)
TOKENS_TREE = PAIRS * (PROMPT_TOKENS + 2 * (COMPLETION_TOKENS - 1))
Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--trl-python", required=True, help="the Python of an environment with trl==1.16.0")
    parser.add_argument("--steps", type=int, default=2, help="measured steps a round, after one warm-up")
    parser.add_argument("--rounds", type=int, default=2, help="rounds; in each, every side runs once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="also TRL with its default gradient checkpointing")
    parser.add_argument("--min-speedup", type=float, default=0.0, help="exit status 3 below this")
    parser.add_argument("--max-memory", type=float, default=math.inf, help="exit status 3 above this ratio")
    options = parser.parse_args()
    common = [options.model, str(1 + options.steps), str(options.threads)]
    sides = {
        "rlaif": [sys.executable, "-m", "benchmarks.side_ours", *common],
        "TRL": [options.trl_python, "-m", "benchmarks.side_trl", *common, "plain"],
    }
    if options.checkpointing:
        sides["TRL, gradient checkpointing"] = [*sides["TRL"][:-1], "checkpointing"]
    results: dict[str, list[Result]] = {name: [] for name in sides}
    for number in range(options.rounds):
        for name, command in sides.items():
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            results[name].append(run_side(command, options.threads))
    check_same_task(results)
    speedup, memory = print_table(results)
    if speedup < options.min_speedup or memory > options.max_memory:
        sys.exit(3)


def run_side(command: list[str], threads: int) -> Result:
    """Runs one side in a process of its own and reads the JSON it prints last."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def check_same_task(results: dict[str, list[Result]]) -> None:
    """Both sides must have seen the same tokens under the same policy: log-probs, rewards and loss of step 0."""
    ours = results["rlaif"][0]["logs"][0]
    assert ours["num_tokens"] == TOKENS_TREE, (ours["num_tokens"], TOKENS_TREE)
    for name in results:
        first = results[name][0]["logs"][0]
        assert math.isclose(first["loss"], math.log(2), abs_tol=1e-3), (name, first["loss"])
        for key in ("logps/chosen", "logps/rejected"):
            assert math.isclose(first[key], ours[key], rel_tol=1e-4), (name, key, first[key], ours[key])
        for key in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
            assert abs(first[key]) < 1e-3, (name, key, first[key])
        if name != "rlaif":
            assert first["num_tokens"] == TOKENS_PADDED, (name, first["num_tokens"], TOKENS_PADDED)


def print_table(results: dict[str, list[Result]]) -> tuple[float, float]:
    """Prints the Markdown table; returns rlaif's speed-up and memory ratio against plain TRL."""
    speed, memory = {}, {}
    print("| | seconds a step (median) | samples/s | peak memory, MB |\n|---|---|---|---|")
    for name, rounds in results.items():
        seconds = statistics.median([value for result in rounds for value in result["seconds"][1:]])
        speed[name] = PAIRS / seconds
        memory[name] = max(result["peak_mb"] for result in rounds)
        print(f"| {name} | {seconds:.2f} | {speed[name]:.3f} | {memory[name]:,.0f} |")
    for name in results.keys() - {"rlaif"}:
        print(f"\nrlaif : {name} = {speed['rlaif'] / speed[name]:.2f} x the speed, "
              f"{memory['rlaif'] / memory[name]:.2f} of the memory")  # fmt: skip
    return speed["rlaif"] / speed["TRL"], memory["rlaif"] / memory["TRL"]


if __name__ == "__main__":
    main()
