"""LLMBar (Zeng et al. 2024, princeton-nlp/LLMBar): does a judge see who followed the instruction?"""

from collections.abc import Iterator
from pathlib import Path

from rlaif.gold.records import GoldPair
from rlaif.gold.sources import Row, Unusable
from rlaif.types import Message

ADVERSARIAL = ("Neighbor", "GPTInst", "GPTOut", "Manual")
CASES = ("Base_9", "Base_10", "Constraint", "Negation", "Normal")
SUBSETS = {
    "LLMBar_Natural": "Natural",
    **{f"LLMBar_Adversarial_{name}": f"Adversarial/{name}" for name in ADVERSARIAL},
    **{f"CaseStudy_{name}": f"CaseStudy/{name}" for name in CASES},
}
FILES = (*(f"{name}.json" for name in SUBSETS), "dataset.json")
"""`dataset.json` lies in folders called like the subset, as in the original repository."""


def pair_id(subset: str, index: int) -> str:
    """Of a pair by its subset and its place in the file, from 0; the recorded votes use it too."""
    return f"llmbar/{subset}/{index}"


def pairs(row: Row) -> Iterator[GoldPair]:
    """The pair of a row; the subset is told from the file's name or folders."""
    subset = subset_of(row.path)
    yield GoldPair(
        id=pair_id(subset, row.number - 1),
        messages=(Message(role="user", content=row.text("input")),),
        response_1=row.text("output_1"),
        response_2=row.text("output_2"),
        gold=row.one_of("label", {1: 1, 2: 2}),
        subset=f"llmbar/{subset}",
    )


def subset_of(path: Path) -> str:
    """The subset that a file holds. Raises Unusable for a file of another name."""
    name = "_".join(path.with_suffix("").parts).removesuffix("_dataset")
    for ending, subset in SUBSETS.items():
        if name.endswith(ending):
            return subset
    raise Unusable(f"the file is called like no subset of LLMBar ({', '.join(SUBSETS)})")
