import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.judges.aggregate import (
    ensemble_margin,
    mean_score,
    outcome_of_margin,
    pairwise_tally,
    pointwise_tally,
    score_margin,
)
from rlaif.types import JudgeTally, Judgment, Outcome, Preferred, Score, Tie

X, Y = "x", "y"


def vote(outcome: Outcome | None, first_shown: str = X, probabilities: dict[str, float] | None = None) -> Judgment:
    return Judgment(
        id=f"{outcome}{first_shown}",
        comparison_id="c",
        judge="j",
        model="m",
        template_hash="t",
        vote=0,
        shown=(first_shown, Y if first_shown == X else X),
        raw="",
        outcome=outcome,
        reason=None if outcome else "unparsed",
        probabilities=probabilities,
    )


def tally(*votes: Judgment) -> JudgeTally:
    return pairwise_tally("j", "m", 1.0, votes, X, Y)


def prefers(response: str) -> Preferred:
    return Preferred(response_id=response)


def test_a_judge_that_always_picks_the_first_answer_has_margin_zero() -> None:
    """AB votes say +1, BA votes -1: whatever their number, the mean of the two means is 0."""
    result = tally(vote(prefers(X), X), vote(prefers(Y), Y), vote(prefers(X), X))
    assert result.margin == 0
    assert result.order_consistent is False
    assert (result.first_picks, result.decided) == (3, 3)


def test_both_orders_agreeing_is_a_full_margin() -> None:
    result = tally(vote(prefers(X), X), vote(prefers(X), Y))
    assert (result.margin, result.order_consistent, result.first_picks) == (1.0, True, 1)


def test_log_probs_give_the_expected_value() -> None:
    """AB: .9 - .1 = .8; BA: .3 - .7 = -.4; mean .2."""
    result = tally(vote(prefers(X), X, {X: 0.9, Y: 0.1}), vote(prefers(Y), Y, {X: 0.3, Y: 0.7}))
    assert result.margin == pytest.approx(0.2)


def test_an_unparsed_vote_is_neither_a_tie_nor_a_loss() -> None:
    result = tally(vote(prefers(X), X), vote(None, Y))
    assert (result.margin, result.counted, result.unparsed, result.order_consistent) == (1.0, 1, 1, None)
    assert tally(vote(None, X)).margin is None
    assert tally(vote(Tie(), X)).margin == 0


margins = st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=1, max_size=6)


def tallies(values: list[float | None], weights: list[float]) -> list[JudgeTally]:
    return [
        JudgeTally(judge=str(i), model="m", weight=w, margin=v, asked=1, counted=1, unparsed=0)
        for i, (v, w) in enumerate(zip(values, weights, strict=True))
    ]


@given(margins, st.randoms(use_true_random=False), st.sampled_from(["mean", "majority"]))
def test_the_order_of_the_judges_never_counts_and_swapping_the_answers_flips_the_margin(
    values: list[float | None], random: object, aggregate: str
) -> None:
    weights = [1.0 + i for i in range(len(values))]
    straight = tallies(values, weights)
    shuffled = list(straight)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    margin = ensemble_margin(straight, aggregate)  # type: ignore[arg-type]
    assert ensemble_margin(shuffled, aggregate) == pytest.approx(margin)  # type: ignore[arg-type]
    flipped = tallies([None if v is None else -v for v in values], weights)
    negated = ensemble_margin(flipped, aggregate)  # type: ignore[arg-type]
    assert (negated is None) if margin is None else negated == pytest.approx(-margin)


def test_a_judge_without_weight_is_shown_but_has_no_say() -> None:
    """Weights 1, 0 and margins +.5, -1: only the first speaks. Majority of +.5, -.1, -.1 is -1/3, the mean +.1."""
    assert ensemble_margin(tallies([0.5, -1.0], [1, 0]), "mean") == 0.5
    assert ensemble_margin(tallies([-1.0], [0]), "mean") is None
    assert ensemble_margin(tallies([0.5, -0.1, -0.1], [1, 1, 1]), "majority") == pytest.approx(-1 / 3)
    assert ensemble_margin(tallies([0.5, -0.1, -0.1], [1, 1, 1]), "mean") == pytest.approx(0.1)


def test_a_zero_margin_is_a_tie_and_no_margin_is_no_outcome() -> None:
    assert outcome_of_margin(0.0, X, Y) == Tie()
    assert outcome_of_margin(-0.2, X, Y) == prefers(Y)
    assert outcome_of_margin(None, X, Y) is None


def test_scores_of_two_responses_give_a_margin_only_if_both_are_known() -> None:
    assert score_margin([0.75, 0.25]) == 0.5
    assert score_margin([0.75, None]) is None
    assert score_margin([0.75]) is None
    high, unread = [vote(Score(score=0.75))], [vote(None)]
    assert mean_score(high) == 0.75
    assert mean_score(unread) is None
    tally = pointwise_tally("j", "m", 1, [high, unread], [0.75, None], None)
    assert (tally.scores, tally.asked, tally.unparsed) == ((0.75, None), 2, 1)
