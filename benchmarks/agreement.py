"""Both sides must have computed the same thing at step 0, or their times may not be compared."""

import math
from typing import Any

from benchmarks.rows import IdRow, sequence_tokens
from benchmarks.tasks import AGREEMENTS, Task

Result = dict[str, Any]
LOGS_NO_TOKENS = ("orpo", "simpo")
"""Methods of which TRL's trainer does not log num_tokens."""


def check_agreement(task: Task, rows: list[IdRow], results: dict[str, Result], tolerance: float) -> None:
    """Raises AssertionError naming the side and the key of the first logs that differ.

    results: one of each side, 'rlaif' among them. tolerance: relative, and absolute for values that are zero.
    """
    agreement, ours = AGREEMENTS[task.method], results["rlaif"]["logs"][0]
    for side, result in results.items():
        first = result["logs"][0]
        for key, value in agreement.expected.items():
            assert math.isclose(first[key], value, rel_tol=10 * tolerance, abs_tol=10 * tolerance), (
                f"{task.name}, {side}: {key} is {first[key]}, not {value}"
            )
        for key in agreement.equal:
            assert math.isclose(first[key], ours[key], rel_tol=tolerance), (
                f"{task.name}: {key} is {first[key]} for {side} and {ours[key]} for rlaif"
            )
        if side != "rlaif" and task.method not in LOGS_NO_TOKENS:
            assert first["num_tokens"] == sequence_tokens(rows), f"{task.name}, {side}: {first['num_tokens']} tokens"
