"""A picture of a run's metrics: one small plot per metric, with the held-out rows' values beside the training's."""

from collections.abc import Sequence
from pathlib import Path

CURVES_FILE = "curves.png"
SHOWN = (
    "loss", "reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio",
    "nll_loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "accuracy", "kl", "logps/chosen",
    "logps/rejected", "mean_token_accuracy", "entropy", "grad_norm", "learning_rate",
)  # fmt: skip
"""The metrics that are drawn where a run has them, in this order."""
COLUMNS = 3
ROW_INCHES = 2.6
HEAD_INCHES, FOOT_INCHES = 0.75, 0.5
"""Above the first row of plots, and within the last below its axes."""


def draw_curves(lines: Sequence[dict[str, float]], path: Path, title: str) -> None:
    """Draws the lines of metrics.jsonl into a PNG; nothing if there are none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in SHOWN if any(name in line for line in lines)]
    if not names:
        return
    rows = -(-len(names) // COLUMNS)
    height = ROW_INCHES * rows + HEAD_INCHES
    figure = Figure(figsize=(4 * COLUMNS, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(  # by hand: to find the places draws the figure twice
        left=0.06, right=0.985, bottom=FOOT_INCHES / height, top=1 - HEAD_INCHES / height, wspace=0.22, hspace=0.35
    )
    figure.suptitle(title, y=1 - 0.15 / height)
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, COLUMNS, number)
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
        axes.locator_params(nbins=5)
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
