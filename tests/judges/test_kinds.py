"""Judges that ask several things, rank, score by a reward model, or are people: from their files to verdicts."""

import json
import math
import re
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path

import pytest

from rlaif import EngineConfig, judge
from rlaif.engines.base import Engine, Request, Sample, ScoreCompletion, ScoreRequest
from rlaif.engines.scripted import ScriptedEngine
from rlaif.errors import ConfigError, DataError, EngineError, QualityGateError
from rlaif.judges.checklists import read_items
from rlaif.judges.ensemble import load_ensemble
from rlaif.judges.judge import Item, shown_order
from rlaif.judges.plan import judge_plan
from rlaif.judges.run import JudgeResult
from rlaif.records import read_records, write_records
from rlaif.types import Judgment, Preferred, Ranking, Response, Score, Tie

Make = Callable[..., Response]
Answer = Callable[[Request, int], object]


def write(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def run(rows: object, name: str, answer: Answer, **options: object) -> tuple[JudgeResult, ScriptedEngine]:
    engine = ScriptedEngine(answer)  # type: ignore[arg-type]
    names = [llm.name for llm in load_ensemble(name, models=(EngineConfig(model="m"),)).llms]
    engines: Mapping[str, Engine] = dict.fromkeys(names, engine)
    result = judge(rows, name, models=["m"], engines=engines, **options)  # type: ignore[arg-type]
    return result, engine


def asked(request: Request, heading: str) -> str:
    """The section of a request under a heading."""
    return request.messages[-1].content.split(f"# {heading}\n")[1].split("\n# ")[0]


# Several criteria


def by_criterion(ratings: Mapping[str, str]) -> Answer:
    return lambda request, index: ratings[asked(request, "Criterion").strip().split(":")[0]]


RATED = {"correctness": "5", "completeness": "3", "relevance": "1", "clarity": "2"}


def test_a_score_is_the_weighted_mean_of_the_criteria_and_each_is_kept(make_response: Make) -> None:
    """On the scale 1 to 5 the ratings 5, 3, 1, 2 are 1, 1/2, 0, 1/4; by the weights 3, 2, 1, 1 their mean is 4.25 / 7."""
    result, engine = run([make_response("one")], "criteria", by_criterion(RATED), votes=1)
    (verdict,) = result.verdicts
    assert len(engine.requests) == 4
    assert isinstance(verdict.outcome, Score)
    assert verdict.outcome.score == pytest.approx(4.25 / 7)
    (tally,) = verdict.judges
    assert tally.questions == {"correctness": (1.0,), "completeness": (0.5,), "relevance": (0.0,), "clarity": (0.25,)}


def test_a_response_without_a_rating_on_one_criterion_has_no_score(make_response: Make) -> None:
    unread = by_criterion({**RATED, "relevance": "hard to say"})
    result, _ = run([make_response("one")], "criteria", unread, votes=1, max_unparsed=1.0)
    (verdict,) = result.verdicts
    assert verdict.outcome is None
    assert verdict.votes_unparsed == 1
    assert verdict.judges[0].questions is not None
    assert verdict.judges[0].questions["relevance"] == (None,)


def test_further_votes_ask_every_criterion_again(make_response: Make, tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{{ response }}\n# Criterion\n{{ criterion.name }}")
    name = write(
        tmp_path, "kind: pointwise\nprompt: t.j2\ntemperature: 1\nscale: [0, 10]\ncriteria: {a: {weight: 3}, b: {}}\n"
    )
    said = iter(["10", "0", "0", "10", "5", "5"])
    result, _ = run([make_response("one")], name, lambda request, index: next(said), votes=3)
    (verdict,) = result.verdicts
    assert isinstance(verdict.outcome, Score)
    assert verdict.outcome.score == pytest.approx(0.5)
    assert verdict.votes_asked == 6
    once, _ = run([make_response("one")], name, lambda request, index: "10", votes=1)
    assert once.judges[0].asked == 2


def test_criteria_and_their_template_go_together(tmp_path: Path) -> None:
    (tmp_path / "plain.j2").write_text("{{ response }}")
    (tmp_path / "asks.j2").write_text("{{ response }} {{ criterion.name }}")
    models = (EngineConfig(model="m"),)
    with pytest.raises(ConfigError, match="does not show criterion"):
        load_ensemble(write(tmp_path, "kind: pointwise\nprompt: plain.j2\ncriteria: {a: {}}"), models=models)
    with pytest.raises(ConfigError, match=r"shows a criterion, and .* names none"):
        load_ensemble(write(tmp_path, "kind: pointwise\nprompt: asks.j2"), models=models)
    with pytest.raises(ConfigError, match=r"criteria\.a\.weight"):
        load_ensemble(write(tmp_path, "kind: pointwise\nprompt: asks.j2\ncriteria: {a: {weight: 0}}"), models=models)


# Checklists


def test_a_checklist_of_the_prompt_is_asked_item_by_item(make_response: Make) -> None:
    metadata = {"checklist": ["Is it short?", {"item": "Is it kind?", "weight": 3}]}
    rows = [make_response(text, index=index, metadata=metadata) for index, text in enumerate(("short", "kind"))]

    def says(request: Request, index: int) -> str:
        text = asked(request, "Answer").strip().splitlines()[1]
        return "yes" if text in asked(request, "Question") else "no"

    result, engine = run(rows, "checklist", says, votes=1)
    assert len(engine.requests) == 4
    scores = {verdict.responses[0].text: verdict.outcome for verdict in result.verdicts}
    assert scores == {"short": Score(score=0.25), "kind": Score(score=0.75)}


def test_the_probability_of_yes_is_the_score(make_response: Make) -> None:
    row = make_response("one", metadata={"checklist": ["Is it short?"]})

    def says(request: Request, index: int) -> Sample:
        assert request.choices == ("yes", "no")
        return Sample(index=index, text="yes", finish_reason="stop", choice_probabilities={"yes": 0.75, "no": 0.25})

    result, _ = run([row], "checklist", says, votes=1)
    assert result.verdicts[0].outcome == Score(score=0.75)


def writes_and_answers(request: Request, index: int) -> str:
    if "Write a checklist" in request.messages[-1].content:
        return "Here it is:\n1. Is it short?\n2. Is it kind?\n\nThat is all."
    return "yes" if "kind" in asked(request, "Question") else "no"


def test_the_judges_model_writes_the_items_once_for_each_prompt(make_response: Make, tmp_path: Path) -> None:
    rows = [make_response(text, prompt=p, index=i) for p in ("p", "q") for i, text in enumerate(("one", "two"))]
    write_records(tmp_path / "r.jsonl", rows)
    output = tmp_path / "judged.jsonl"
    result, engine = run(tmp_path / "r.jsonl", "checklist", writes_and_answers, votes=1, output=output)
    assert len(engine.requests) == 2 + 4 * 2
    assert [verdict.outcome for verdict in result.verdicts] == [Score(score=0.5)] * 4
    kept = [json.loads(line) for line in (tmp_path / "judged.jsonl.d" / "checklists.jsonl").read_text().splitlines()]
    assert [row["items"] for row in kept] == [["Is it short?", "Is it kind?"]] * 2
    again, engine = run(tmp_path / "r.jsonl", "checklist", writes_and_answers, votes=1, output=output)
    assert not engine.requests
    assert [verdict.id for verdict in again.verdicts] == [verdict.id for verdict in result.verdicts]


def test_two_prompts_of_the_same_text_get_a_checklist_each(make_response: Make) -> None:
    one = make_response("one")
    twin = one.model_copy(update={"id": "twin", "prompt": one.prompt.model_copy(update={"id": "other"})})
    result, _ = run([one, twin], "checklist", writes_and_answers, votes=1)
    assert [verdict.outcome for verdict in result.verdicts] == [Score(score=0.5)] * 2


@pytest.mark.parametrize(
    ("text", "items", "dropped"),
    [
        ("1. Is it short?\n2) Is it kind?", ("Is it short?", "Is it kind?"), ()),
        (
            "**1.** Is it short?\n- [ ] Is it kind?\n* [x] Is it true?",
            ("Is it short?", "Is it kind?", "Is it true?"),
            (),
        ),
        ("1. **Brevity**: Is it short?", ("Brevity: Is it short?",), ()),
        ("1、是否简短？\n2、是否友好？", ("是否简短？", "是否友好？"), ()),
        ("1. Is it short? (at most ten words)", ("Is it short?",), ()),
        ("1. Is it short?\n2. It is kind.\n3. Is it short?", ("Is it short?",), ("It is kind.", "Is it short?")),
        ("1. A?\n2. B?\n3. C?\n4. D?", ("A?", "B?", "C?"), ("D?",)),
        ("Is it short? I would say so.", (), ()),
        ("<think>1. Is it odd?</think>1. Is it short?", ("Is it short?",), ()),
    ],
)
def test_the_items_of_a_list_are_read_and_what_is_no_question_is_listed(
    text: str, items: tuple[str, ...], dropped: tuple[str, ...]
) -> None:
    assert read_items(text, 3) == (items, dropped)


def test_the_last_line_of_a_list_that_was_cut_off_is_no_item() -> None:
    assert read_items("1. Is it short?\n2. Is it ki?", 3, truncated=True) == (("Is it short?",), ("Is it ki?",))
    assert read_items("1. Is it short?\nand furthermore", 3, truncated=True) == (("Is it short?",), ())


def test_an_item_that_is_listed_twice_or_blank_is_refused(make_response: Make, tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{{ response }} {{ item }}")
    head = "kind: checklist\nprompt: t.j2\nitems: "
    models = (EngineConfig(model="m"),)
    with pytest.raises(ConfigError, match=r"the item 'Short[?]' is listed twice"):
        load_ensemble(write(tmp_path, head + '["Short?", {item: "Short?", weight: 5}]'), models=models)
    with pytest.raises(ConfigError, match="must be a question, not blank"):
        load_ensemble(write(tmp_path, head + '["  "]'), models=models)
    twice = make_response("one", metadata={"checklist": ["Short?", "Short?"]})
    with pytest.raises(DataError, match=r"metadata\.checklist: the item 'Short[?]' is listed twice"):
        run([twice], "checklist", lambda request, index: "yes")


def test_an_item_of_the_file_and_of_the_prompt_is_asked_once(make_response: Make, tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{{ response }} {{ item }}")
    name = write(tmp_path, 'kind: checklist\nprompt: t.j2\nitems: ["Short?"]\n')
    row = make_response("one", metadata={"checklist": ["Short?", "Kind?"]})
    _, engine = run([row], name, lambda request, index: "yes", votes=1)
    assert len(engine.requests) == 2


def test_a_prompt_whose_checklist_can_not_be_read_is_listed_and_the_others_are_judged(make_response: Make) -> None:
    rows = [make_response("one", prompt=prompt) for prompt in ("plain", "odd")]

    def says(request: Request, index: int) -> str:
        odd = "Write a checklist" in request.messages[-1].content and "odd" in request.messages[-1].content
        return "I would rather not." if odd else writes_and_answers(request, index)

    result, _ = run(rows, "checklist", says, votes=1)
    assert [verdict.outcome for verdict in result.verdicts] == [Score(score=0.5), None]
    assert result.skipped == [
        {
            "prompt_id": rows[1].prompt.id,
            "judge": "checklist",
            "reason": "no checklist: none could be read in what the model wrote",
        }
    ]


def test_a_checklist_judge_without_any_item_and_a_broken_list_are_told(make_response: Make, tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{{ response }} {{ item }}")
    name = write(tmp_path, "kind: checklist\nprompt: t.j2\n")
    with pytest.raises(DataError, match="has nothing to ask: no prompt brings a checklist"):
        run([make_response("one")], name, lambda request, index: "yes")
    with pytest.raises(DataError, match=r"metadata\.checklist is no checklist; it is a list of questions"):
        run([make_response("one", metadata={"checklist": "Is it short?"})], name, lambda request, index: "yes")
    everyone = write(tmp_path, 'kind: checklist\nprompt: t.j2\nitems: ["Is it true?"]\n')
    result, _ = run([make_response("one")], everyone, lambda request, index: "no")
    assert result.verdicts[0].outcome == Score(score=0.0)


# Rankings


def ranks_by_length(request: Request, index: int) -> str:
    """The longest text first, equal ones tied."""
    parts = re.split(r"# Answer ([A-Z])\n", request.messages[-1].content.split("# Ranking")[0])[1:]
    lengths = {label: len(text.strip().splitlines()[1]) for label, text in zip(parts[::2], parts[1::2], strict=True)}
    tiers = sorted(set(lengths.values()), reverse=True)
    return "[[" + " > ".join(" = ".join(label for label in lengths if lengths[label] == tier) for tier in tiers) + "]]"


def test_a_ranking_decides_every_comparison_of_the_prompt(make_response: Make) -> None:
    rows = [make_response(text, index=index) for index, text in enumerate(("aa", "aaaa", "bb", "a"))]
    result, engine = run(rows, "ranking", ranks_by_length, votes=2)
    assert len(engine.requests) == 2
    assert len(result.verdicts) == 6
    for verdict in result.verdicts:
        first, second = verdict.responses
        difference = len(first.text) - len(second.text)
        assert verdict.margin == (difference > 0) - (difference < 0)
        assert verdict.judges[0].order_consistent is True
    (stats,) = result.judges
    assert (stats.asked, stats.decided, stats.first_pick_rate) == (2, 10, 0.5)
    judgments = {each for verdict in result.verdicts for tally in verdict.judges for each in tally.judgments}
    assert len(judgments) == 2


def test_a_judge_that_ranks_as_shown_decides_nothing(make_response: Make) -> None:
    """Each order is followed by its reverse, so that position alone cancels out."""
    rows = [make_response(f"t{index}", index=index) for index in range(5)]
    result, _ = run(rows, "ranking", lambda request, index: "[[A > B > C > D > E]]", votes=4)
    assert [verdict.outcome for verdict in result.verdicts] == [Tie()] * 10
    assert result.judges[0].first_pick_rate == 1.0
    assert result.judges[0].order_consistency == 0.0


def test_every_response_comes_first_and_before_every_other_equally_often(make_response: Make) -> None:
    item = Item(tuple(make_response(f"t{index}", index=index) for index in range(4)))
    orders = [shown_order(item, vote) for vote in range(8)]
    assert {order[0].id: sum(o[0] is order[0] for o in orders) for order in orders} == {r.id: 2 for r in item.responses}
    for one, other in permutations(item.responses, 2):
        assert sum(order.index(one) < order.index(other) for order in orders) == 4
    assert len({tuple(r.id for r in order) for order in orders}) == 8


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[A > B]]", "unparsed"),
        ("[[A > A > B]]", "unparsed"),
        ("[[A > B > C]] or [[B > A > C]]", "conflict"),
        ("[[A > B > D]]", "unparsed"),
        ("A is the best", "unparsed"),
        ("I cannot compare these.", "refused"),
    ],
)
def test_what_is_no_whole_ranking_is_no_verdict(text: str, reason: str, make_response: Make, tmp_path: Path) -> None:
    rows = [make_response(f"t{index}", index=index) for index in range(3)]
    output = tmp_path / "out.jsonl"
    result, _ = run(rows, "ranking", lambda request, index: text, votes=1, output=output, max_unparsed=1.0)
    assert all(verdict.outcome is None for verdict in result.verdicts)
    (judgment,) = read_records(tmp_path / "out.jsonl.d" / "judgments.jsonl", Judgment)
    assert (judgment.outcome, judgment.reason, judgment.raw) == (None, reason, text)


def test_the_ranking_is_kept_by_response_ids(make_response: Make, tmp_path: Path) -> None:
    rows = [make_response("a" * (index + 1), index=index) for index in range(3)]
    run(rows, "ranking", ranks_by_length, votes=2, output=tmp_path / "out.jsonl")
    for judgment in read_records(tmp_path / "out.jsonl.d" / "judgments.jsonl", Judgment):
        assert judgment.outcome == Ranking(tiers=(("question-m-2",), ("question-m-1",), ("question-m-0",)))


def test_ties_are_read_only_where_they_were_offered(make_response: Make, tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{% for r in responses %}{{ r.label }} {{ r.text }}{% endfor %}")
    name = write(tmp_path, "kind: listwise\nprompt: t.j2\nties: false\n")
    rows = [make_response(f"t{index}", index=index) for index in range(2)]
    result, _ = run(rows, name, lambda request, index: "[[A = B]]", votes=1, max_unparsed=1.0)
    assert result.verdicts[0].outcome is None


def test_a_prompt_with_more_responses_than_may_be_ranked_is_listed(make_response: Make) -> None:
    rows = [make_response(f"t{index}", prompt="many", index=index) for index in range(9)]
    rows += [make_response(f"t{index}", prompt="few", index=index) for index in range(2)]
    result, engine = run(rows, "ranking", lambda request, index: "[[A > B]]", votes=2)
    assert len(engine.requests) == 2
    (skipped,) = result.skipped
    assert skipped["prompt_id"] == rows[0].prompt.id
    assert "9 responses are more than it ranks at once (`most`" in skipped["reason"]


def test_a_ranking_and_a_pairwise_judge_decide_together(make_response: Make, tmp_path: Path) -> None:
    """The ranking puts the longer text first with weight 3; the other judge always prefers the text 'a'."""
    name = write(
        tmp_path,
        "kind: ensemble\nstop: all\nmembers: [{judge: ranking, weight: 3}, {judge: helpful}]\n",
    )

    def says(request: Request, index: int) -> str:
        if "# Ranking" in request.messages[-1].content:
            return ranks_by_length(request, index)
        return "A" if asked(request, "Answer A").strip().splitlines()[1] == "a" else "B"

    rows = [make_response(text, index=index) for index, text in enumerate(("a", "bb"))]
    result, _ = run(rows, name, says, votes=2)
    (verdict,) = result.verdicts
    assert verdict.margin == pytest.approx((-3 + 1) / 4)
    assert [tally.margin for tally in verdict.judges] == [-1.0, 1.0]


# Reward models


def by_reward(rewards: Mapping[str, float]) -> ScriptedEngine:
    return ScriptedEngine(score=lambda request: rewards[request.messages[-1].content])


def test_rewards_are_scores_and_between_two_responses_a_probability(make_response: Make, tmp_path: Path) -> None:
    """sigmoid(2) and sigmoid(-1) alone; compared, 2 sigmoid(2 - -1) - 1 = tanh(1.5)."""
    rows = [make_response(text, index=index) for index, text in enumerate(("good", "bad"))]
    engine = by_reward({"good": 2.0, "bad": -1.0})
    options = {"models": ["rm"], "engines": {"reward": engine}}
    compared = judge(rows, "reward", output=tmp_path / "out.jsonl", **options)  # type: ignore[arg-type]
    (tally,) = compared.verdicts[0].judges
    assert tally.scores == pytest.approx((1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))))
    assert [message.content for message in engine.score_requests[0].messages] == ["question", "good"]
    (verdict,) = compared.verdicts
    assert verdict.margin == pytest.approx(math.tanh(1.5))
    assert verdict.outcome == Preferred(response_id=rows[0].id)
    judgments = list(read_records(tmp_path / "out.jsonl.d" / "judgments.jsonl", Judgment))
    assert [judgment.parts for judgment in judgments] == [{"reward": 2.0}, {"reward": -1.0}]
    engine.score_requests.clear()
    judge(rows, "reward", comparisons="all", output=tmp_path / "out.jsonl", **options)  # type: ignore[arg-type]
    assert not engine.score_requests


def test_high_rewards_keep_their_difference(make_response: Make, tmp_path: Path) -> None:
    """Both scores are almost 1, and still the better response wins by 2 sigmoid(1) - 1; a spread of 2 halves the odds."""
    rows = [make_response(text, index=index) for index, text in enumerate(("good", "better"))]
    engine = by_reward({"good": 40.0, "better": 41.0})
    result = judge(rows, "reward", comparisons="all", models=["rm"], engines={"reward": engine})
    assert result.verdicts[0].margin == pytest.approx(-math.tanh(0.5))
    wide = write(tmp_path, "kind: reward-model\nspread: 2\nengine: {model: rm}\n")
    result = judge(rows, wide, comparisons="all", engines={"mine": engine})
    assert result.verdicts[0].margin == pytest.approx(-math.tanh(0.25))


def test_equal_rewards_tie_and_a_reward_that_failed_is_listed(make_response: Make) -> None:
    rows = [make_response(text, index=index) for index, text in enumerate(("one", "two", "long"))]

    def score(request: ScoreRequest) -> float | ScoreCompletion:
        if request.messages[-1].content == "long":
            return ScoreCompletion(key=request.key, failure="over-long", detail="9000 tokens, the model takes 2048")
        return 1.5

    with pytest.raises(Exception, match="1 of 3 votes could not be asked") as failed:
        judge(rows, "reward", comparisons="all", models=["rm"], engines={"reward": ScriptedEngine(score=score)})
    result = failed.value.result  # type: ignore[attr-defined]
    assert [verdict.outcome for verdict in result.verdicts] == [Tie(), None, None]
    assert result.failures[0]["reason"] == "over-long"


def test_a_language_model_is_no_reward_model(make_response: Make) -> None:
    engine = ScriptedEngine(lambda request, index: "A")
    with pytest.raises(EngineError):
        judge([make_response("one")], "reward", models=["lm"], engines={"reward": engine})


# People


def labels(folder: Path, *rows: object) -> str:
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write(folder, "kind: human\nlabels: labels.jsonl\n")


def test_labels_of_people_are_votes(make_response: Make, tmp_path: Path) -> None:
    rows = [make_response(f"t{index}", index=index) for index in range(3)]
    a, b, c = (row.id for row in rows)
    name = labels(
        tmp_path,
        {"response_ids": [a, b], "preferred": a, "annotator": "x"},
        {"response_ids": [b, a], "preferred": a, "annotator": "y"},
        {"response_ids": [a, b], "preferred": "tie", "annotator": "z"},
        {"response_ids": [b, c], "preferred": c, "annotator": "x"},
    )
    result = judge(rows, name, output=tmp_path / "out.jsonl")
    by_ids = {tuple(response.id for response in verdict.responses): verdict for verdict in result.verdicts}
    assert by_ids[a, b].margin == pytest.approx((1 + 1 + 0) / 3)
    assert by_ids[a, b].votes_counted == 3
    assert by_ids[b, c].outcome == Preferred(response_id=c)
    assert by_ids[a, c].outcome is None
    judgments = list(read_records(tmp_path / "out.jsonl.d" / "judgments.jsonl", Judgment))
    assert json.loads(judgments[0].raw)["annotator"] == "x"


def test_people_decide_by_majority_whatever_the_order_of_the_ids_in_a_row(make_response: Make, tmp_path: Path) -> None:
    rows = [make_response(f"t{index}", index=index) for index in range(2)]
    a, b = (row.id for row in rows)
    three = [{"response_ids": [a, b], "preferred": b, "annotator": str(number)} for number in range(3)]
    name = labels(tmp_path, *three, {"response_ids": [b, a], "preferred": a})
    result = judge(rows, name)
    assert result.verdicts[0].outcome == Preferred(response_id=b)
    assert result.verdicts[0].margin == -0.5
    assert result.judges[0].first_pick_rate is None
    assert result.judges[0].order_consistency is None


def test_scores_of_people_are_scores_by_the_scale(make_response: Make, tmp_path: Path) -> None:
    rows = [make_response(f"t{index}", index=index) for index in range(2)]
    name = labels(tmp_path, *({"response_id": row.id, "score": score} for row, score in zip(rows, (5, 2), strict=True)))
    assert [verdict.outcome for verdict in judge(rows, name).verdicts] == [Score(score=1.0), Score(score=0.25)]
    (verdict,) = judge(rows, name, comparisons="all").verdicts
    assert verdict.margin == 0.75


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"chosen": "a"}, r"labels\.jsonl:2: no label; a label is"),
        ({"response_ids": ["a", "a"], "preferred": "a"}, "two different ids"),
        (
            {"response_ids": ["a", "b"], "preferred": "c"},
            'preferred is "c"; it is one of the two response_ids, or "tie"',
        ),
        ({"response_id": "a", "score": 6}, "score is 6; it is a number from 1 to 5"),
        ({"response_id": "a", "score": 4}, "scores and comparisons in one file"),
    ],
)
def test_a_wrong_label_is_told_with_its_line(row: object, told: str, tmp_path: Path) -> None:
    name = labels(tmp_path, {"response_ids": ["a", "b"], "preferred": "a"}, row)
    with pytest.raises(DataError, match=told):
        load_ensemble(name)


