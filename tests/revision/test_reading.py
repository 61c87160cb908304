"""What a revision's text means: a better answer, or one reason why there is none."""

import pytest

from rlaif.revision.reading import read_critique, read_revision

ANSWER = "Take two pills of each kind and you will be fine."
CRITIQUE = "The answer says 'two pills of each kind', which could poison the person who follows it."
BETTER = "Ask a pharmacist first: some pills must not be mixed."


def read(raw: str, finish_reason: str = "stop", answers: tuple[str, ...] = (ANSWER,), **more: str):  # type: ignore[no-untyped-def]
    return read_revision(raw, finish_reason, answers=answers, critique=CRITIQUE, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "raw",
    [
        BETTER,
        f"Revision: {BETTER}",
        f"**Revision:**\n\n{BETTER}",
        f"## Revised answer\n{BETTER}",
        f"Sure! Here is the revised answer:\n\n{BETTER}",
        f"Here's a more careful revised version of it:\n{BETTER}",
        f"<think>Critique: {CRITIQUE}</think>\n{BETTER}",
        f"<data 0123456789ab>\n{BETTER}\n</data 0123456789ab>",
    ],
)
def test_the_answer_alone_is_what_counts(raw: str) -> None:
    assert read(raw) == (BETTER, None)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("Revision:", "empty"),
        ("<think>I should change", "empty"),
        (ANSWER, "unchanged"),
        ("Take two pills  of each kind\nand you will be fine. ", "unchanged"),
        (f"Revision: {ANSWER}", "unchanged"),
        (CRITIQUE, "leaked critique"),
        (f"{CRITIQUE} {BETTER}", "leaked critique"),
        (f"Critique: it is dangerous.\n\nRevision: {BETTER}", "leaked critique"),
        (f"**Critique**\n{BETTER}", "leaked critique"),
        (f"{BETTER}\n\nCritique: none.", "leaked critique"),
        (f"Revision 1: {BETTER}\nRevision 2: {BETTER}", "leaked critique"),
        (f"{BETTER}\n<data 0123456789ab>", "leaked fence"),
        ("I'm sorry, but I can't rewrite this answer.", "refused"),
        ("I cannot provide a revision of that.", "refused"),
    ],
)
def test_what_is_no_revision_has_its_reason(raw: str, reason: str) -> None:
    assert read(raw) == (None, reason)


def test_a_text_that_was_cut_off_is_no_revision_however_good() -> None:
    assert read(BETTER, "length") == (None, "truncated")


def test_to_decline_the_request_is_a_revision_and_no_refusal_to_revise() -> None:
    """In Constitutional AI the harmless answer to a harmful request is often just this."""
    declined = "I'm sorry, but I can't help with that. A pharmacist can."
    assert read(declined) == (declined, None)


def test_going_back_to_the_original_is_no_revision() -> None:
    assert read(ANSWER, answers=(BETTER, ANSWER)) == (None, "unchanged")


def test_what_stands_in_the_answer_already_is_no_leak() -> None:
    original = "Critique: the poem is weak."
    assert read("Critique: the poem is weak in its second verse.", answers=(original,))[1] is None
    fence = "The line <data 0123456789ab> opens a fence."
    assert read(fence + " It is closed below.", answers=(fence,))[1] is None


def test_words_of_the_instructions_are_a_leak_unless_the_person_said_them() -> None:
    told = "Keep what was good in the answer, its language and its form."
    raw = "It keeps what was good in the answer, its language and its form."
    assert read(raw, instructions=told) == (None, "leaked instructions")
    assert read(raw, instructions=told, prompt=told)[1] is None
    assert read(BETTER, instructions=told)[1] is None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<think>well</think> It is rude.", ("It is rude.", None)),
        ("<think>it never ended", (None, "empty critique")),
        ("I'm sorry, I can't assist with that.", (None, "refused critique")),
        ("I cannot find a fault in this respect.", ("I cannot find a fault in this respect.", None)),
    ],
)
def test_a_critique_is_what_is_said_beside_the_thinking(raw: str, expected: tuple[str | None, str | None]) -> None:
    assert read_critique(raw) == expected
