"""Converters: small rows by hand, and the published sets where RLAIF_GOLD names them."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from rlaif.errors import ConfigError, DataError
from rlaif.gold import GoldPair, read_gold
from rlaif.gold.convert import SETS, convert
from rlaif.gold.pandalm import majority
from rlaif.gold.sources import Unusable
from rlaif.inputs import read_prompts
from rlaif.records import read_records
from rlaif.types import Judgment, Preferred, Prompt, Tie


def write(path: Path, *rows: object) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def better(pair: GoldPair) -> str | None:
    return None if pair.gold == "tie" else pair.texts[pair.gold - 1]


def test_llmbar_gives_the_labelled_output_whatever_the_stored_order(tmp_path: Path) -> None:
    rows = [{"input": f"q{i}", "output_1": f"good{i}", "output_2": f"bad{i}", "label": 1} for i in range(4)]
    (tmp_path / "LLMBar_Natural.json").write_text(json.dumps(rows))
    (tmp_path / "Adversarial" / "Manual").mkdir(parents=True)
    folder = tmp_path / "LLMBar" / "Adversarial" / "Manual"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps([{**rows[0], "label": 2}, {**rows[1], "label": 0}]))
    made = convert("llmbar", tmp_path)
    assert {p.id: better(p) for p in made.rows} == {
        **{f"llmbar/Natural/{i}": f"good{i}" for i in range(4)},
        "llmbar/Adversarial/Manual/0": "bad0",
    }
    assert [row["reason"] for row in made.skipped] == ["label: expected 1, 2, found 0"]
    assert made.skipped[0]["where"].endswith("dataset.json: entry 2")
    assert (made.before.first, made.before.second) == (4, 1)
    assert sorted(p.gold for p in made.rows if p.subset == "llmbar/Natural") == [1, 1, 2, 2]


def test_votes_name_the_gold_pairs_responses_and_both_orders(tmp_path: Path) -> None:
    vote = {
        "subset": "LLMBar/Natural", "idx": 3, "judge": "GPT-4", "strategy": "Vanilla", "step": 0, "last": True,
        "order": "ba", "winner": "1", "gold": 2, "completion": "Output (b)",
    }  # fmt: skip
    rated = {**vote, "strategy": "Rating", "completion": None, "score_1": "4", "score_2": "4"}
    source = write(
        tmp_path / "votes.jsonl.gz",
        vote,
        {**vote, "strategy": "CoT", "winner": None},
        {**vote, "strategy": "Swap", "last": False},
        rated,
        {**rated, "order": "ab", "score_2": "9", "winner": "2"},
        {**rated, "strategy": "Rating_Metrics", "score_2": ""},
    )
    made = convert("llmbar_votes", source, tmp_path / "v.jsonl")
    plain, silent, tie, rated_two, unrated = read_records(tmp_path / "v.jsonl", Judgment)
    assert (plain.judge, plain.comparison_id, plain.vote) == ("GPT-4/Vanilla", "llmbar/Natural/3", 1)
    assert plain.shown == ("llmbar/Natural/3/2", "llmbar/Natural/3/1"), "order ba shows output_2 first"
    assert plain.outcome == Preferred(response_id="llmbar/Natural/3/1")
    assert plain.raw == "Output (b)"
    assert (silent.outcome, silent.reason) == (None, "unparsed")
    assert tie.outcome == Tie(), "equal ratings are a tie, whatever winner was drawn"
    assert rated_two.outcome == Preferred(response_id="llmbar/Natural/3/2")
    assert rated_two.parts == {"llmbar/Natural/3/1": 4.0, "llmbar/Natural/3/2": 9.0}
    assert (unrated.outcome, unrated.reason) == (None, "unparsed")
    assert len({plain.id, silent.id, tie.id, rated_two.id, unrated.id}) == 5
    assert (made.rows_read, len(made.skipped)) == (6, 1)


@pytest.mark.parametrize(
    ("labels", "gold"), [((1, 1, 2), 1), ((2, "tie", 2), 2), (("tie", "tie", 1), "tie"), ((1, 2, "tie"), None)]
)
def test_the_gold_label_of_several_people_is_their_majority(labels: tuple, gold: object) -> None:  # type: ignore[type-arg]
    if gold is None:
        with pytest.raises(Unusable, match="no majority"):
            majority(labels)
    else:
        assert majority(labels) == gold


def test_hh_keeps_the_shared_dialogue_as_the_prompt(tmp_path: Path) -> None:
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"
    source = write(
        tmp_path / "harmless-base_test.jsonl.gz",
        {"chosen": f"{start}\n\nAssistant: good", "rejected": f"{start}\n\nAssistant: bad"},
        {"chosen": f"{start}\n\nAssistant: good", "rejected": "\n\nHuman: a\n\nAssistant: bad"},
        {"chosen": "text", "rejected": "text"},
    )
    made = convert("hh_rlhf", source)
    (pair,) = made.rows
    assert [m.content for m in pair.messages] == ["a", "b", "c"]
    assert (better(pair), pair.subset) == ("good", "hh_rlhf/harmless-base")
    assert [row["reason"] for row in made.skipped] == [
        "the two dialogues differ before their last answer",
        "not two dialogues of Human: and Assistant: turns",
    ]


def test_gsm8k_pairs_every_right_solution_with_every_wrong_one(tmp_path: Path) -> None:
    def row(**correct: bool) -> dict[str, object]:
        solutions = {name: {"is_correct": is_correct, "solution": f"by {name}"} for name, is_correct in correct.items()}
        return {"question": "q", "ground_truth": "worked\nA: 1,234", **solutions}

    source = write(tmp_path / "s.jsonl", row(a=True, b=False, c=True), row(a=True), row(a=False))
    made = convert("gsm8k", source)
    assert {p.id: better(p) for p in made.rows} == {"gsm8k/0/a/b": "by a", "gsm8k/0/c/b": "by c"}
    assert {p.metadata["answer"] for p in made.rows} == {"1234"}
    assert [r["reason"] for r in made.skipped] == ["no solution is wrong", "no solution is right"]


def test_ifeval_keeps_what_a_program_needs_to_check(tmp_path: Path) -> None:
    right = {"key": 7, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    made = convert("ifeval", write(tmp_path / "i.jsonl", right, {**right, "kwargs": []}), tmp_path / "o.jsonl")
    (prompt,) = read_prompts(tmp_path / "o.jsonl").prompts
    assert prompt.id == "ifeval/7"
    assert prompt.metadata == {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    notes = (tmp_path / "o.jsonl.d" / "skipped.jsonl").read_text()
    assert json.loads(notes)["reason"].startswith("1 instructions and 0 kwargs")
    assert len(made.rows) == 1


def test_what_is_no_such_set_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown set 'llmbra' \(did you mean 'llmbar'\?\)"):
        convert("llmbra", tmp_path)
    with pytest.raises(DataError, match=r"holds no file called testset-v1\.json"):
        convert("pandalm", tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        convert("pandalm", tmp_path / "none")
    other = write(tmp_path / "other.jsonl", {"prompt": "p"})
    with pytest.raises(DataError, match=r"no row of it is one of the set gsm8k \(.*:1: .*"):
        convert("gsm8k", other)
    (tmp_path / "broken.jsonl").write_text('{"question": "q"\n')
    with pytest.raises(DataError, match=r"broken\.jsonl:1: broken JSON"):
        convert("gsm8k", tmp_path / "broken.jsonl")
    with pytest.raises(DataError, match="both read and written"):
        convert("gsm8k", other, other)


GOLD = os.environ.get("RLAIF_GOLD")
COUNTS = {  # rows read, rows made, rows skipped
    "llmbar": (641, 641, 0),
    "llmbar_votes": (68266, 61280, 6986),
    "pandalm": (999, 993, 6),
    "evalbiasbench": (80, 80, 0),
    "hh_rlhf": (2312, 2307, 5),
    "hhh": (221, 221, 0),
    "gsm8k": (1319, 2429, 588),
    "gsm8k_prompts": (1319, 1319, 0),
    "ifeval": (541, 541, 0),
    "xstest": (450, 450, 0),
    "self_instruct": (427, 427, 0),
    "arena_hard": (500, 500, 0),
    "mt_bench": (80, 80, 0),
}


@pytest.mark.skipif(GOLD is None, reason="RLAIF_GOLD does not name the folder of the published sets")
@pytest.mark.parametrize("name", SETS)
def test_the_published_set_converts_to_the_last_row(name: str, tmp_path: Path) -> None:
    assert GOLD is not None
    output = tmp_path / "o.jsonl"
    made = convert(name, Path(GOLD) / name.removesuffix("_prompts"), output)
    assert (made.rows_read, len(made.rows), len(made.skipped)) == COUNTS[name]
    listed = output.with_name("o.jsonl.d") / "skipped.jsonl"
    assert (len(listed.read_text().splitlines()) if listed.exists() else 0) == len(made.skipped)
    if made.kind == "pairs":
        assert read_gold(output) == made.rows
        assert abs(made.after.first - made.after.second) <= 1
    elif made.kind == "prompts":
        assert read_prompts(output).prompts == list(made.rows)
        assert all(isinstance(row, Prompt) for row in made.rows)
    else:
        assert len({row.id for row in made.rows}) == len(made.rows)


@pytest.mark.skipif(GOLD is None, reason="RLAIF_GOLD does not name the folder of the published sets")
def test_the_recorded_gold_of_every_vote_is_the_label_of_its_pair(tmp_path: Path) -> None:
    assert GOLD is not None
    pairs = {p.id: p for p in convert("llmbar", Path(GOLD) / "llmbar").rows}
    with gzip.open(Path(GOLD) / "llmbar_votes" / "votes.jsonl.gz", "rt") as file:
        votes = [json.loads(line) for line in file]
    right = Counter()  # type: ignore[var-annotated]
    for vote in votes:
        pair = pairs[f"llmbar/{vote['subset'].removeprefix('LLMBar/')}/{vote['idx']}"]
        better_id = pair.response_ids[pair.gold - 1]
        right[better_id == f"{pair.id}/{vote['gold']}"] += 1
    assert right == {True: len(votes)}
