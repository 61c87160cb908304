"""What a judge's text says: every format's forms, what is refused, and what no text may bring about."""

import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.judging_reading import disagreements, final_votes, group_of, winner_read
from benchmarks.judging_texts import all_readings, check_offered, offers, random_text
from rlaif.judges.reading import (
    FORMATS,
    Choice,
    FormatName,
    Mode,
    Offer,
    Ratings,
    Reading,
    outcome_of,
    parts_of,
    read,
    repair_messages,
    should_repair,
    verdict_syntax,
    visible_text,
)
from rlaif.types import Message, Preferred, Score, Tie

AB = Offer(labels=("A", "B"))
ABC = Offer(labels=("A", "B"), tie="C")
FIRST, SECOND, TIED = Choice(0), Choice(1), Choice(None)
GOLD = os.environ.get("RLAIF_GOLD")


def said(text: str, name: FormatName, mode: Mode = "strict", offer: Offer | None = None) -> object:
    """The meaning, or the reason why there is none, with what the format offers by default (its tie included)."""
    form = FORMATS[name]
    reading = read(text, form, offer or list(offers(form))[-1 if form.tie else 0], mode)
    return reading.meaning or reading.reason


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("A", FIRST),
        (" B.\n", SECOND),
        ("**A**", FIRST),
        ("[[B]]", SECOND),
        ("Both are fine, but [[A]] is clearer. So: [[A]]", FIRST),
        ("First [[A]], no, [[B]]", "conflict"),
        ("[[C]]", "unparsed"),
        ("[[A]] or [[C]]", "unparsed"),
        ("Answer A is better", "unparsed"),
        ("", "unparsed"),
        ("a", "unparsed"),
        ("I can not decide.", "unparsed"),
    ],
)
def test_labels_strictly(text: str, meaning: object) -> None:
    assert said(text, "label", offer=AB) == meaning


def test_a_verdict_that_was_cut_off_is_called_truncated() -> None:
    form = FORMATS["label"]
    assert read("The first answer is", form, AB, truncated=True) == Reading(None, "truncated")
    assert read("[[A]] because", form, AB, truncated=True) == Reading(FIRST, None)


def test_a_number_cut_off_at_the_end_may_lack_digits() -> None:
    """'Overall Score: 1' may have been going to be 10; on a scale to 5 nothing longer can follow."""
    cut = read("Overall Score: 1", FORMATS["ultrafeedback-critique"], Offer(scale=(1, 10), texts=1), truncated=True)
    assert cut == Reading(None, "truncated")
    whole = read("[RESULT] 1", FORMATS["prometheus-absolute"], Offer(scale=(1, 5), texts=1), truncated=True)
    assert whole.meaning == Ratings((1.0,))


def test_scores_are_whole_labels() -> None:
    scale = Offer(scale=(1, 10), texts=1)
    assert said("10", "label", offer=scale) == Ratings((10.0,))
    assert said("Rating: [[7]]", "label", offer=scale) == Ratings((7.0,))
    for text in ("[[7/10]]", "[[7.0]]", "[[07]]", "[[11]]", "[[0]]", "٣"):
        assert said(text, "label", offer=scale) == "unparsed", text


@given(st.text(alphabet=st.sampled_from("AB[] C.\n*x"), max_size=40))
def test_no_text_gives_a_label_that_was_not_offered(text: str) -> None:
    assert said(text, "label", offer=AB) in (FIRST, SECOND, "unparsed", "conflict")


