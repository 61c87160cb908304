"""What a judge YAML file may say: a judge of one of several kinds, or an ensemble of them.

llm.py        pairwise, pointwise (with criteria), checklist, listwise
others.py     program, reward-model, human
ensemble.py   members, weights, aggregation, stopping
load.py       a file to its configuration and templates
"""

from rlaif.judges.config.ensemble import Aggregate, Comparisons, EnsembleConfig, Member, StopRule
from rlaif.judges.config.llm import (
    AnyLLMConfig,
    ChecklistConfig,
    ChecklistItem,
    Criterion,
    ListwiseConfig,
    LLMJudgeConfig,
    PairwiseConfig,
    PointwiseConfig,
    WriterConfig,
    check_distinct,
)
from rlaif.judges.config.load import (
    KINDS,
    AnyJudgeConfig,
    load_judge_file,
    load_templates,
    load_writer_template,
)
from rlaif.judges.config.others import HumanConfig, ProgramConfig, RewardModelConfig

__all__ = [
    "KINDS",
    "Aggregate",
    "AnyJudgeConfig",
    "AnyLLMConfig",
    "ChecklistConfig",
    "ChecklistItem",
    "Comparisons",
    "Criterion",
    "EnsembleConfig",
    "HumanConfig",
    "LLMJudgeConfig",
    "ListwiseConfig",
    "Member",
    "PairwiseConfig",
    "PointwiseConfig",
    "ProgramConfig",
    "RewardModelConfig",
    "StopRule",
    "WriterConfig",
    "check_distinct",
    "load_judge_file",
    "load_templates",
    "load_writer_template",
]
