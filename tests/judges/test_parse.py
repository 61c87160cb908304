import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.judges.parse import read_label

AB = ("A", "B")


@pytest.mark.parametrize(
    ("text", "label", "reason"),
    [
        ("A", "A", None),
        (" B.\n", "B", None),
        ("**A**", "A", None),
        ("[[B]]", "B", None),
        ("Both are fine, but [[A]] is clearer. So: [[A]]", "A", None),
        ("First [[A]], no, [[B]]", None, "conflict"),
        ("[[C]]", None, "unparsed"),
        ("[[A]] or [[C]]", None, "unparsed"),
        ("Answer A is better", None, "unparsed"),
        ("", None, "unparsed"),
        ("a", None, "unparsed"),
        ("I can not decide.", None, "unparsed"),
    ],
)
def test_strict_reading(text: str, label: str | None, reason: str | None) -> None:
    assert read_label(text, AB) == (label, reason)


def test_a_verdict_that_was_cut_off_is_called_truncated() -> None:
    assert read_label("The first answer is", AB, truncated=True) == (None, "truncated")
    assert read_label("[[A]] because", AB, truncated=True) == ("A", None)


def test_scores_are_whole_labels() -> None:
    scale = tuple(str(score) for score in range(1, 11))
    assert read_label("10", scale).label == "10"
    assert read_label("Rating: [[7]]", scale).label == "7"
    assert read_label("[[7/10]]", scale).label is None


@given(st.text(alphabet=st.sampled_from("AB[] C.\n*x"), max_size=40))
def test_no_text_gives_a_verdict_that_was_not_offered(text: str) -> None:
    label, reason = read_label(text, AB)
    assert label in AB if reason is None else label is None