def test_labels_of_other_responses_are_not_passed_over_silently(make_response: Make, tmp_path: Path) -> None:
    rows = [make_response(f"t{index}", index=index) for index in range(2)]
    name = labels(
        tmp_path,
        {"response_ids": [rows[0].id, rows[1].id], "preferred": "tie"},
        {"response_ids": ["gone", rows[1].id], "preferred": "gone"},
    )
    result = judge(rows, name)
    assert {
        "judge": "mine",
        "reason": "a label on responses that are not compared: gone, question-m-1",
    } in result.skipped


# What would be asked


def test_a_plan_counts_questions_rankings_and_rewards(make_response: Make) -> None:
    rows = [make_response(f"t{index}", index=index, metadata={"checklist": ["Is it short?"]}) for index in range(3)]

    def votes(name: str) -> dict[str, object]:
        plan = judge_plan(rows, name, votes=2, models=(EngineConfig(model="m"),), comparisons="all")
        return {key: value for key, value in plan.items() if "votes" in key or "reward" in key}

    assert votes("criteria") == {"LLM votes": 3 * 4}
    assert votes("checklist") == {"LLM votes": 3}
    assert votes("ranking") == {"LLM votes": 2}
    assert votes("helpful") == {"LLM votes": 3 * 2}
    assert votes("reward") == {"LLM votes": 0, "responses for reward models": 3}
    written = judge_plan(
        [make_response(f"t{index}", index=index) for index in range(2)],
        "checklist",
        votes=3,
        models=(EngineConfig(model="m"),),
        comparisons=None,
    )
    assert (written["LLM votes, at most"], written["checklists to write"]) == (2 * 6, 1)
    assert "Write a checklist" in written["example"]


