"""One training run from a configuration to a folder with the trained adapter or model."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlaif.errors import ConfigError, DataError
from rlaif.progress import say
from rlaif.records import write_text
from rlaif.training.arguments import check_trainer_keys
from rlaif.training.card import judges_of, model_card
from rlaif.training.checkpoints import METRICS_FILE, read_metrics
from rlaif.training.checks import check_models, check_rows, split
from rlaif.training.config import DataKind, TrainConfig, load_preset
from rlaif.training.config.online import OnlineConfig
from rlaif.training.config.paired import SpinConfig
from rlaif.training.curves import CURVES_FILE, draw_curves
from rlaif.training.formats import read_examples
from rlaif.training.rows import Rows, Skipped, tokenize
from rlaif.training.run_folder import (
    check_place,
    check_same_run,
    data_hash,
    read_manifest,
    remove_run,
    settings,
    start_manifest,
    write_manifest,
)

SKIPPED_FILE, SHORTENED_FILE = "skipped.jsonl", "shortened.jsonl"
SHORTENED = "the turns after its last answer are left off: no answer follows them"


@dataclass(frozen=True)
class TrainResult:
    """A finished run. metrics: the last line of metrics.jsonl."""

    path: Path
    steps: int
    metrics: dict[str, float]
    rows: int
    skipped: int


@dataclass(frozen=True)
class DryRun:
    """What a run would do. trainable_parameters: None where only the weights could tell. responses: to be sampled and judged by
    an online method, at least; None for others."""

    rows: int
    skipped: dict[str, int]
    tokens: int
    completion_tokens: int
    longest_tokens: int
    steps: int
    trainable_parameters: int | None
    responses: int | None = None


def train(config: TrainConfig | str, *, overwrite: bool = False, **keys: Any) -> TrainResult:
    """Trains, and gives back where the result is and how it went.

    config: a whole configuration, or a preset ('dpo', 'sft', a YAML file) whose keys are replaced by `keys`, as in
    train("dpo", model="org/name", data="preferences.jsonl", output="runs/dpo", beta=0.2). A key that no preset has is
    refused.
    A killed run is continued from its last complete checkpoint; a finished one is not run again. Raises ConfigError if
    the folder holds another run, DataError for unusable data, EngineError for a model that does not load, TrainError
    if training can not start or go on.
    """
    if isinstance(config, str):
        config = load_preset(config, **keys)
    elif keys:
        raise ConfigError(f"{', '.join(keys)}: a whole configuration is given already; change it there instead")
    from rlaif.training import ranks, sharding

    ranks.start()
    sharding.check_possible(config)
    whole = config
    check_place(config, overwrite=overwrite)
    _check_keys(config)
    hashed = data_hash(config.data)
    if overwrite:
        if ranks.on_first(lambda: read_manifest(whole.output) is not None):
            _rows(config)  # nothing is deleted for a command that can not run
        ranks.on_first(lambda: remove_run(whole.output))
    manifest = ranks.on_first(lambda: check_same_run(whole.output, whole, hashed))
    if manifest is not None and manifest["finished"]:
        say(f"{config.output}: already finished, nothing is run again (--overwrite starts over)")
        return _result(config, manifest)
    if manifest is None:
        manifest = start_manifest(config, hashed)
    else:
        manifest["config"] = settings(config)
    rows = _rows(config, manifest)
    if ranks.rank() == 0:
        write_manifest(config.output, manifest)
    if isinstance(config, SpinConfig):
        rows = _spin_rows(config, manifest, rows.shortened)
    if ranks.rank() == 0:
        manifest["rows_hash"] = rows.hash()
        _list_rows(config, rows)
    _tell_rows(config, rows)
    base = _run(config, rows)
    started = manifest
    return _result(config, ranks.on_first(lambda: _finish(config, base, rows, started)))


def _check_keys(config: TrainConfig) -> None:
    """Raises an error for keys whose values only transformers or the model's configuration can tell to be wrong."""
    check_trainer_keys(config)
    check_models(config)
    if isinstance(config, OnlineConfig):
        from rlaif.training.online.judges import reward_sources
        from rlaif.training.online.servable import check_servable

        reward_sources(config)
        check_servable(config)
    if config.router_loss:
        from rlaif.training.router import check_router

        check_router(config)


