"""Judges of known formats, from their YAML to a judgment: what a file may say, what is asked and what is read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif import EngineConfig
from rlaif.engines.base import Completion, Sample
from rlaif.errors import ConfigError
from rlaif.judges.answer import REPAIR_MARK, read_judgment, repaired_judgment
from rlaif.judges.ensemble import load_ensemble
from rlaif.judges.judge import Item, LLMJudge, shown_order
from rlaif.judges.request import judge_request, repair_request
from rlaif.types import Judgment, Preferred, Response, Score, Tie

Make = Callable[..., Response]
TEMPLATES = {
    "pairwise": "{{ prompt }}\n{{ response_a }}\n{{ response_b }}",
    "pointwise": "{{ prompt }}\n{{ response }}",
}


def load(folder: Path, kind: str, text: str) -> LLMJudge:
    (folder / "t.j2").write_text(TEMPLATES[kind])
    path = folder / "judge.yaml"
    path.write_text(f"kind: {kind}\nprompt: t.j2\n{text}")
    (judge,) = load_ensemble(str(path), models=(EngineConfig(model="m"),)).llms
    return judge


@pytest.fixture
def item(make_response: Make) -> Item:
    return Item((make_response("one", index=0), make_response("two", index=1)))


def answer(judge: LLMJudge, item: Item, text: str, vote: int = 0, **sample: object) -> Judgment:
    request = judge_request(judge, item, vote, None)
    said = Sample.model_validate({"index": 0, "text": text, "finish_reason": "stop", "completion_tokens": 3, **sample})
    return read_judgment(judge, item, vote, None, Completion(key=request.key, samples=(said,)))


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("pairwise", "format: llmbar\nlabels: [A, B]", "calls the responses a and b, not A and B; leave labels out"),
        ("pairwise", "format: rewardbench\ntie: C", "has no label of a tie, so tie can not be C"),
        ("pairwise", "format: mt-bench-pair\ntie: Draw", "calls a tie C, so tie can not be Draw"),
        ("pairwise", "format: g-eval", "format g-eval is not for a pairwise judge; allowed: label, mt-bench-pair"),
        (
            "pointwise",
            "format: judgelm",
            "format judgelm is not for a pointwise judge; allowed: label, mt-bench-single",
        ),
        ("pairwise", "scale: [1, 5]", "the format label gives no ratings, so it has no scale"),
        ("pairwise", "format: judgelm\nscale: null", "the format judgelm needs a scale"),
        ("pairwise", "format: judgelm\nscale: [10, 1]", "scale must go from a lower to a higher score"),
        ("pairwise", "format: mtbench", "format: Input should be 'label', 'mt-bench-pair'"),
        ("pairwise", "format: [label]", "format: Input should be"),
        ("pairwise", "mode: loose", "mode: Input should be 'strict' or 'lenient'"),
    ],
)
def test_what_contradicts_the_format_is_refused(tmp_path: Path, kind: str, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, kind, text)
    assert told in str(error.value)
    assert "judge.yaml" in str(error.value)


def test_a_format_brings_its_labels_tie_and_scale(tmp_path: Path) -> None:
    arena = load(tmp_path, "pairwise", "format: arena-hard").config
    assert arena.offer(2).choices == ("A", "B", "A=B")
    assert load(tmp_path, "pairwise", "format: mt-bench-pair\ntie: null").config.offer(2).choices == ("A", "B")
    assert load(tmp_path, "pairwise", "format: judgelm").config.scale == (1, 10)
    assert load(tmp_path, "pointwise", "format: mt-bench-single").config.scale == (1, 10)
    assert load(tmp_path, "pointwise", "format: mt-bench-single\nscale: [0, 4]").config.scale == (0, 4)
    assert load(tmp_path, "pointwise", "").config.scale == (1, 5)


@pytest.mark.parametrize(
    ("kind", "name", "choices"),
    [
        ("pairwise", "label", ("A", "B")),
        ("pairwise", "alpaca-eval", ("m", "M")),
        ("pairwise", "cai-choice", ("A", "B")),
        ("pairwise", "llmbar", ("a", "b")),
        ("pairwise", "pandalm", ("1", "2", "Tie")),
        ("pointwise", "g-eval", ("1", "2", "3", "4", "5")),
        ("pairwise", "mt-bench-pair", None),
        ("pairwise", "arena-hard", None),
        ("pairwise", "judgelm", None),
        ("pointwise", "prometheus-absolute", None),
    ],
)
def test_verdicts_of_one_token_are_constrained_and_explained_ones_never(
    tmp_path: Path, item: Item, kind: str, name: str, choices: tuple[str, ...] | None
) -> None:
    shown = item if kind == "pairwise" else Item(item.responses[:1])
    asked = judge_request(load(tmp_path, kind, f"format: {name}"), shown, 0, None)
    assert asked.choices == choices
    as_text = judge_request(load(tmp_path, kind, f"format: {name}\nreading: text"), shown, 0, None)
    assert as_text.choices is None
    assert as_text.key != asked.key


def test_log_probs_of_a_known_format_name_the_shown_responses(tmp_path: Path, item: Item) -> None:
    judge = load(tmp_path, "pairwise", "format: alpaca-eval")
    for vote in (0, 1):
        first, second = shown_order(item, vote)
        judgment = answer(judge, item, "M", vote, choice_probabilities={"m": 0.3, "M": 0.7})
        assert judgment.outcome == Preferred(response_id=second.id)
        assert judgment.probabilities == {first.id: 0.3, second.id: 0.7}


def test_the_expected_score_of_g_eval(tmp_path: Path, item: Item) -> None:
    """E = 4 * 0.5 + 5 * 0.5 = 4.5 on 1 to 5 is (4.5 - 1) / 4."""
    probabilities = {"1": 0.0, "2": 0.0, "3": 0.0, "4": 0.5, "5": 0.5}
    judge = load(tmp_path, "pointwise", "format: g-eval")
    judgment = answer(judge, Item(item.responses[:1]), "4", choice_probabilities=probabilities)
    assert judgment.outcome == Score(score=3.5 / 4)


def test_letters_never_leave_the_raw_text(tmp_path: Path, item: Item) -> None:
    """Both orders: the same text means the response shown there, with Arena-Hard's strength."""
    judge = load(tmp_path, "pairwise", "format: arena-hard")
    for vote in (0, 1):
        judgment = answer(judge, item, "[[B>A]]", vote)
        assert judgment.outcome == Preferred(response_id=shown_order(item, vote)[1].id, strength=1 / 3)
        assert judgment.raw == "[[B>A]]"


