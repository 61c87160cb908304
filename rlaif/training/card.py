"""The README.md of a trained adapter or model: what it is, what it learnt from, who judged, how it went."""

import json
from collections.abc import Mapping
from pathlib import Path

from rlaif.inputs import read_rows
from rlaif.training.config import TrainConfig


def judges_of(data: Path) -> list[str]:
    """'name (model)' of every judge in the provenance of the pairs, sorted; empty if the rows have none."""
    found = set()
    for _, row in read_rows(str(data)):
        provenance = row.get("provenance")
        judges = provenance.get("judges") if isinstance(provenance, dict) else None
        for judge in judges if isinstance(judges, list) else []:
            if isinstance(judge, dict):
                found.add(f"{judge.get('judge')} ({public_name(judge.get('model'))})")
    return sorted(found)


def public_name(name: object) -> str:
    """The name as the card gives it: a hub name as it is, of a path only its last part."""
    path = Path(str(name))
    return path.resolve().name if path.is_absolute() or path.exists() else str(name)


def model_card(
    config: TrainConfig,
    base: str,
    data_hash: str,
    judges: list[str],
    counts: Mapping[str, int],
    metrics: Mapping[str, float],
) -> str:
    """The card as Markdown with the hub's front matter. counts: of the rows, by what became of them."""
    kind = "all weights" if config.full else f"a LoRA adapter of rank {config.lora.r}"
    base, model, data, output = map(public_name, (base, config.model, config.data, config.output))
    front = ["---", f"base_model: {json.dumps(base)}", "library_name: " + ("transformers" if config.full else "peft")]
    front += ["pipeline_tag: text-generation", "tags:", "- rlaif", f"- {config.method}"]
    front += [] if config.full else ["- lora"]
    shown = [(name, value) for name, value in metrics.items() if name not in ("step", "epoch")]
    command = f"rlaif train {config.method} --model {model} --data {data} -o {output}"
    lines = [
        *front,
        "---",
        "",
        f"# {output}",
        "",
        f"Trained with rlaif: {kind} of `{base}`, method `{config.method}`, "
        f"learning rate {config.peak_learning_rate:g}, {config.epochs:g} epoch(s), {config.batch_size} rows per step"
        + (f", beta {config.beta:g}." if hasattr(config, "beta") else "."),
        "",
        "| | |",
        "|---|---|",
        f"| data | `{data}` (SHA-256 {data_hash}) |",
        f"| rows | {', '.join(f'{count} {what}' for what, count in counts.items())} (skipped.jsonl) |",
        f"| judges | {', '.join(judges) or 'not recorded in the data'} |",
        f"| seed | {config.seed} |",
        "",
        "Metrics of the last steps (all of them: metrics.jsonl):",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.6g} |" for name, value in shown),
        "",
        "```",
        f"{command} --config {output}/config.yaml",
        "```",
        "",
    ]
    return "\n".join(lines)