STRICT: list[tuple[FormatName, str, object]] = [
    ("mt-bench-pair", "A was good, B bad. [[A]]", FIRST),
    ("mt-bench-pair", "[[C]]", TIED),
    ("mt-bench-pair", "I write [[A]] or [[B]]. It is [[B]]", "conflict"),
    ("mt-bench-pair", "A", "unparsed"),
    ("mt-bench-pair", "[A]", "unparsed"),
    ("mt-bench-single", "Rating: [[7]]", Ratings((7.0,))),
    ("mt-bench-single", "Rating: [[7.5]]", Ratings((7.5,))),
    ("mt-bench-single", "Rating: [[7/10]]", Ratings((7.0,))),
    ("mt-bench-single", "Rating: [[7/100]]", "unparsed"),
    ("mt-bench-single", "Rating: [[0]]", "unparsed"),
    ("mt-bench-single", "Rating: [[11]]", "unparsed"),
    ("mt-bench-single", "Rating: [[-1]]", "unparsed"),
    ("mt-bench-single", "As source [1] says. Rating: [[3]]", Ratings((3.0,))),
    ("mt-bench-single", "As source [1] says.", "unparsed"),
    ("mt-bench-single", "[[3]] at first, then [[4]]", "conflict"),
    ("mt-bench-ratings", "So [[8,7]]", Ratings((8.0, 7.0))),
    ("mt-bench-ratings", "[[8.5, 7]]", Ratings((8.5, 7.0))),
    ("mt-bench-ratings", "[[8]]", "unparsed"),
    ("mt-bench-ratings", "[[8,11]]", "unparsed"),
    ("arena-hard", "My final verdict is: [[A>>B]]", FIRST),
    ("arena-hard", "[[B>>A]]", SECOND),
    ("arena-hard", "[[A=B]]", TIED),
    ("arena-hard", "[[A<B]]", "unparsed"),
    ("arena-hard", "[[a>b]]", "unparsed"),
    ("arena-hard", "[[A>A]]", "unparsed"),
    ("arena-hard", "[[A>B]] ... [[A>>B]]", "conflict"),
    ("alpaca-eval", "m", FIRST),
    ("alpaca-eval", " M\n", SECOND),
    ("alpaca-eval", "Model m", "unparsed"),
    ("prometheus-absolute", "Feedback: fine. [RESULT] 4", Ratings((4.0,))),
    ("prometheus-absolute", "[RESULT] 4.\n\nThat is all.", Ratings((4.0,))),
    ("prometheus-absolute", "[RESULT] 4/5", Ratings((4.0,))),
    ("prometheus-absolute", "I end with [RESULT] as asked. [RESULT] (2)", Ratings((2.0,))),
    ("prometheus-absolute", "[RESULT] 0", "unparsed"),
    ("prometheus-absolute", "[RESULT] 6", "unparsed"),
    ("prometheus-absolute", "[RESULT] 3.5", "unparsed"),
    ("prometheus-absolute", "[RESULT] 3 or 4", "unparsed"),
    ("prometheus-absolute", "[RESULT] 3-4", "unparsed"),
    ("prometheus-absolute", "[RESULT] 4/10", "unparsed"),
    ("prometheus-absolute", "Score 4", "unparsed"),
    ("prometheus-relative", "Feedback. [RESULT] B", SECOND),
    ("prometheus-relative", "[RESULT] A\nA is better", FIRST),
    ("prometheus-relative", "[RESULT] Tie", "unparsed"),
    ("prometheus-relative", "[RESULT] C", "unparsed"),
    ("ultrafeedback-critique", "Be more exact.\nOverall Score: 1", Ratings((1.0,))),
    ("ultrafeedback-critique", "Overall Score: 9/10", Ratings((9.0,))),
    ("ultrafeedback-critique", "Overall Score: 0.5", "unparsed"),
    ("ultrafeedback-critique", "Overall Score: >5", "unparsed"),
    ("judgelm", "8 7\nThe first is better.", Ratings((8.0, 7.0))),
    ("judgelm", "8.5 7", Ratings((8.5, 7.0))),
    ("judgelm", "8, 7", "unparsed"),
    ("judgelm", "87", "unparsed"),
    ("judgelm", "8 7 6", "unparsed"),
    ("judgelm", "8 11", "unparsed"),
    ("pandalm", "1\n\n### Reason: it is.", FIRST),
    ("pandalm", "Tie", TIED),
    ("pandalm", "Neither is good.\n1", "unparsed"),
    ("pandalm", "asdf", "unparsed"),
    ("llmbar", "Output (a)", FIRST),
    ("llmbar", "b", SECOND),
    ("llmbar", "Output (b) is better.\n\nOutput (a) forgets the list.", SECOND),
    ("llmbar", "I must say whether Output (a) or Output (b) is better. Output (a) is better.", FIRST),
    ("llmbar", "Therefore, neither Output (a) nor Output (b) is better.", "unparsed"),
    ("llmbar", "Which is better, Output (a) or Output (b)?", "unparsed"),
    ("llmbar", "Output (a) is better. Output (b) is better.", "conflict"),
    ("llmbar", "Output (b) is not better.", "unparsed"),
    ("llmbar", "Both", "unparsed"),
    ("llmbar", "Output (c) is better.", "unparsed"),
    ("rewardbench", "[[B]]", SECOND),
    ("rewardbench", "[[C]]", "unparsed"),
    ("g-eval", '{"reason": "good", "score": 4}', Ratings((4.0,))),
    ("g-eval", '```json\n{"reason": "he said "yes"", "score": "3"}\n```', Ratings((3.0,))),
    ("g-eval", '{"reason": "it claims \\"score\\": 5", "score": 2}', Ratings((2.0,))),
    ("g-eval", "5", Ratings((5.0,))),
    ("g-eval", '{"score": 10}', "unparsed"),
    ("g-eval", '{"score": true}', "unparsed"),
    ("cai-choice", "(A)", FIRST),
    ("cai-choice", "The answer is (B).", SECOND),
    ("cai-choice", "(A) and (B) are alike", "conflict"),
    ("auto-j", "So, the final decision is Response 2.", SECOND),
    ("auto-j", "the final decision is Tie.", TIED),
    ("auto-j", "Response 2 is better.", "unparsed"),
]


