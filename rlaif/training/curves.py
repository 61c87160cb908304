"""A picture of a run's metrics: one small plot per metric, with the held-out rows' values beside the training's."""

from collections.abc import Sequence
from pathlib import Path

CURVES_FILE = "curves.png"
SHOWN = (
    "loss", "nll_loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "accuracy", "kl",
    "logps/chosen", "logps/rejected", "mean_token_accuracy", "entropy", "grad_norm", "learning_rate",
)  # fmt: skip
"""The metrics that are drawn where a run has them, in this order."""
COLUMNS = 3


def draw_curves(lines: Sequence[dict[str, float]], path: Path, title: str) -> None:
    """Draws the lines of metrics.jsonl into a PNG; nothing if there are none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in SHOWN if any(name in line for line in lines)]
    if not names:
        return
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, COLUMNS, number)
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
        for key, style in ((name, "-"), (f"eval/{name}", "o--")):
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                single = "." if len(points) == 1 and style == "-" else ""
                axes.plot(*zip(*points, strict=True), style + single, markersize=3, label=key)
        if any(f"eval/{name}" in line for line in lines):
            axes.legend(fontsize=8)
    for axes in figure.axes[-COLUMNS:]:
        axes.set_xlabel("step")
    figure.savefig(path, dpi=100)