def _finish(config: TrainConfig, base: str, rows: Rows, manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes the card, and marks the run as finished; returns its manifest."""
    metrics = _last_metrics(config)
    lines = read_metrics(config.output / METRICS_FILE)
    draw_curves(lines, config.output / CURVES_FILE, f"{config.method}: {config.output.name}")
    if (warning := displacement(lines)) is not None:
        say(warning)
    trained, held_out = (len(side) for side in split(rows.rows, config))
    counts = {"used": trained, "held out": held_out, "left out": len(rows.skipped)}
    judges = [reward.judge for reward in config.rewards] if isinstance(config, OnlineConfig) else judges_of(config.data)
    card = model_card(config, base, manifest["data_hash"], judges, counts, metrics)
    write_text(config.output / "README.md", card)
    manifest.update(finished=True, rows=trained, skipped=len(rows.skipped))
    write_manifest(config.output, manifest)
    return manifest


def displacement(lines: Sequence[dict[str, float]]) -> str | None:
    """A warning if the chosen answers became less likely than the reference holds them, although the margins grew.

    That is likelihood displacement (arXiv 2410.08847): both answers lose to ones nobody asked for. Told from the means
    of the last quarter of the run.
    """
    rewards = [line for line in lines if "rewards/chosen" in line and "rewards/margins" in line]
    last = rewards[-max(1, len(rewards) // 4) :]
    if len(rewards) < 4:
        return None
    chosen, margins = (sum(line[key] for line in last) / len(last) for key in ("rewards/chosen", "rewards/margins"))
    if not (chosen < 0 < margins) or rewards[0]["rewards/chosen"] < chosen:
        return None
    return (
        f"the chosen answers became less likely (rewards/chosen {chosen:.3g}) while the margins grew to {margins:.3g}: "
        "likelihood displacement. If that matters, add the chosen answers' own likelihood (loss: [sigmoid, sft]), use "
        "loss dpop, or a larger beta"
    )


def dry_run(config: TrainConfig) -> DryRun:
    """Tokenises the data and counts, without loading the model's weights."""
    check_place(config)
    _check_keys(config)
    data_hash(config.data)
    rows = _rows(config)
    if rows.shortened:
        say(_shortened(rows))
    return DryRun(
        rows=len(rows.rows),
        skipped=_reasons(rows),
        tokens=sum(len(row.prompt) + row.completion_tokens for row in rows.rows),
        completion_tokens=sum(row.completion_tokens for row in rows.rows),
        longest_tokens=max(len(row.prompt) + max(map(len, row.completions), default=0) for row in rows.rows),
        steps=(steps := config.total_steps(len(split(rows.rows, config)[0]))),
        trainable_parameters=_trainable_parameters(config),
        responses=config.responses(steps) if isinstance(config, OnlineConfig) else None,
    )


def _spin_rows(config: SpinConfig, manifest: dict[str, Any], shortened: list[str]) -> Rows:
    """The pairs of SPIN: of the data's answers and the policy's own, which are made first."""
    from rlaif.training import ranks
    from rlaif.training.spin import spin_pairs

    path, skipped = ranks.on_first(lambda: spin_pairs(config))
    rows = _tokenized(config, path, "pairs")
    rows.skipped += skipped
    rows.shortened = shortened
    _check_any(config, path, rows, manifest)
    return rows


def _rows(config: TrainConfig, manifest: dict[str, Any] | None = None) -> Rows:
    """The rows of the data file, tokenised and checked. manifest: of the run they are for, if one is to begin."""
    rows = (
        _tokenized(config, config.data, config.data_kind) if not isinstance(config, OnlineConfig) else _prompts(config)
    )
    _check_any(config, config.data, rows, manifest)
    check_rows(config, rows.rows)
    return rows


def _prompts(config: OnlineConfig) -> Rows:
    from rlaif.training.online.prompts import prompt_rows

    return prompt_rows(config)


def _tokenized(config: TrainConfig, data: Path, kind: DataKind) -> Rows:
    from rlaif.models import load_tokenizer

    tokenizer = load_tokenizer(config.model)
    assert kind != "prompts"
    return tokenize(
        read_examples(data, kind), tokenizer, config.max_length, config.truncation,
        chat_template_kwargs=config.chat_template_kwargs,
    )  # fmt: skip


def _check_any(config: TrainConfig, data: Path, rows: Rows, manifest: dict[str, Any] | None) -> None:
    """Raises DataError if no row is left.

    With a manifest the reasons are listed in the run folder before, and the manifest beside them, so that the same
    command may start there again.
    """
    from rlaif.training import ranks

    if rows.rows:
        return
    first = "; ".join(f"{row.id}: {row.reason}" for row in rows.skipped[:3])
    counts = "; ".join(f"{count} {reason}" for reason, count in _reasons(rows).items())
    in_all = f"; in all: {counts}" if len(rows.skipped) > 3 else ""
    listed = ""
    if manifest is not None:
        listed = f"; each is listed in {config.output / SKIPPED_FILE}"
        if ranks.rank() == 0:
            write_manifest(config.output, manifest)
            _list_rows(config, rows)
    raise DataError(
        f"{data}: no rows left to train on ({len(rows.skipped)} left out, {first or 'no rows'}{in_all}){listed}"
    )


def _reasons(rows: Rows) -> dict[str, int]:
    """How many rows are left out for each kind of reason."""
    return dict(Counter(skipped.reason.split(":")[0] for skipped in rows.skipped))


def _list_rows(config: TrainConfig, rows: Rows) -> None:
    """Writes which rows are left out and which are shortened, and why, into the run folder."""
    shortened = [Skipped(row_id, SHORTENED) for row_id in rows.shortened]
    for name, listed in ((SKIPPED_FILE, rows.skipped), (SHORTENED_FILE, shortened)):
        if listed or name == SKIPPED_FILE:
            lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in listed)
            write_text(config.output / name, lines)


