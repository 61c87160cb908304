"""rlaif calibrate end to end with scripted judges: who is right decides, and the confidence is used and refused."""

import json
from pathlib import Path

import pytest

from rlaif import EngineConfig, judge
from rlaif.engines.base import Request
from rlaif.engines.scripted import ScriptedEngine
from rlaif.errors import DataError, QualityGateError
from rlaif.gold.records import GoldPair, read_gold, responses_of
from rlaif.judges.calibration import calibrate, gold_labels
from rlaif.judges.ensemble import load_ensemble
from rlaif.types import Message, content_hash

PANEL = """kind: ensemble
members:
  - {judge: helpful, name: expert, engine: {model: expert}}
  - {judge: helpful, name: contrary, engine: {model: contrary}}
  - {judge: helpful, name: coin, engine: {model: coin}}
"""


def write_gold(path: Path, rows: int) -> Path:
    lines = [
        {"id": f"g{n}", "prompt": f"question {n}", "response_1": f"right {n}", "response_2": f"wrong {n}", "gold": 1}
        for n in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def says(kind: str) -> ScriptedEngine:
    """expert: right in about nine of ten; contrary: wrong in as many; coin: by the hash of the question."""

    def answer(request: Request, index: int) -> str:
        text = request.messages[-1].content
        right = "A" if text.index("right ") < text.index("wrong ") else "B"
        number = text.split("question ")[1].split()[0]
        draw = int(content_hash(kind, number), 16) % 10
        is_right = {"expert": draw > 0, "contrary": draw == 0, "coin": draw % 2 == 0}[kind]
        return right if is_right else {"A": "B", "B": "A"}[right]

    return ScriptedEngine(answer)


def run(tmp_path: Path, rows: int = 120, **options: object):  # type: ignore[no-untyped-def]
    panel = tmp_path / "panel.yaml"
    panel.write_text(PANEL)
    engines = {name: says(name) for name in ("expert", "contrary", "coin")}
    gold = write_gold(tmp_path / "gold.jsonl", rows)
    found = calibrate([gold], str(panel), tmp_path / "chosen.yaml", engines=engines, **options)  # type: ignore[arg-type]
    return found, engines, gold


@pytest.mark.parametrize("stop", ["all", "cannot-lose", "posterior"])
def test_the_judge_that_gold_proves_is_chosen_and_its_margins_get_a_confidence(tmp_path: Path, stop: str) -> None:
    found, engines, gold = run(tmp_path, stop=stop)
    assert found.choice.weights["expert"] > 0
    assert found.choice.weights["contrary"] == 0
    assert next(each for each in found.measures if each.judge == "contrary").is_anti_correlated
    assert found.choice.accuracies["best single"].value > 0.8
    assert sum(len(engine.requests) for engine in engines.values()) == 3 * 2 * 120
    rows = responses_of(read_gold(gold))
    fresh = {"expert": says("expert"), "coin": says("coin")}
    judged = judge(rows, str(tmp_path / "chosen.yaml"), comparisons="models", engines=fresh)
    confidences = {round(verdict.confidence or 0, 3) for verdict in judged.verdicts if verdict.margin}
    assert all(0.75 < value < 1 for value in confidences)


def test_verdicts_made_otherwise_have_no_confidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, gold = run(tmp_path)
    judged = judge(
        responses_of(read_gold(gold)), str(tmp_path / "chosen.yaml"), comparisons="models", stop="all",
        engines={"expert": says("expert"), "coin": says("coin")},
    )  # fmt: skip
    assert {verdict.confidence for verdict in judged.verdicts} == {None}
    assert "verdicts get no confidence: it was calibrated for 'cannot-lose" in capsys.readouterr().err


def test_too_few_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 50"):
        run(tmp_path, rows=30)


def test_a_panel_of_models_from_the_command_line_is_written_with_its_models(tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold.jsonl", 60)
    models = [EngineConfig(model="one"), EngineConfig(model="two")]
    engines = {"helpful@one": says("expert"), "helpful@two": says("coin")}
    calibrate([gold], "helpful", tmp_path / "chosen.yaml", models=models, engines=engines)
    text = (tmp_path / "chosen.yaml").read_text()
    assert "model: one" in text
    assert "api_key_env" not in text


def test_a_calibrated_panel_with_other_models_has_no_confidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    assert load_ensemble(str(tmp_path / "chosen.yaml")).calibration is not None
    assert load_ensemble(str(tmp_path / "chosen.yaml"), models=(EngineConfig(model="x"),)).calibration is None
    assert "models in its file" in capsys.readouterr().err


def test_the_judge_file_is_not_overwritten(tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold.jsonl", 60)
    panel = tmp_path / "panel.yaml"
    panel.write_text(PANEL)
    with pytest.raises(DataError, match="both read and written"):
        calibrate([gold], str(panel), panel)


def test_the_longer_response_is_told_in_the_order_of_the_labels() -> None:
    """A pair that was swapped for balance: response_1 is the longer and the better one, in whatever order it was published."""
    pair = GoldPair(
        id="x", messages=(Message(role="user", content="q"),), response_1="short", response_2="much longer", gold=2
    )
    for one in (pair, pair.swap()):
        labels = gold_labels([one], "set")
        assert labels.sides == labels.longer


def test_what_was_measured_is_not_lost_where_no_confidence_can_be_fitted(tmp_path: Path) -> None:
    with pytest.raises(QualityGateError, match="written without a confidence") as failed:
        run(tmp_path, gate=0.9999999999)
    assert [each.judge for each in failed.value.result.measures] == ["expert", "contrary", "coin"]
    assert load_ensemble(str(tmp_path / "chosen.yaml")).calibration is None
    assert "judge: helpful\n" in (tmp_path / "chosen.yaml").read_text()


def test_too_few_labels_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    engines = {name: says(name) for name in ("expert", "contrary", "coin")}
    (tmp_path / "panel.yaml").write_text(PANEL)
    gold = write_gold(tmp_path / "gold.jsonl", 40)
    with pytest.raises(DataError, match="40 gold labels with a side; at least 50"):
        calibrate([gold], str(tmp_path / "panel.yaml"), tmp_path / "chosen.yaml", engines=engines)
    assert not any(engine.requests for engine in engines.values())


def test_a_judge_that_says_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"response_ids": ["elsewhere", "nowhere"], "preferred": "tie"}\n')
    (tmp_path / "people.yaml").write_text("kind: human\nlabels: labels.jsonl\n")
    (tmp_path / "panel.yaml").write_text(
        "kind: ensemble\nmembers:\n  - {judge: people.yaml}\n  - {judge: helpful, name: expert, engine: {model: expert}}\n"
    )
    gold = write_gold(tmp_path / "gold.jsonl", 60)
    with pytest.raises(DataError, match="people: no verdict on any of these pairs"):
        calibrate([gold], str(tmp_path / "panel.yaml"), tmp_path / "out.yaml", engines={"expert": says("expert")})


def test_an_ensemble_of_judges_that_score_compares_so_that_its_confidence_is_given(tmp_path: Path) -> None:
    """The program is right in seven of eight: responses 'right n' hold the word, but in every eighth row the wrong one does."""
    rows = [
        {"id": f"g{n}", "prompt": f"q{n}", "response_1": f"yes {n}", "response_2": f"no {n}", "gold": 1 if n % 8 else 2}
        for n in range(160)
    ]
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "word.yaml").write_text("kind: program\nchecks: [{check: contains, text: 'yes'}]\n")
    calibrate([gold], str(tmp_path / "word.yaml"), tmp_path / "chosen.yaml")
    judged = judge(responses_of(read_gold(gold)), str(tmp_path / "chosen.yaml"))
    assert len(judged.verdicts) == 160
    assert all(verdict.confidence == pytest.approx(7 / 8, abs=0.05) for verdict in judged.verdicts)
