"""Accuracy on gold pairs by hand arithmetic, and a whole run with a scripted judge."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif import EngineConfig
from rlaif.engines.base import Request
from rlaif.engines.scripted import ScriptedEngine
from rlaif.errors import ConfigError
from rlaif.gold import GoldPair
from rlaif.judges.bench import Ruling, bench, credit, findings, longest, measure, parts, rulings
from rlaif.judges.ensemble import load_ensemble
from rlaif.records import read_records, write_records
from rlaif.types import JudgeTally, Preferred, Tie, Verdict


def pair(id: str, gold: object = 1, one: str = "long one", two: str = "short", subset: str = "s") -> GoldPair:
    row = {"id": id, "prompt": id, "response_1": one, "response_2": two, "gold": gold, "subset": subset}
    return GoldPair.model_validate(row)


def tally(**counts: object) -> JudgeTally:
    row = {"judge": "j", "model": "m", "weight": 1, "margin": None, "asked": 2, "counted": 2, "unparsed": 0, **counts}
    return JudgeTally.model_validate(row)


def test_credit_is_one_half_or_nothing_and_none_without_a_verdict() -> None:
    assert [credit(2, chosen) for chosen in (2, 1, "tie", None)] == [1.0, 0.0, 0.5, None]


def test_accuracy_by_hand() -> None:
    """Four decided pairs with a verdict: right, right, tie, wrong: (1 + 1 + 0.5 + 0) / 4 = 0.625. One pair without a
    verdict and one gold tie are beside it. The longer response is response 1 everywhere but in the last decided pair,
    where both are equally long: it is right for gold 1, 1, 2, 1 and half right for the last: (1 + 1 + 0 + 1 + 0.5) / 5.
    Verdicts for one of two responses of different length: 1, 1, 2 and (gold tie) 2: 2 of 4 for the longer.
    """
    every = [
        Ruling(pair("a", 1), 1), Ruling(pair("b", 1), 1), Ruling(pair("c", 2), "tie"), Ruling(pair("d", 1), 2),
        Ruling(pair("e", 2, "same", "size"), None), Ruling(pair("f", "tie"), 2),
    ]  # fmt: skip
    got = measure("j", "s", every)
    assert got.accuracy is not None
    assert got.accuracy.value == 0.625
    assert (got.pairs, got.right, got.tied, got.wrong, got.no_verdict, got.gold_ties) == (5, 2, 1, 1, 1, 1)
    assert got.longest == pytest.approx(0.7)
    assert got.first_stored == pytest.approx(3 / 5)
    assert got.longest_pick_rate == 0.5


def test_rates_of_the_votes_by_hand() -> None:
    """Orders agree in 1 of the 2 pairs seen in both; 3 of 4 votes for one side went to the first; 1 of 6 unparsed."""
    every = [
        Ruling(pair("a"), 1, (tally(order_consistent=True, first_picks=1, decided=2),)),
        Ruling(pair("b"), "tie", (tally(order_consistent=False, first_picks=2, decided=2),)),
        Ruling(pair("c"), None, (tally(counted=1, unparsed=1),)),
    ]
    got = measure("j", "s", every)
    assert (got.order_consistency, got.first_pick_rate, got.votes, got.unparsed) == (0.5, 0.75, 6, 1)


def test_a_judge_that_says_nothing_has_no_rates() -> None:
    got = measure("j", "s", [Ruling(pair("a"), None)])
    assert (got.accuracy, got.order_consistency, got.first_pick_rate, got.longest_pick_rate) == (None,) * 4
    assert findings([got]) == ["j: gave no verdict on a pair with a gold preference"]


def test_pairs_of_one_prompt_count_as_one_draw_in_the_interval() -> None:
    def on(prompts: int) -> float:
        rows = [pair(str(i % prompts)).model_copy(update={"id": str(i)}) for i in range(40)]
        got = measure("j", "s", [Ruling(row, 1 if int(row.messages[0].content) % 2 else 2) for row in rows])
        assert got.accuracy is not None
        assert got.accuracy.value == 0.5
        return got.accuracy.high - got.accuracy.low

    assert on(4) > 1.5 * on(40)


@pytest.mark.parametrize(
    ("right", "told"),
    [(0, "point away from gold"), (20, "can not be told from guessing"), (36, "always taking the longer"), (40, "")],
)
def test_findings_say_what_the_numbers_mean(right: int, told: str) -> None:
    rows = [pair(str(i), 1, *("long one", "short")[:: 1 if i < 38 else -1]) for i in range(40)]
    found = findings([measure("j", "all", [Ruling(row, 1 if i < right else 2) for i, row in enumerate(rows)])])
    assert found == [] if not told else told in found[0]


def test_parts_are_subsets_sets_of_several_subsets_and_all() -> None:
    names = ("x/a", "x/b", "y", "z/c")
    rows = [Ruling(pair(name, subset=name), 1) for name in names]
    assert {name: len(of) for name, of in parts(rows).items()} == {
        "x/a": 1, "x/b": 1, "x, all": 2, "y": 1, "z/c": 1, "all": 4,
    }  # fmt: skip
    assert list(parts(rows[:1])) == ["x/a"]
    assert list(parts(rows[:2])) == ["x/a", "x/b", "x, all"]
    assert list(parts(rows))[-1] == "all"
    assert list(parts([Ruling(pair("p", subset=""), 1)])) == ["gold"]


def test_the_longer_response_is_told_by_characters() -> None:
    assert [longest(pair("p", 1, *texts)) for texts in (("aa", "b"), ("b", "aa"), ("ab", "cd"))] == [1, 2, "tie"]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_verdict_names_responses_so_the_stored_order_changes_nothing(swapped: bool) -> None:
    gold = pair("a", 1)
    first, second = gold.responses()
    verdict = Verdict.model_validate(
        {
            "id": "v", "responses": (first, second), "outcome": Preferred(response_id=first.id), "margin": 0.5,
            "ensemble": "e", "votes_asked": 4, "votes_counted": 4, "votes_unparsed": 0, "stopping_rule": "all",
            "judges": (tally(judge="x", margin=-1.0), tally(judge="y", margin=0.0), tally(judge="z")),
        }
    )  # fmt: skip
    asked = gold.swap() if swapped else gold
    got = rulings([asked], [verdict])
    assert {name: credit(asked.gold, of[0].choice) for name, of in got.items()} == {"e": 1, "x": 0, "y": 0.5, "z": None}


def prefers_good(request: Request, index: int) -> str:
    text = request.messages[-1].content
    return "A" if text.index("good") < text.index("bad") else "B"


def run(gold: list[Path], answer: Callable[[Request, int], str], name: str = "helpful", **options: object):  # type: ignore[no-untyped-def]
    engine = ScriptedEngine(answer)
    names = [llm.name for llm in load_ensemble(name, models=(EngineConfig(model="m"),)).llms]
    result = bench(gold, name, models=["m"], engines=dict.fromkeys(names, engine), **options)  # type: ignore[arg-type]
    return result, engine


@pytest.fixture
def gold(tmp_path: Path) -> list[Path]:
    golds = (1, 1, 1, 1, "tie", 2)
    rows = [pair(f"p{i}", gold, *(("bad", "good") if gold == 2 else ("good", "bad"))) for i, gold in enumerate(golds)]
    write_records(tmp_path / "g.jsonl", rows)
    return [tmp_path / "g.jsonl"]


def test_a_judge_that_knows_is_right_and_one_that_takes_the_first_ties(gold: list[Path], tmp_path: Path) -> None:
    result, engine = run(gold, prefers_good, output=tmp_path / "out")
    (got,) = result.measures
    assert got.accuracy is not None
    assert (got.accuracy.value, got.pairs, got.gold_ties, got.votes) == (1.0, 5, 1, 12)
    assert (got.order_consistency, got.first_pick_rate) == (1.0, 0.5)
    assert len(engine.requests) == 12
    saved = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert saved["measures"][0]["accuracy"]["value"] == 1.0

    again, engine = run(gold, prefers_good, output=tmp_path / "out")
    assert engine.requests == [], "votes are never asked twice"
    assert again.measures == result.measures
    assert len(list(read_records(tmp_path / "out" / "verdicts.jsonl", Verdict))) == 6

    (lazy,) = run(gold, lambda request, index: "A")[0].measures
    assert lazy.accuracy is not None
    assert (lazy.accuracy.value, lazy.tied, lazy.first_pick_rate) == (0.5, 5, 1.0)


def test_votes_are_kept_when_the_file_is_written_in_another_order(gold: list[Path], tmp_path: Path) -> None:
    run(gold, prefers_good, output=tmp_path / "out")
    rows = [row.swap() for row in read_records(gold[0], GoldPair)][::-1]
    write_records(gold[0], rows)
    result, engine = run(gold, prefers_good, output=tmp_path / "out")
    assert engine.requests == []
    assert result.measures[0].right == 5


def test_what_can_not_be_read_is_counted_and_is_neither_right_nor_wrong(gold: list[Path]) -> None:
    (got,) = run(gold, lambda request, index: "who knows")[0].measures
    assert (got.accuracy, got.no_verdict, got.unparsed, got.votes) == (None, 5, 12, 12)


def test_a_program_and_its_panel_are_measured_too(gold: list[Path], tmp_path: Path) -> None:
    program = tmp_path / "says-good.yaml"
    program.write_text("kind: program\nchecks: [{check: regex, pattern: good}]\n")
    result = bench(gold, str(program))
    assert [(m.judge, m.right, m.votes, m.first_pick_rate) for m in result.measures] == [("says-good", 5, 12, None)]

    panel = tmp_path / "panel.yaml"
    panel.write_text("kind: ensemble\nmembers: [{judge: says-good.yaml, weight: 2}, {judge: helpful}]\n")
    result, _ = run(gold, lambda request, index: "A", str(panel))
    assert [(m.judge, m.right, m.tied) for m in result.measures] == [
        ("panel", 5, 0), ("says-good", 5, 0), ("helpful", 0, 5),
    ]  # fmt: skip
    assert [m.judge for m in result.overall()] == ["panel", "says-good", "helpful"]


def test_equal_responses_are_compared_and_tie(tmp_path: Path) -> None:
    write_records(tmp_path / "g.jsonl", [pair("p", 1, "good bad", "good bad")])
    result, _ = run([tmp_path / "g.jsonl"], lambda request, index: "A")
    assert result.measures[0].tied == 1
    (verdict,) = result.judged.verdicts
    assert verdict.outcome == Tie()


def test_a_limit_below_one_is_refused(gold: list[Path]) -> None:
    with pytest.raises(ConfigError, match="limit is 0"):
        bench(gold, "brief", limit=0)
