"""Training: batches of prompt trees, chunked log-probs, objectives, and the run around them. Importing this package
loads no torch; `train` does when it is called."""

from rlaif.training.config import TrainConfig, load_preset, parse_config
from rlaif.training.run import DryRun, TrainResult, dry_run, train

__all__ = ["DryRun", "TrainConfig", "TrainResult", "dry_run", "load_preset", "parse_config", "train"]
