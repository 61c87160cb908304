from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif import make_pairs
from rlaif.errors import ConfigError, DataError
from rlaif.records import write_records
from rlaif.types import JudgeTally, Preferred, Response, Score, Tie, Verdict

Make = Callable[..., Response]


def compared(first: Response, second: Response, margin: float | None) -> Verdict:
    """A verdict on two responses; a positive margin prefers the first."""
    outcome = None
    if margin is not None:
        outcome = Tie() if margin == 0 else Preferred(response_id=(first if margin > 0 else second).id)
    tally = JudgeTally(judge="j", model="m", weight=1, margin=margin, asked=2, counted=2, unparsed=0)
    return _verdict((first, second), outcome, margin, tally)


def scored(response: Response, score: float | None) -> Verdict:
    tally = JudgeTally(judge="j", model="m", weight=1, margin=None, score=score, asked=1, counted=1, unparsed=0)
    return _verdict((response,), Score(score=score) if score is not None else None, None, tally)


def _verdict(responses: tuple[Response, ...], outcome: object, margin: float | None, tally: JudgeTally) -> Verdict:
    return Verdict.model_validate(
        {
            "id": "-".join(r.id for r in responses),
            "responses": responses,
            "outcome": outcome,
            "margin": margin,
            "ensemble": "e",
            "votes_asked": 2,
            "votes_counted": 2,
            "votes_unparsed": 0,
            "stopping_rule": "all",
            "judges": (tally,),
        }
    )


def ids(result: object) -> list[tuple[str, str]]:
    return [(pair.chosen[-1].content, pair.rejected[-1].content) for pair in result.pairs]  # type: ignore[attr-defined]


@pytest.fixture
def four(make_response: Make) -> list[Response]:
    return [make_response(text, index=i) for i, text in enumerate(("best", "good", "fair", "poor"))]


@pytest.fixture
def ranked(four: list[Response]) -> list[Verdict]:
    """Scores 1, .75, .5, 0."""
    return [scored(response, score) for response, score in zip(four, (1.0, 0.75, 0.5, 0.0), strict=True)]


def test_rules(ranked: list[Verdict]) -> None:
    assert ids(make_pairs(ranked, rule="best-worst")) == [("best", "poor")]
    assert sorted(ids(make_pairs(ranked, rule="adjacent"))) == [("best", "good"), ("fair", "poor"), ("good", "fair")]
    assert len(make_pairs(ranked, rule="all").pairs) == 6
    assert ids(make_pairs(ranked, rule="all", max_pairs_per_prompt=1)) == [("best", "poor")]
    ((chosen, rejected),) = ids(make_pairs(ranked, rule="best-random"))
    assert chosen == "best"
    assert rejected in ("good", "fair", "poor")
    drawn = {ids(make_pairs(ranked, seed=seed))[0] for seed in range(30)}
    assert len(drawn) == 3
    assert make_pairs(ranked).pairs == make_pairs(ranked[::-1]).pairs


def test_comparisons_rank_by_their_mean_margin(four: list[Response]) -> None:
    best, good, fair, _ = four
    verdicts = [compared(best, good, 0.5), compared(fair, best, -1.0), compared(good, fair, 0.8)]
    assert ids(make_pairs(verdicts, rule="best-worst")) == [("best", "fair")]


def test_ties_unparsed_and_small_margins_are_never_pairs_and_always_listed(four: list[Response]) -> None:
    a, b, c, d = four
    result = make_pairs([compared(a, b, 0.0), compared(a, c, None), compared(a, d, 1 / 3)])
    assert result.pairs == []
    assert result.reasons == {
        "tie": 1,
        "no outcome (unparsed)": 1,
        "margin not above 0.333": 1,
        "no pair of this prompt is left": 1,
    }
    assert len(make_pairs([compared(a, d, 1 / 3)], min_margin=0.2).pairs) == 1


def test_filters(make_response: Make) -> None:
    good = make_response("A long and good answer.", index=0)
    cases = {
        "both responses say the same": (make_response("Same  text", index=1), make_response("same text", index=2), {}),
        "the chosen response is empty": (make_response(" ", index=1), good, {}),
        "the chosen response was cut at the token limit": (
            make_response("cut", index=1, finish_reason="length"),
            good,
            {},
        ),
        "one response is more than 2 times as long": (good, make_response("short", index=1), {"max_length_ratio": 2}),
        "the chosen response scores below 0.5, or has no score": (
            good,
            make_response("x", index=1),
            {"min_chosen": 0.5},
        ),
    }
    for reason, (chosen, rejected, options) in cases.items():
        result = make_pairs([compared(chosen, rejected, 1.0)], **options)  # type: ignore[arg-type]
        assert result.pairs == []
        assert result.skipped[0]["reason"] == reason
    cut = compared(make_response("cut", index=1, finish_reason="length"), good, 1.0)
    assert len(make_pairs([cut], keep_truncated=True).pairs) == 1


def test_a_pair_knows_where_it_comes_from(four: list[Response]) -> None:
    (pair,) = make_pairs([compared(four[1], four[0], -0.9)]).pairs
    assert (pair.chosen_id, pair.rejected_id, pair.margin) == (four[0].id, four[1].id, 0.9)
    assert pair.provenance is not None
    assert pair.provenance.judges[0].margin == 0.9, "margins of the judges are positive for the chosen response"
    assert pair.confidence is None


def test_the_scores_in_a_pair_name_the_chosen_response_first(four: list[Response]) -> None:
    verdict = compared(four[1], four[0], -0.5)
    told = {"scores": (0.25, 0.75), "questions": {"Is it short?": (0.25, 0.75)}}
    verdict = verdict.model_copy(update={"judges": (verdict.judges[0].model_copy(update=told),)})
    (pair,) = make_pairs([verdict]).pairs
    assert pair.provenance is not None
    assert pair.provenance.judges[0].scores == (0.75, 0.25)
    assert pair.provenance.judges[0].questions == {"Is it short?": (0.75, 0.25)}


def test_a_comparison_that_nobody_voted_on_is_listed_as_such(four: list[Response]) -> None:
    verdict = compared(four[0], four[1], None).model_copy(update={"votes_asked": 0})
    assert make_pairs([verdict]).skipped[0]["reason"] == "no outcome (nobody voted)"


def test_pairs_load_with_datasets_as_a_conversational_preference_set(ranked: list[Verdict], tmp_path: Path) -> None:
    from datasets import load_dataset

    make_pairs(ranked, rule="all", output=tmp_path / "p.jsonl")
    loaded = load_dataset(
        "json", data_files=str(tmp_path / "p.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 6
    for column in ("prompt", "chosen", "rejected"):
        assert all(set(turn) >= {"role", "content"} for turn in loaded[0][column])
    assert loaded[0]["chosen"][0]["role"] == "assistant"


def test_bad_input_is_told(tmp_path: Path, ranked: list[Verdict]) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no verdicts in it"):
        make_pairs(tmp_path / "empty.jsonl")
    with pytest.raises(ConfigError, match="unknown rule 'best'"):
        make_pairs(ranked, rule="best")  # type: ignore[arg-type]
    write_records(tmp_path / "r.jsonl", [ranked[0].responses[0]])
    with pytest.raises(DataError, match=r"r.jsonl:1: not a Verdict"):
        make_pairs(tmp_path / "r.jsonl")