# Models and budgets


def test_a_judge_model_is_not_for_a_reward_model_beside_judges_that_write(tmp_path: Path) -> None:
    (tmp_path / "rm.yaml").write_text("kind: reward-model\nengine: {model: the-rm}\n")
    panel = write(tmp_path, "kind: ensemble\nmembers: [{judge: helpful}, {judge: rm.yaml}]\n")
    ensemble = load_ensemble(panel, models=(EngineConfig(model="writer"),))
    assert {judge.name: judge.model for judge in ensemble.judges} == {"helpful": "writer", "rm": "the-rm"}
    alone = load_ensemble(str(tmp_path / "rm.yaml"), models=(EngineConfig(model="another"),))
    assert alone.rewards[0].model == "another"
    nameless = write(tmp_path, "kind: ensemble\nmembers: [{judge: helpful}, {judge: reward}]\n")
    with pytest.raises(ConfigError, match="the judge 'reward' names no model"):
        load_ensemble(nameless, models=(EngineConfig(model="writer"),))


def test_nobody_voting_is_no_success(make_response: Make, tmp_path: Path) -> None:
    rows = [make_response(f"t{index}", index=index) for index in range(2)]
    name = labels(tmp_path, {"response_ids": ["gone", "lost"], "preferred": "tie"})
    with pytest.raises(QualityGateError, match=r"no judge had a vote on anything.*a label on responses") as failed:
        judge(rows, name, output=tmp_path / "out.jsonl")
    assert len(failed.value.result.verdicts) == 1