def test_ratings_are_kept_by_response_and_their_order_decides(tmp_path: Path, item: Item) -> None:
    judge = load(tmp_path, "pairwise", "format: judgelm")
    for vote in (0, 1):
        first, second = shown_order(item, vote)
        judgment = answer(judge, item, "8 6.5\nThe first is clearer.", vote)
        assert judgment.outcome == Preferred(response_id=first.id)
        assert judgment.parts == {first.id: 8.0, second.id: 6.5}
    assert answer(judge, item, "7 7").outcome == Tie()


def test_a_text_without_a_rating_leaves_no_outcome_but_the_other_rating(tmp_path: Path, item: Item) -> None:
    judge = load(tmp_path, "pairwise", "format: ultrafeedback-aspects")
    judgment = answer(judge, item, "#### Output for Text 1\nRating: 4\n#### Output for Text 2\nRating: N/A")
    first, second = shown_order(item, 0)
    assert (judgment.outcome, judgment.reason) == (None, "unparsed")
    assert judgment.parts == {first.id: 4.0, second.id: None}


def test_lenient_reads_what_strict_does_not(tmp_path: Path, item: Item) -> None:
    text = "[[A]], no, [[B]]"
    strict = answer(load(tmp_path, "pairwise", "format: mt-bench-pair"), item, text)
    lenient = answer(load(tmp_path, "pairwise", "format: mt-bench-pair\nmode: lenient"), item, text)
    assert (strict.outcome, strict.reason) == (None, "conflict")
    assert lenient.outcome == Preferred(response_id=shown_order(item, 0)[1].id)
    assert strict.id != lenient.id


def test_one_further_question_repairs_an_answer(tmp_path: Path, item: Item) -> None:
    judge = load(tmp_path, "pairwise", "format: mt-bench-pair\nrepair: true\nreading: text")
    request = judge_request(judge, item, 1, None)
    broken = answer(judge, item, "The second one.", 1)
    again = repair_request(judge, request, broken)
    assert again is not None
    assert again.key != request.key
    assert again.messages[: len(request.messages)] == request.messages
    assert [message.role for message in again.messages[len(request.messages) :]] == ["assistant", "user"]
    said = Sample(index=0, text="[[B]]", finish_reason="stop", completion_tokens=4)
    repaired = repaired_judgment(judge, item, broken, Completion(key=again.key, samples=(said,)))
    assert repaired.id != broken.id
    assert repaired.outcome == Preferred(response_id=shown_order(item, 1)[1].id)
    assert repaired.reason is None
    assert repaired.raw == f"The second one.{REPAIR_MARK}[[B]]"
    assert repaired.completion_tokens == 7


def test_no_further_question_without_need_or_wish(tmp_path: Path, item: Item) -> None:
    wishes = load(tmp_path, "pairwise", "format: mt-bench-pair\nrepair: true")
    request = judge_request(wishes, item, 0, None)
    assert repair_request(wishes, request, answer(wishes, item, "[[A]]")) is None
    assert repair_request(wishes, request, answer(wishes, item, "I cannot judge these answers.")) is None
    without = load(tmp_path, "pairwise", "format: mt-bench-pair")
    assert repair_request(without, judge_request(without, item, 0, None), answer(without, item, "Hm.")) is None


def test_a_prompt_without_the_reference_is_named(make_response: Make) -> None:
    (judge,) = load_ensemble("mt-bench-pair-reference", models=(EngineConfig(model="m"),)).llms
    rows = [make_response(text, index=i, metadata={"topic": "maths"}) for i, text in enumerate("xy")]
    with pytest.raises(ConfigError) as error:
        judge_request(judge, Item((rows[0], rows[1])), 0, None)
    told = str(error.value)
    assert "mt-bench-pair-reference.j2" in told
    assert rows[0].prompt.id in told
    assert "no 'reference' (keys there: topic)" in told
    known = [make_response(text, index=i, metadata={"reference": "42"}) for i, text in enumerate("xy")]
    shown = judge_request(judge, Item((known[0], known[1])), 0, None).messages[-1].content
    assert shown.index("42") < shown.index("Answer]\n\n", shown.index("The Start of Assistant A"))


@pytest.mark.parametrize(
    "name", ["mt-bench-pair", "arena-hard", "alpaca-eval", "prometheus-relative", "llmbar", "cai-choice"]
)
def test_what_both_orders_share_comes_first(make_response: Make, name: str) -> None:
    """Prefix caches help from the start only: instructions and prompt come before the responses."""
    (judge,) = load_ensemble(name, models=(EngineConfig(model="m"),)).llms
    pair = Item((make_response("first " * 9, index=0), make_response("second " * 9, index=1)))
    one, other = (judge_request(judge, pair, vote, None).messages[-1].content for vote in (0, 1))
    shared = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert one.index("question") < shared
    assert shared < min(one.index("first first"), one.index("second second")) + 1