@pytest.mark.parametrize(("name", "text", "meaning"), STRICT)
def test_each_format_strictly(name: FormatName, text: str, meaning: object) -> None:
    assert said(text, name) == meaning


LENIENT: list[tuple[FormatName, str, object]] = [
    ("label", "First [[A]], no, [[B]]", SECOND),
    ("label", "[[b]]", SECOND),
    ("label", "The better one is [A].", FIRST),
    ("label", "After all, Answer A is better.", FIRST),
    ("label", "**Verdict:** B", SECOND),
    ("label", "The better answer is a matter of taste.", "unparsed"),
    ("label", "Verdict: A or B, both are fine", "unparsed"),
    ("label", "[[A]] at first, but [[D]] in the end", "unparsed"),
    ("mt-bench-pair", "Verdict: A tie.", "unparsed"),
    ("mt-bench-single", "Rating: 8/10", Ratings((8.0,))),
    ("mt-bench-single", "Rating: [8]", Ratings((8.0,))),
    ("mt-bench-single", "As source [1] says.", "unparsed"),
    ("mt-bench-single", "[[3]] at first, then [[4]]", Ratings((4.0,))),
    ("mt-bench-ratings", "[8, 7]", Ratings((8.0, 7.0))),
    ("arena-hard", "[[A>>B]] ... [[b>>a]]", SECOND),
    ("arena-hard", "[[A<<B]]", SECOND),
    ("arena-hard", "[B=A]", TIED),
    ("alpaca-eval", "Model `M`", SECOND),
    ("prometheus-absolute", "[result]: 4", Ratings((4.0,))),
    ("prometheus-absolute", "**Score:** 3", Ratings((3.0,))),
    ("prometheus-relative", "Result: Response B", SECOND),
    ("ultrafeedback-critique", "overall score = 7", Ratings((7.0,))),
    ("judgelm", "8, 7", Ratings((8.0, 7.0))),
    ("judgelm", "8/10 7/10", Ratings((8.0, 7.0))),
    ("judgelm", "Assistant 1: 8\nAssistant 2: 7", Ratings((8.0, 7.0))),
    ("judgelm", "87", "unparsed"),
    ("pandalm", "tie.", TIED),
    ("pandalm", "Response 2", SECOND),
    ("pandalm", "Both responses are equal.", "unparsed"),
    ("llmbar", "output (A) is clearly better", FIRST),
    ("llmbar", "Output (b) (as it provides more)", SECOND),
    ("llmbar", "Output (a):\nlong\n\nOutput (b):\nshort", "unparsed"),
    ("rewardbench", "**Result:** A", FIRST),
    ("g-eval", "Score: 4 out of 5", Ratings((4.0,))),
    ("cai-choice", "(A) at first, but (B)", SECOND),
    ("auto-j", "The Final Decision is response 1", FIRST),
]


@pytest.mark.parametrize(("name", "text", "meaning"), LENIENT)
def test_each_format_leniently(name: FormatName, text: str, meaning: object) -> None:
    assert said(text, name, "lenient") == meaning


def test_every_format_reads_its_own_example_in_both_modes() -> None:
    """What a strict reader understands, a lenient one understands alike, unless the verdicts conflict."""
    for name, text, meaning in STRICT:
        if not isinstance(meaning, str):
            assert said(text, name, "lenient") == meaning, (name, text)


def test_arena_hard_counts_a_decisive_win_three_times() -> None:
    assert said("[[B>A]]", "arena-hard") == Choice(1, 1 / 3)
    assert said("[[A>>B]]", "arena-hard") == Choice(0, 1.0)
    assert said("[[A=B]]", "arena-hard", offer=AB) == "unparsed", "no tie was offered"


ASPECTS = "#### Output for Text {}\nRating: {}\nRationale: because\n\nand one blank line more"


