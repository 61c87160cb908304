"""The gold format: what is read, what is refused, and that the order of storage decides nothing."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.errors import DataError
from rlaif.gold import GoldPair, balance_of, balanced, read_gold, sample
from rlaif.gold.records import responses_of
from rlaif.types import Message


def pair(id: str, gold: object = 1, subset: str = "") -> GoldPair:
    row = {"id": id, "prompt": f"q {id}", "response_1": "one", "response_2": "two", "gold": gold, "subset": subset}
    return GoldPair.model_validate(row)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_shortest_row_and_the_longest_one_are_read(tmp_path: Path) -> None:
    short = {"id": "a", "prompt": "question", "response_1": "x", "response_2": "", "gold": "tie"}
    long = {
        "id": "b", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "response_1": [{"role": "assistant", "content": "x"}], "response_2": "y", "gold": 2, "subset": "set/part",
        "reference": "r", "labels": [2, 2, "tie"], "metadata": {"k": [1]},
    }  # fmt: skip
    first, second = read_gold(write(tmp_path / "g.jsonl", short, long))
    assert first.messages == (Message(role="user", content="question"),)
    assert (second.response_1, second.gold, second.labels) == ("x", 2, (2, 2, "tie"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gold": 3}, "gold"),
        ({"gold": None}, "gold"),
        ({"response_1": None}, "response_1"),
        ({"response_1": [{"role": "user", "content": "x"}]}, "response_1"),
        ({"winner": 1}, "winner"),
        ({"prompt": None}, "messages"),
    ],
)
def test_a_wrong_row_is_told_with_file_line_and_what_is_allowed(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    right = {"id": "a", "prompt": "q", "response_1": "x", "response_2": "y", "gold": 1}
    path = write(tmp_path / "g.jsonl", right, {**right, "id": "b", **change})
    with pytest.raises(DataError) as error:
        read_gold(path)
    assert f"{path}:2: not a gold pair" in str(error.value)
    assert told in str(error.value).split(";")[0]
    assert 'gold (1, 2 or "tie")' in str(error.value)


def test_an_id_is_unique_over_all_files(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "q", "response_1": "x", "response_2": "y", "gold": 1}
    one, two = write(tmp_path / "1.jsonl", row), write(tmp_path / "2.jsonl", row)
    with pytest.raises(DataError, match=r"2\.jsonl:1: the id 'a' is used at .*1\.jsonl:1"):
        read_gold(one, two)
    with pytest.raises(DataError, match="no gold pairs in it"):
        read_gold(write(tmp_path / "empty.jsonl"))


def test_a_swapped_pair_gives_the_same_responses_to_judge_and_keeps_the_better_one() -> None:
    plain = GoldPair(
        id="a", messages=(Message(role="user", content="q"),), response_1="good", response_2="bad", gold=1,
        labels=(1, "tie", 2), reference="r", metadata={"k": 1},
    )  # fmt: skip
    turned = plain.swap()
    assert (turned.response_1, turned.gold, turned.labels) == ("bad", 2, (2, "tie", 1))
    assert turned.responses() == plain.responses(), "votes stay valid whatever the stored order is"
    assert turned.response_ids == ("a/2", "a/1")
    assert turned.swap() == plain
    assert [r.text for r in responses_of([turned])] == ["good", "bad"]
    assert plain.responses()[0].prompt.metadata == {"k": 1, "reference": "r"}


golds = st.lists(st.sampled_from([1, 2, "tie"]), min_size=1, max_size=40)


@given(golds, st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_better_response_is_first_as_often_as_second_in_each_subset(golds: list, subsets: int, random) -> None:  # type: ignore[no-untyped-def, type-arg]
    pairs = [pair(str(i), gold, str(i % subsets)) for i, gold in enumerate(golds)]
    made = balanced(pairs)
    for chosen in ("0", "1", "2", None):
        counts = balance_of(p for p in made if chosen in (p.subset, None))
        assert abs(counts.first - counts.second) <= 1
    for before, after in zip(pairs, made, strict=True):
        assert after in (before, before.swap())
    assert balanced(made) == made
    shuffled = random.sample(pairs, len(pairs))
    assert {p.id: p for p in balanced(shuffled)} == {p.id: p for p in made}


def test_a_sample_takes_subsets_and_gold_orders_in_turn_and_grows_without_forgetting() -> None:
    pairs = balanced([pair(f"{s}{i}", 1, s) for s, n in (("big", 90), ("small", 10)) for i in range(n)])
    taken = sample(pairs, 20)
    assert {s: sum(p.subset == s for p in taken) for s in ("big", "small")} == {"big": 10, "small": 10}
    assert balance_of(taken).first_share == 0.5
    assert {p.id for p in taken} < {p.id for p in sample(pairs, 50)}
    assert sample(pairs, 20) == taken
    assert sample(pairs, 20, seed=1) != taken
    assert sample(pairs, 1000) == pairs
