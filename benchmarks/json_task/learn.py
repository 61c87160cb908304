"""Does an online method learn the shape of an answer on prompts it has not seen, and do answers still belong to their prompts?

python -m benchmarks.json_task.learn grpo rloo online-dpo --model MODEL -o runs/json-task

Writes the curve of each run (what metrics.jsonl has of rewards, KL, lengths and evaluations) to OUTPUT/curves/METHOD.jsonl.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaif import evaluate
from rlaif.evaluation import ModelReport
from rlaif.training import load_preset, train
from rlaif.training.checkpoints import read_metrics
from rlaif.types import Sampling

HERE = Path(__file__).parent
COMMON = {
    "max_tokens": 48, "temperature": 0.7, "learning_rate": 1e-4, "epochs": 100, "seed": 0, "validation": 0.1,
    "eval_steps": 8, "save_steps": 100,
}  # fmt: skip
SETTINGS: Mapping[str, dict[str, Any]] = {
    "grpo": {"group_size": 8, "batch_size": 4, "beta": 0.05, "trainer": {"max_steps": 24}},
    "rloo": {"group_size": 8, "batch_size": 4, "trainer": {"max_steps": 24}},
    "online-dpo": {"group_size": 8, "batch_size": 4, "trainer": {"max_steps": 24}},
    "ppo": {"group_size": 8, "batch_size": 4, "passes": 2, "critic_learning_rate": 3e-4, "eval_steps": 20,
            "trainer": {"max_steps": 40}},
    "spo": {"batch_size": 32, "beta": 0.05, "first_samples": 4, "trainer": {"max_steps": 24}},
    "xpo": {"batch_size": 16, "trainer": {"max_steps": 40}},
}  # fmt: skip
"""What differs from COMMON and the method's preset."""
HEAD = """| method | seconds | pass rate before | after | tokens an answer | relevance before | after | kept |
|---|---|---|---|---|---|---|---|"""
KEPT = ("step", "reward", "kl", "loss", "completions/mean_length", "completions/clipped_ratio", "frac_reward_zero_std")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", choices=list(SETTINGS))
    parser.add_argument("--model", required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/json-task"))
    given = parser.parse_args()
    print(HEAD)
    for method in given.methods:
        print(_row(method, given.model, given.output), flush=True)


def _row(method: str, model: str, output: Path) -> str:
    folder, judge = output / method, str(HERE / "judge.yaml")
    config = load_preset(
        method, model=model, data=HERE / "prompts.jsonl", output=folder, rewards=judge, **(COMMON | SETTINGS[method])
    )
    started = time.perf_counter()
    train(config, overwrite=True)  # a run that is continued has no time of its own
    seconds = time.perf_counter() - started
    write_curve(folder / "metrics.jsonl", output / "curves" / f"{method}.jsonl")
    sampling = Sampling(temperature=0.7, max_tokens=48)
    found = evaluate(
        str(folder), model, HERE / "held_out.jsonl", judge, n=2, sampling=sampling, output=output / f"{method}-eval",
        overwrite=True,
    )  # fmt: skip
    before, after = found.baseline, found.policy
    assert before.relevance is not None  # the base is a local model
    assert after.relevance is not None
    kept = after.relevance / before.relevance
    tokens = f"{before.mean_tokens:.1f} to {after.mean_tokens:.1f}"
    relevance = f"{before.relevance:.3f} | {after.relevance:.3f} | {kept:.0%}"
    return f"| `{method}` | {seconds:.0f} | {_rate(before)} | {_rate(after)} | {tokens} | {relevance} |"


def _rate(report: ModelReport) -> str:
    assert report.score is not None
    return f"{report.score.value:.1%} [{report.score.low:.0%}, {report.score.high:.0%}]"


def write_curve(metrics: Path, path: Path) -> None:
    """What a reader wants to see of a run's metrics, line by line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for line in read_metrics(metrics):
        chosen = {name: value for name, value in line.items() if name in KEPT or name.startswith("eval/")}
        rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in chosen.items()}
        lines.append(json.dumps(rounded) + "\n")
    path.write_text("".join(lines))


if __name__ == "__main__":
    main()
