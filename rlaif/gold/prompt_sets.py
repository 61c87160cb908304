"""Sets of prompts, to the rows that `rlaif generate` reads; what is known of a prompt goes into its metadata."""

from collections.abc import Iterator

from rlaif.gold.sources import Row, Unusable
from rlaif.types import Message, Prompt

IFEVAL_FILES = ("input_data.jsonl",)
XSTEST_FILES = ("xstest_prompts.csv",)
SELF_INSTRUCT_FILES = ("user_oriented_instructions.jsonl", "seed_tasks.jsonl")
ARENA_HARD_FILES = ("question*.jsonl",)
MT_BENCH_FILES = ("question.jsonl",)


def ifeval(row: Row) -> Iterator[Prompt]:
    """IFEval (Zhou et al. 2023): the constraints a program can check, in metadata.instruction_id_list and kwargs."""
    ids, kwargs = row.objects("instruction_id_list", str), row.objects("kwargs", dict)
    if len(ids) != len(kwargs):
        raise Unusable(f"{len(ids)} instructions and {len(kwargs)} kwargs; one of each belongs together")
    yield _prompt(f"ifeval/{row.values.get('key')}", row.text("prompt"), instruction_id_list=ids, kwargs=kwargs)


def xstest(row: Row) -> Iterator[Prompt]:
    """XSTest (Röttger et al. 2024): metadata.label says whether the prompt is safe to answer."""
    label = row.one_of("label", {"safe": "safe", "unsafe": "unsafe"})
    about = {key: row.text(key) for key in ("type", "focus", "note")}
    yield _prompt(f"xstest/{row.text('id')}", row.text("prompt"), label=label, **about)


def self_instruct(row: Row) -> Iterator[Prompt]:
    """Self-Instruct (Wang et al. 2023): a prompt for each instance, its answer in metadata.reference."""
    instruction = row.text("instruction")
    for number, instance in enumerate(row.objects("instances", dict)):
        extra = instance.get("input")
        text = f"{instruction}\n\n{extra}" if extra else instruction
        yield _prompt(f"self_instruct/{row.text('id')}/{number}", text, reference=instance.get("output"))


def arena_hard(row: Row) -> Iterator[Prompt]:
    """Arena-Hard (Li et al. 2024)."""
    about = {key: row.values.get(key) for key in ("category", "cluster")}
    yield _prompt(f"arena_hard/{row.text('uid')}", row.text("prompt"), **about)


def mt_bench(row: Row) -> Iterator[Prompt]:
    """MT-Bench (Zheng et al. 2023): the first turn. The second one can only be asked after an answer: metadata.turns."""
    turns = row.objects("turns", str)
    if not turns:
        raise Unusable("turns: is empty")
    about = {"category": row.values.get("category"), "turns": turns, "reference_turns": row.values.get("reference")}
    yield _prompt(f"mt_bench/{row.values.get('question_id')}", turns[0], **about)


def _prompt(id: str, text: str, **metadata: object) -> Prompt:
    if not text.strip():
        raise Unusable("the prompt is empty")
    kept = {key: value for key, value in metadata.items() if value is not None}
    return Prompt.from_messages((Message(role="user", content=text),), id=id, metadata=kept)
