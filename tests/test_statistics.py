import pytest

from rlaif.statistics import clustered_mean, distinct_ngrams, wilson


def test_wilson_is_the_published_interval() -> None:
    """7 of 10 at 95 %: (0.39678, 0.89221), the value in R's prop.test(7, 10, correct = FALSE)."""
    assert wilson(7, 10) == pytest.approx((0.39678, 0.89221), abs=1e-5)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(1)


def test_samples_of_one_prompt_do_not_count_as_independent() -> None:
    """Ten prompts, each value ten times: the interval is as wide as with each once."""
    once = {str(i): [float(i < 5)] for i in range(10)}
    ten_times = {key: values * 10 for key, values in once.items()}
    a, b = clustered_mean(once), clustered_mean(ten_times)
    assert a is not None
    assert b is not None
    assert a == pytest.approx(b)
    assert a.value == 0.5
    assert a.high - a.low > 0.4


def test_when_every_value_is_the_same_the_interval_is_not_empty() -> None:
    result = clustered_mean({str(i): [1.0, 1.0] for i in range(10)})
    assert result is not None
    assert (result.value, result.high) == pytest.approx((1.0, 1.0))
    assert result.low == pytest.approx(wilson(10, 10)[0])
    assert clustered_mean({}) is None


def test_distinct_ngrams_are_counted_across_answers() -> None:
    """'a b' twice has one distinct 2-gram of two; 'a b c' alone has two of two."""
    assert distinct_ngrams(["a b", "A b"], 2) == 0.5
    assert distinct_ngrams(["a b c"], 2) == 1
    assert distinct_ngrams(["a"], 2) is None
