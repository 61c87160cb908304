"""The summary of a recipe: what was made, what was measured, where it is."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.evaluation import Evaluation
from rlaif.judges.stats import JudgeStats
from rlaif.records import write_text
from rlaif.report.tables import evaluation_rows, judge_rows, markdown_table
from rlaif.training.checkpoints import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    from rlaif.recipes.config import RecipeConfig

FIRST_PICK_BIAS = 0.75
"""From this share of votes for the first answer on (or 1 minus it), the summary warns."""
FEWEST_VOTES = 10


def write_summary(config: "RecipeConfig", stages: dict[str, dict[str, Any]]) -> str:
    """Writes summary.md into the run folder and returns its text."""
    parts = [
        f"# {config.name}",
        f"{config.description}\n\nModel: `{config.model}`" if config.description else f"Model: `{config.model}`",
        _data_section(stages) if "pairs" in stages else "",
        _judge_section(stages["judge"]) if "judge" in stages else "",
        _train_section(stages["train"]),
    ]
    if "evaluate" in stages:
        values = {key: value for key, value in stages["evaluate"].items() if key in Evaluation.model_fields}
        parts.append(_evaluate_section(Evaluation.model_validate(values)))
    parts.append(_files_section(config, stages))
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_text(config.output / "summary.md", text)
    return text


def _data_section(stages: dict[str, dict[str, Any]]) -> str:
    made, pairs = stages["generate"], stages["pairs"]
    longer = pairs["longer_chosen"]
    lines = [
        "## Data",
        "",
        f"* {made['prompts']} prompts, {made['responses']} responses"
        + (f", {made['failed']} requests failed" if made["failed"] else ""),
        *_preference_lines(stages),
        f"* {pairs['pairs']} preference pairs; the chosen response is the longer one in "
        + ("-" if longer is None else f"{longer:.0%}")
        + " of them",
    ]
    if longer is not None and longer > 0.6:
        lines.append("* Note: chosen responses are mostly longer; the policy may learn length (pairs.max_length_ratio)")
    return "\n".join(lines)


def _preference_lines(stages: dict[str, dict[str, Any]]) -> list[str]:
    """What preferences were made of: revisions, verdicts or both."""
    lines = []
    if "revise" in stages:
        revised = stages["revise"]
        without = "; ".join(f"{reason}: {count}" for reason, count in revised["skipped"].items())
        lines.append(
            f"* {revised['revised']} of {revised['responses']} responses were revised{f' ({without})' if without else ''}"
        )
    if "judge" in stages:
        judged = stages["judge"]
        lines.append(f"* {judged['verdicts']} verdicts; {judged['skipped']} prompts gave no comparison")
    return lines


def _judge_section(judged: dict[str, Any]) -> str:
    names = {item.name for item in fields(JudgeStats)}
    judges = [JudgeStats(**{key: value for key, value in row.items() if key in names}) for row in judged["judges"]]
    lines = ["## Judges", "", markdown_table(judge_rows(judges))]
    for stats in judges:
        rate = stats.first_pick_rate
        if rate is not None and stats.decided >= FEWEST_VOTES and not 1 - FIRST_PICK_BIAS < rate < FIRST_PICK_BIAS:
            say = "has no say here" if not stats.weight else "its margins are the mean over both orders"
            lines += ["", f"**{stats.judge} picks the answer shown first in {rate:.0%} of its votes** ({say})."]
    return "\n".join(lines)


def _train_section(trained: dict[str, Any]) -> str:
    return "\n\n".join(["## Training", *(_stage(stage) for stage in trained["stages"])])


def _stage(trained: dict[str, Any]) -> str:
    curve = read_metrics(Path(trained["folder"]) / METRICS_FILE)
    rows = [["", "first step", "last step"]]
    for key in (
        "loss",
        "reward",
        "kl",
        "eval/reward",
        "eval/relevance",
        "completions/mean_length",
        "rewards/accuracies",
        "rewards/margins",
        "rewards/chosen",
        "rewards/rejected",
    ):
        values = [row[key] for row in curve if key in row]
        if values:
            rows.append([key, f"{values[0]:.4f}", f"{values[-1]:.4f}"])
    steps, used, left_out = (trained[key] for key in ("steps", "rows", "skipped"))
    return f"{trained['method']}: {steps} steps on {used} rows ({left_out} left out)\n\n{markdown_table(rows)}"


def _evaluate_section(result: Evaluation) -> str:
    lines = ["## Evaluation on held-out prompts", "", markdown_table(evaluation_rows(result)), ""]
    lines += [f"* {finding}" for finding in result.findings]
    for example in result.examples:
        lines += ["", f"> **{_one_line(example['prompt'])}**", ">"]
        lines += [f"> base: {_one_line(example['baseline'])}", ">", f"> trained: {_one_line(example['policy'])}"]
    return "\n".join(lines)


def _files_section(config: "RecipeConfig", stages: dict[str, dict[str, Any]]) -> str:
    folder = config.output
    listed = {
        **({"responses": folder / "generate" / "responses.jsonl"} if config.generate else {}),
        **({"revisions": folder / "revise" / "revised.jsonl"} if config.revise else {}),
        **({"votes": folder / "judge" / "judged.jsonl.d" / "judgments.jsonl"} if config.judge else {}),
        **({"verdicts": folder / "judge" / "judged.jsonl"} if config.judge else {}),
        **({"preference pairs": folder / "pairs" / "preferences.jsonl"} if config.generate else {}),
        "trained policy": Path(stages["train"]["folder"]),
        "metrics of the training": Path(stages["train"]["folder"]) / METRICS_FILE,
    }
    if "evaluate" in stages:
        listed["evaluation"] = folder / "evaluate" / "evaluation.json"
    listed |= {"configuration": folder / "config.yaml", "this summary": folder / "summary.md"}
    lines = [f"* {name}: `{path}`" for name, path in listed.items()]
    seconds = ", ".join(f"{name} {result['seconds']:.0f} s" for name, result in stages.items() if "seconds" in result)
    return "\n".join(["## Files", "", *lines, "", f"Time: {seconds}"])


def _one_line(text: str) -> str:
    return " ".join(text.split())