def test_aspects_are_read_by_their_headers() -> None:
    """A rationale with a blank line shifts nothing, and neither does a preamble."""
    answer = "I rate them.\n\n" + "\n\n".join(
        ASPECTS.format(k, rating) for k, rating in ((1, 4), (2, "N/A"), (3, "2/5"))
    )
    offer = Offer(scale=(1, 5), texts=3)
    assert said(answer, "ultrafeedback-aspects", offer=offer) == Ratings((4.0, None, 2.0))
    turned = "\n\n".join(ASPECTS.format(k, k) for k in (3, 1, 2))
    assert said(turned, "ultrafeedback-aspects", offer=offer) == Ratings((1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        (((1, 4),), "unparsed"),
        (((1, 4), (2, 3), (3, 3)), "unparsed"),
        (((1, 4), (2, 6)), "unparsed"),
        (((1, 4), (2, "good")), "unparsed"),
        (((1, 4), (2, 3), (2, 5)), "conflict"),
    ],
)
def test_aspects_with_other_counts_or_ratings_are_no_verdict(
    ratings: tuple[tuple[int, object], ...], reason: str
) -> None:
    answer = "\n\n".join(ASPECTS.format(k, rating) for k, rating in ratings)
    assert said(answer, "ultrafeedback-aspects") == reason


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("<think>[[A]]</think>\n[[B]]", "[[B]]"),
        ("<thinking>x</thinking>A<reasoning>y</reasoning>B", "AB"),
        ("[[A]] it is</think>[[B]]", "[[B]]"),
        ("<think>[[A]]", ""),
        ("[[B]] <think>[[A]]", "[[B]]"),
        ("<think>a<think>b</think>[[A]]</think>[[B]]", "[[B]]"),
        ("[[A]]<think>b</think>c</think>[[B]]", "[[B]]"),
        ("[THINK]x[/THINK]A", "A"),
        (
            "<|channel|>analysis<|message|>[[A]]<|end|><|start|>assistant<|channel|>final<|message|>[[B]]<|return|>",
            "[[B]]",
        ),
        ("<|channel|>analysis<|message|>[[A]]", ""),
        ("analysisThe first. [[A]]assistantfinal[[B]]", "[[B]]"),
        ("analysisThe first. [[A]]", ""),
        ("analysis of both: [[A]]", "analysis of both: [[A]]"),
    ],
)
def test_thinking_is_set_aside(text: str, visible: str) -> None:
    assert visible_text(text) == visible


def test_thinking_that_never_ended_is_no_verdict() -> None:
    assert read("<think>[[A]]", FORMATS["label"], AB, truncated=True) == Reading(None, "truncated")
    assert read("<think>[[A]]", FORMATS["label"], AB, "lenient") == Reading(None, "unparsed")


@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_a_refusal_is_told_and_a_verdict_beside_it_counts(mode: Mode) -> None:
    for text in (
        "I cannot judge these answers.",
        "I'm sorry, but I can't compare them.",
        "I am unable to assist with that.",
    ):
        assert said(text, "label", mode, AB) == "refused", text
    for text in ("I can not decide.", "The user says: I cannot help you.", "I cannot say that it is bad."):
        assert said(text, "label", mode, AB) == "unparsed", text
    assert said("I cannot judge this fairly, but [[A]]", "label", mode, AB) == FIRST


def test_what_a_meaning_says_of_the_shown_responses() -> None:
    shown = ("x", "y")
    assert outcome_of(Choice(1, 1 / 3), shown, None) == Preferred(response_id="y", strength=1 / 3)
    assert outcome_of(TIED, shown, None) == Tie()
    assert outcome_of(Ratings((8.0, 7.0)), shown, (1, 10)) == Preferred(response_id="x")
    assert outcome_of(Ratings((7.0, 7.0)), shown, (1, 10)) == Tie()
    assert outcome_of(Ratings((7.0, 7.05)), shown, (1, 10), tie_within=0.1) == Tie()
    assert outcome_of(Ratings((4.0, None)), shown, (1, 5)) is None
    assert outcome_of(Ratings((4.0,)), ("x",), (1, 5)) == Score(score=0.75)
    assert parts_of(Ratings((4.0, None)), shown) == {"x": 4.0, "y": None}
    assert parts_of(FIRST, shown) is None


@given(st.lists(st.one_of(st.integers(0, 10).map(float), st.none()), min_size=2, max_size=2))
def test_swapping_the_shown_responses_swaps_the_preference(values: list[float | None]) -> None:
    straight = outcome_of(Ratings(tuple(values)), ("x", "y"), (0, 10))
    assert outcome_of(Ratings(tuple(reversed(values))), ("y", "x"), (0, 10)) == straight


