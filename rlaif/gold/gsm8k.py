"""GSM8K (Cobbe et al. 2021, openai/grade-school-math): verified solutions as pairs, and the problems as prompts."""

from collections.abc import Iterator
from itertools import product

from rlaif.gold.records import GoldPair
from rlaif.gold.sources import Row, Unusable
from rlaif.types import Message, Messages, Prompt

PAIR_FILES = ("example_model_solutions.jsonl",)
PROMPT_FILES = ("test.jsonl",)


def pairs(row: Row) -> Iterator[GoldPair]:
    """Each correct solution with each wrong one of the same problem, the correct one first.

    metadata.answer is the number that is right. Raises Unusable if all solutions are correct, or none is.
    """
    right = {model: text for model, text, is_correct in _solutions(row) if is_correct}
    wrong = {model: text for model, text, is_correct in _solutions(row) if not is_correct}
    if not right or not wrong:
        raise Unusable("no solution is wrong" if right else "no solution is right")
    reference = row.text("ground_truth")
    for better, worse in product(right, wrong):
        yield GoldPair(
            id=f"gsm8k/{row.number - 1}/{better}/{worse}",
            messages=_question(row),
            response_1=right[better],
            response_2=wrong[worse],
            gold=1,
            subset="gsm8k",
            reference=reference,
            metadata={"answer": _number(reference, "A:")},
        )


def prompts(row: Row) -> Iterator[Prompt]:
    """The problem, its answer in metadata.answer (a number without separators), and the worked one as reference."""
    solution = row.text("answer")
    metadata = {"answer": _number(solution, "####"), "reference": solution}
    yield Prompt.from_messages(_question(row), id=f"gsm8k/{row.path.stem}/{row.number - 1}", metadata=metadata)


def _question(row: Row) -> Messages:
    return (Message(role="user", content=row.text("question")),)


def _solutions(row: Row) -> Iterator[tuple[str, str, bool]]:
    for model, value in row.values.items():
        if isinstance(value, dict) and isinstance(value.get("solution"), str) and "is_correct" in value:
            yield model, value["solution"], bool(value["is_correct"])


def _number(solution: str, mark: str) -> str:
    _, found, answer = solution.rpartition(mark)
    if not found:
        raise Unusable(f"the solution has no answer after '{mark}'")
    return answer.strip().replace(",", "")