def _tell_rows(config: TrainConfig, rows: Rows) -> None:
    if rows.skipped:
        count = len(rows.skipped) + len(rows.rows)
        say(f"{len(rows.skipped)} of {count} rows left out; why: {config.output / SKIPPED_FILE}")
    if rows.shortened:
        say(f"{_shortened(rows)}; which: {config.output / SHORTENED_FILE}")


def _shortened(rows: Rows) -> str:
    return (
        f"{len(rows.shortened)} of {len(rows.rows)} rows are trained on without the turns after their last answer, since no "
        "answer follows them"
    )


def _run(config: TrainConfig, rows: Rows) -> str:
    """Trains to the end and saves; returns the name of the base model."""
    with _quiet_libraries():
        from rlaif.training import session

        if isinstance(config, OnlineConfig):
            from rlaif.training.online.prompts import PromptRows
            from rlaif.training.online.session import opened_trainer

            assert isinstance(rows, PromptRows)
            return session.run_session(config, rows, opened_trainer)
        return session.run_session(config, rows, session.opened_trainer)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Within it transformers and peft say only errors, on standard error."""
    import warnings

    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _last_metrics(config: TrainConfig) -> dict[str, float]:
    last: dict[str, float] = {}
    for line in read_metrics(config.output / METRICS_FILE):
        last = {**last, **line}
    return last


def _result(config: TrainConfig, manifest: dict[str, Any]) -> TrainResult:
    metrics = _last_metrics(config)
    return TrainResult(
        path=config.output,
        steps=int(metrics.get("step", 0)),
        metrics=metrics,
        rows=int(manifest.get("rows", 0)),
        skipped=int(manifest.get("skipped", 0)),
    )


def _trainable_parameters(config: TrainConfig) -> int | None:
    """Counted on a model without weights (the meta device); None for a GGUF file."""
    if config.model.endswith(".gguf"):
        return None
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from rlaif.models import load_config

    with _quiet_libraries(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(config.model))
        if not config.full:
            modules = config.lora.target_modules
            targets = modules if isinstance(modules, str) else list(modules)
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=config.lora.r, target_modules=targets))
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
