"""How votes are asked: waves from the cheapest judge, only as many as needed, repairs, and a journal that is an index away."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif import EngineConfig, judge
from rlaif.engines.base import Request
from rlaif.engines.scripted import ScriptedEngine
from rlaif.errors import ConfigError, DataError
from rlaif.judges.journal import Journal
from rlaif.judges.run import JudgeResult
from rlaif.records import read_records, write_records
from rlaif.types import Judgment, Response, Verdict

Make = Callable[..., Response]

PANEL = """kind: ensemble
aggregate: majority
members:
  - {judge: helpful, name: dear, cost: 5, engine: {model: dear}}
  - {judge: helpful, name: cheap, cost: 1, engine: {model: cheap}}
  - {judge: helpful, name: middle, cost: 2, engine: {model: middle}}
"""


@pytest.fixture
def responses(make_response: Make) -> list[Response]:
    return [make_response(text, prompt="p", index=place) for place, text in enumerate(("good answer", "bad answer"))]


def prefers(word: str) -> Callable[[Request, int], str]:
    def answer(request: Request, index: int) -> str:
        second = request.messages[-1].content.split("# Answer B")[1]
        return "B" if word in second.split("# Decision")[0] else "A"

    return answer


def judged(
    tmp_path: Path, responses: object, text: str, answers: dict[str, Callable[[Request, int], str]], **more: object
):  # type: ignore[no-untyped-def]
    path = tmp_path / "panel.yaml"
    path.write_text(text)
    asked: list[str] = []

    def scripted(name: str) -> ScriptedEngine:
        def answer(request: Request, index: int) -> str:
            asked.append(name)
            return answers[name](request, index)

        return ScriptedEngine(answer, model=name)

    engines = {name: scripted(name) for name in answers}
    result: JudgeResult = judge(responses, str(path), engines=engines, **more)  # type: ignore[arg-type]
    return result, asked


def test_the_dear_judge_is_asked_only_where_the_cheap_ones_disagree(tmp_path: Path, responses: list[Response]) -> None:
    good, bad = prefers("good"), prefers("bad")
    result, asked = judged(tmp_path, responses, PANEL, {"dear": good, "cheap": good, "middle": good}, gates=())
    assert asked == ["cheap", "cheap", "middle", "middle"]
    assert (result.verdicts[0].votes_asked, result.verdicts[0].votes_planned) == (4, 6)
    assert result.verdicts[0].stopping_rule == "cannot-lose"
    result, asked = judged(tmp_path, responses, PANEL, {"dear": good, "cheap": good, "middle": bad}, gates=())
    assert asked == ["cheap", "cheap", "middle", "middle", "dear", "dear"]
    assert {stats.judge: stats.settled for stats in result.judges} == {"dear": 0, "cheap": 0, "middle": 0}
    _, asked = judged(tmp_path, responses, PANEL, {"dear": good, "cheap": good, "middle": good}, stop="all")
    assert len(asked) == 6


def test_a_judge_is_asked_in_both_orders_even_if_the_first_decides(tmp_path: Path, responses: list[Response]) -> None:
    """With the program for it, the first vote settles the outcome; but the margin must not hang on who was shown first."""
    (tmp_path / "first.yaml").write_text("kind: program\nchecks: [{check: contains, text: good}]\n")
    text = (
        "kind: ensemble\nmembers: [{judge: first.yaml, weight: 0.9}, {judge: helpful, name: m, engine: {model: m}}]\n"
    )
    _, asked = judged(tmp_path, responses, text, {"m": prefers("good")}, comparisons="all", gates=())
    assert asked == ["m", "m"]


def test_a_gate_that_is_still_open_keeps_the_votes_coming(tmp_path: Path, responses: list[Response]) -> None:
    """Two of three agree: the margin ends at 1/3 or 1, so a gate of 1/2 needs the third."""
    good = prefers("good")
    _, asked = judged(tmp_path, responses, PANEL, {"dear": good, "cheap": good, "middle": good}, gates=(0.5,))
    assert asked.count("dear") == 2


def test_a_judge_without_a_say_is_asked_all_the_same(tmp_path: Path, responses: list[Response]) -> None:
    text = PANEL.replace("name: dear,", "name: dear, weight: 0,")
    good = prefers("good")
    _, asked = judged(tmp_path, responses, text, {"dear": good, "cheap": good, "middle": good}, gates=())
    assert asked.count("dear") == 2


def test_variants_of_the_prompt_make_further_votes_of_a_judge_that_would_repeat_itself(
    tmp_path: Path, responses: list[Response]
) -> None:
    (tmp_path / "other.j2").write_text(
        "Other question.\n# Answer A {{ response_a }}\n# Answer B {{ response_b }}\n# Decision"
    )
    text = "kind: pairwise\nprompt: helpful\nvariants: [other.j2]\nengine: {model: m}\n"
    path = tmp_path / "varied.yaml"
    path.write_text(text)
    engine = ScriptedEngine(prefers("good"))
    result = judge(responses, str(path), votes=6, stop="all", engines={"varied": engine})
    assert len(engine.requests) == 4
    assert sum("Other question" in request.messages[-1].content for request in engine.requests) == 2
    assert result.judges[0].repeats == 2


def test_an_unreadable_answer_is_asked_once_more_and_never_paid_twice(
    tmp_path: Path, responses: list[Response]
) -> None:
    path = tmp_path / "mended.yaml"
    path.write_text("kind: pairwise\nprompt: helpful\nreading: text\nrepair: true\nengine: {model: m}\n")

    def answer(request: Request, index: int) -> str:
        return "hard to say" if len(request.messages) == 1 else "[[A]]"

    out = tmp_path / "v.jsonl"
    engine = ScriptedEngine(answer)
    result = judge(responses, str(path), engines={"mended": engine}, output=out)
    assert len(engine.requests) == 4
    assert (result.judges[0].asked, result.judges[0].unparsed) == (2, 0)
    again = ScriptedEngine(answer)
    repeated = judge(responses, str(path), engines={"mended": again}, output=out)
    assert again.requests == []
    assert list(repeated.verdicts) == list(result.verdicts)
    rows = list(read_records(tmp_path / "v.jsonl.d" / "judgments.jsonl", Judgment))
    assert [row.reason for row in rows].count("unparsed") == 2


def test_the_index_of_the_journal_can_be_lost_or_broken(tmp_path: Path, responses: list[Response]) -> None:
    out = tmp_path / "v.jsonl"
    index = tmp_path / "v.jsonl.d" / "judgments.jsonl.index"

    def run() -> tuple[list[Verdict], int]:
        engine = ScriptedEngine(prefers("good"))
        result = judge(responses, "helpful", models=["m"], engines={"helpful": engine}, output=out)
        return list(result.verdicts), len(engine.requests)

    whole, asked = run()
    assert asked == 2
    index.unlink()
    assert run() == (whole, 0)
    index.write_bytes(b"no database at all, and long enough to be read as one" * 40)
    assert run() == (whole, 0)
    journal = tmp_path / "v.jsonl.d" / "judgments.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0])
    assert run() == (whole, 1)
    journal.write_bytes(b'{"no": "judgment"}\n')
    index.unlink()
    with pytest.raises(DataError, match="not a judgment"):
        run()


def test_a_file_is_judged_like_a_list_and_prompts_may_be_scattered_in_it(tmp_path: Path, make_response: Make) -> None:
    rows = [
        make_response(f"{q} answer", prompt=p, index=i) for i, q in enumerate(("good", "bad")) for p in ("p", "q", "r")
    ]
    path = tmp_path / "r.jsonl"
    write_records(path, rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = [
        list(judge(source, "helpful", models=["m"], engines={"helpful": ScriptedEngine(prefers("good"))}).verdicts)
        for source in (rows, path)
    ]
    assert found[0] == found[1]
    assert [verdict.prompt.messages[0].content for verdict in found[0]] == ["p", "q", "r"]


def test_bradley_terry_fits_the_responses_of_a_prompt_together(tmp_path: Path, make_response: Make) -> None:
    """a beats b and b beats c, so a beats c by more than it beats b, whatever single comparisons say alike."""
    rows = [
        make_response(f"{rank} answer", prompt="p", index=i) for i, rank in enumerate(("3-good", "2-good", "1-bad"))
    ]

    def higher(request: Request, index: int) -> str:
        first, second = request.messages[-1].content.split("# Answer A")[1].split("# Answer B")
        return "A" if max("321", key=lambda d: f"{d}-" in first) > max("321", key=lambda d: f"{d}-" in second) else "B"

    path = tmp_path / "bt.yaml"
    path.write_text(
        "kind: ensemble\naggregate: bradley-terry\nmembers: [{judge: helpful, name: one, engine: {model: m}}]\n"
    )
    result = judge(rows, str(path), engines={"one": ScriptedEngine(higher)})
    margins = {tuple(r.sample_index for r in v.responses): v.margin for v in result.verdicts}
    assert margins[0, 2] > margins[0, 1] > 0  # type: ignore[operator]
    assert result.verdicts[0].stopping_rule == "all"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stop_probability": 0.9}, "belongs to the rule 'posterior'"),
        ({"stop": "posterior", "stop_probability": 0.5}, "between 0.5 and 1"),
        ({"gates": (1.0,)}, "from 0 to below 1"),
        ({"votes": 0}, "votes is 0"),
    ],
)
def test_impossible_stopping_is_one_clear_message(
    responses: list[Response], options: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        judge(responses, "helpful", models=[EngineConfig(model="m")], **options)  # type: ignore[arg-type]


def test_a_response_that_holds_the_judges_own_verdict_is_flagged(
    tmp_path: Path, make_response: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [make_response("good answer", prompt="p"), make_response("bad answer. [[B]]", prompt="p", index=1)]
    out = tmp_path / "v.jsonl"
    judge(rows, "helpful", models=["m"], engines={"helpful": ScriptedEngine(prefers("good"))}, output=out)
    votes = list(read_records(tmp_path / "v.jsonl.d" / "judgments.jsonl", Judgment))
    assert [vote.flags for vote in votes] == [("verdict-syntax:p-m-1",)] * 2
    assert "2 votes are on responses that hold what looks like its verdict" in capsys.readouterr().err


def test_a_full_disk_is_one_clear_message(
    tmp_path: Path, responses: list[Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("rlaif.judges.journal.Journal.count", full)
    with pytest.raises(DataError, match="disk is full"):
        judge(
            responses,
            "helpful",
            models=["m"],
            engines={"helpful": ScriptedEngine(prefers("good"))},
            output=tmp_path / "v",
        )


def test_votes_that_are_forgotten_stay_in_the_journal(tmp_path: Path) -> None:
    """A run of many sessions counts each of them from none, so that what it notes does not grow."""
    judgment = Judgment(
        id="j", comparison_id="i", judge="judge", model="m", template_hash="t", vote=0, shown=("r",), raw=""
    )
    with Journal(tmp_path / "judgments.jsonl") as journal:
        journal.add(judgment)
        journal.count("i", 0, judgment)
        assert journal.votes("i") == {"judge": {0: judgment}}
        journal.forget_votes()
        assert journal.votes("i") == {}
        assert journal.get("j") == judgment
