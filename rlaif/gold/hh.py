"""Anthropic's HH-RLHF (Bai et al. 2022) and the HHH alignment set of BIG-bench, as prometheus-eval wraps it."""

import re
from collections.abc import Iterator

from rlaif.gold.records import GoldPair
from rlaif.gold.sources import Row, Unusable
from rlaif.training.formats.turns import parse_dialogue, split_pair
from rlaif.types import Message, Messages

HH_FILES = ("*_test.jsonl.gz", "*_test.jsonl", "test.jsonl.gz", "test.jsonl")
HHH_FILES = ("hhh_alignment_eval.json",)
WRAPPED = re.compile(
    r"###The instruction to evaluate:\n(.*)\n\n###Response to evaluate:\n(.*)\n\n###Score Rubrics:\n", re.DOTALL
)


def hh_pairs(row: Row) -> Iterator[GoldPair]:
    """Two dialogues that differ in their last answer; the chosen one stands first, as in the source."""
    chosen, rejected = (parse_dialogue(row.text(key)) for key in ("chosen", "rejected"))
    if chosen is None or rejected is None:
        raise Unusable("not two dialogues of Human: and Assistant: turns")
    parts = split_pair(chosen, rejected)
    if parts is None or len(parts[1]) != 1 or len(parts[2]) != 1:
        raise Unusable("the two dialogues differ before their last answer")
    subset = _hh_subset(row)
    yield GoldPair(
        id=f"hh_rlhf/{subset}/{row.number - 1}",
        messages=parts[0],
        response_1=parts[1][0].content,
        response_2=parts[2][0].content,
        gold=1,
        subset=f"hh_rlhf/{subset}",
    )


def hhh_pairs(row: Row) -> Iterator[GoldPair]:
    """The two responses unwrapped from the grading prompts; the chosen one stands first, as in the source."""
    prompt, chosen = _unwrap(row, "chosen_instruction")
    other, rejected = _unwrap(row, "rejected_instruction")
    if prompt != other:
        raise Unusable("the chosen and the rejected response answer different instructions")
    yield GoldPair(
        id=f"hhh/{row.number - 1}",
        messages=_conversation(prompt),
        response_1=chosen,
        response_2=rejected,
        gold=1,
        subset=f"hhh/{row.text('source')}",
    )


def _hh_subset(row: Row) -> str:
    """ "harmless-base" for harmless-base_test.jsonl.gz and for harmless-base/test.jsonl.gz."""
    name = row.path.name.partition(".")[0]
    return name.removesuffix("_test") if name != "test" else row.path.parent.name


def _unwrap(row: Row, key: str) -> tuple[str, str]:
    found = WRAPPED.search(row.text(key))
    if found is None:
        raise Unusable(f"{key}: holds no instruction and response in the form of prometheus-eval")
    return found[1], found[2]


def _conversation(text: str) -> Messages:
    """The instruction as turns: some go on after it with "Assistant:" and "Human:"."""
    return parse_dialogue(f"Human: {text}") or (Message(role="user", content=text),)