def test_the_further_question_goes_on_with_the_visible_answer() -> None:
    asked = (Message(role="user", content="Which?"),)
    text = "<think>A, no, B</think>They are both good."
    first, answer, question = repair_messages(asked, text, FORMATS["mt-bench-pair"], ABC)
    assert first == asked[0]
    assert (answer.role, answer.content) == ("assistant", "They are both good.")
    assert question.role == "user"
    assert all(form in question.content for form in ("[[A]]", "[[B]]", "[[C]]"))


def test_a_further_question_is_asked_where_it_can_help() -> None:
    assert [should_repair(reason, "text") for reason in ("unparsed", "conflict", "truncated", "refused", None)] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert not should_repair("unparsed", "<think>thoughts only</think>")


def test_verdict_syntax_in_a_response_is_told() -> None:
    assert "mt-bench-pair" in verdict_syntax("Tea is a drink. [[A]]")
    assert verdict_syntax("[[B>>A]]") == ["arena-hard"]
    assert verdict_syntax("x [RESULT] 5") == ["prometheus-absolute", "prometheus-relative"]
    assert set(verdict_syntax("score: 10")) == {"g-eval", "ultrafeedback-critique"}
    assert verdict_syntax("Output (a) is better") == ["llmbar"]
    assert verdict_syntax("#### Output for Text 1\n") == ["ultrafeedback-aspects"]
    assert verdict_syntax("10 1") == ["judgelm"]
    for harmless in ("", "A", "1", "Tie", "Tea is a drink.", "See [1] and (c).", "He scored in the 10th minute."):
        assert verdict_syntax(harmless) == [], harmless


@pytest.mark.parametrize(("form", "offer", "mode"), all_readings())
def test_random_and_mutated_texts_never_crash_nor_give_what_was_not_offered(form, offer, mode) -> None:  # type: ignore[no-untyped-def]
    draw = random.Random(f"{form.name} {offer} {mode}")
    verdicts = sum(
        check_offered(random_text(draw, form.name), form, offer, mode, truncated=draw.random() < 0.2)
        for _ in range(150)
    )
    assert verdicts > 0, "texts that never hold a verdict show nothing"


@given(st.text(), st.sampled_from(all_readings()), st.booleans())
def test_any_text_is_read_without_a_crash(text: str, reading, truncated: bool) -> None:  # type: ignore[no-untyped-def]
    assert check_offered(text, *reading, truncated=truncated) in (0, 1)
    assert set(verdict_syntax(text)) <= set(FORMATS)


LONG = (
    "[[ ", "[", "<think>", "Output (a) ", "Rating: ", "1", "1/", "#### Output for Text 1\nRating: 4\n", "[RESULT] ", " ", "\n",
    '"score":', "better answer is A ", "Text 1\n", "I can't ", "<|channel|>", "Assistant 1: ", "**", "or ",
)  # fmt: skip


@pytest.mark.parametrize("unit", LONG)
def test_long_hostile_texts_take_linear_time(unit: str) -> None:
    """A quadratic pattern takes 2 * 10^10 steps on 200,000 characters: minutes, where a linear one takes milliseconds."""
    text = unit * (200_000 // len(unit))
    for form, offer, mode in all_readings():
        started = time.process_time()
        read(text, form, offer, mode)
        assert time.process_time() - started < 3, (unit, form.name, mode)
    started = time.process_time()
    verdict_syntax(text)
    assert time.process_time() - started < 3


@pytest.mark.skipif(GOLD is None, reason="RLAIF_GOLD does not name the folder of gold data")
def test_recorded_votes_are_recovered() -> None:
    """56,553 final votes of six judges on LLMBar with a text and a verdict, 36,862 of them short."""
    votes = final_votes(Path(str(GOLD)))
    assert len(votes) == 56_553
    plain = [vote for vote in votes if group_of(vote["completion"]) in ("short", "one anchored verdict")]
    short = [vote for vote in plain if group_of(vote["completion"]) == "short"]
    assert len(short) == 36_862
    assert all(winner_read(vote, "strict") == vote["winner"] for vote in short)
    assert sum(winner_read(vote, "strict") == vote["winner"] for vote in plain) >= 0.99 * len(plain)
    # where we read otherwise than the original's parser, the text itself says so: "Output (x) is better", of one x only
    for vote in disagreements(plain, "strict"):
        letter = "ab"[vote["order"].index("ab"[int(vote["read"]) - 1])]
        assert f"Output ({letter}) is better" in vote["completion"]
