"""TRL's trainers on rows that are token ids already.

Each trainer is given the columns that its own tokenisation would have made; everything after that is TRL's.
"""

import time
from typing import Any

from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import Trainer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from benchmarks.rows import IdRow
from benchmarks.tasks import BETA, SIMPO_GAMMA

disable_progress_bars()


class IdDPOTrainer(DPOTrainer):
    """Rows are {prompt_ids, chosen_ids, rejected_ids}, as DPOTrainer tokenises. Times the cached reference."""

    precompute_seconds = 0.0

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Dataset:
        started = time.perf_counter()
        dataset = super()._precompute_ref_logps(*args, **kwargs)
        self.precompute_seconds = time.perf_counter() - started
        return dataset


class IdKTOTrainer(KTOTrainer):
    """Rows are {prompt_ids, completion_ids, label}; the mismatched completions are added as KTOTrainer does."""

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: KTOConfig, dataset_name: str) -> Dataset:
        return dataset.map(_add_kl_completions, batched=True, batch_size=args.per_device_train_batch_size)


def _add_kl_completions(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Each row of a batch gets the completion of the row before it, the first one that of the last."""
    completions = rows["completion_ids"]
    return {**rows, "KL_completion_ids": [completions[-1], *completions[:-1]]}


class IdORPOTrainer(ORPOTrainer):
    """Rows are {prompt_ids, chosen_ids, rejected_ids}."""

    def tokenize_row(self, feature: IdRow, model: Any = None) -> dict[str, list[int]]:
        return _labelled_pair(feature)


class IdCPOTrainer(CPOTrainer):
    """Rows are {prompt_ids, chosen_ids, rejected_ids}."""

    def tokenize_row(self, feature: IdRow, model: Any = None) -> dict[str, list[int]]:
        return _labelled_pair(feature)


def _labelled_pair(row: IdRow) -> dict[str, list[int]]:
    """The columns that ORPO's and CPO's `tokenize_row` make: whole sequences, with labels of -100 on the prompt."""
    prompt = row["prompt_ids"]
    columns = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        answer = row[f"{side}_ids"]
        columns[f"{side}_input_ids"] = prompt + answer
        columns[f"{side}_attention_mask"] = [1] * len(prompt + answer)
        columns[f"{side}_labels"] = [-100] * len(prompt) + answer
    return columns


def _same(row: IdRow) -> IdRow:
    return row


def _sft_columns(row: IdRow) -> IdRow:
    prompt, answer = row["prompt_ids"], row["completion_ids"]
    return {"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)}


def _rm_columns(row: IdRow) -> IdRow:
    return {f"{side}_ids": row["prompt_ids"] + row[f"{side}_ids"] for side in ("chosen", "rejected")}


_TRAINERS = {
    "dpo": (IdDPOTrainer, DPOConfig, {"beta": BETA["dpo"]}, _same),
    "kto": (IdKTOTrainer, KTOConfig, {"beta": BETA["kto"]}, _same),
    "orpo": (IdORPOTrainer, ORPOConfig, {"beta": BETA["orpo"]}, _same),
    "simpo": (
        IdCPOTrainer,
        CPOConfig,
        {"loss_type": "simpo", "beta": BETA["simpo"], "simpo_gamma": SIMPO_GAMMA, "cpo_alpha": 0.0},
        _same,
    ),
    "sft": (SFTTrainer, SFTConfig, {"completion_only_loss": True}, _sft_columns),
    "rm": (RewardTrainer, RewardConfig, {}, _rm_columns),
}


def build_trainer(
    method: str,
    model: Any,
    tokenizer: Any,
    rows: list[IdRow],
    lora: LoraConfig | None,
    callbacks: list[Any],
    **arguments: Any,
) -> Trainer:
    """TRL's trainer of a method. arguments: of its configuration, over TRL's own defaults."""
    trainer, config, settings, columns = _TRAINERS[method]
    arguments = {
        "lr_scheduler_type": "constant", "gradient_checkpointing": False, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, **settings, **arguments,
    }  # fmt: skip
    return trainer(
        model=model,
        args=config(**arguments),
        train_dataset=Dataset.from_list([columns(row) for row in rows]),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=callbacks,
    )
