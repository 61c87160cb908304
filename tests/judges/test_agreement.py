"""Agreement measures against published examples and hand arithmetic."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.judges.agreement import (
    accuracy,
    cohen_kappa,
    expected_calibration_error,
    krippendorff_alpha,
    longest_pick_rate,
)

_ = None
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
"""Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example C: four observers, twelve units."""
UNITS = list(zip(*OBSERVERS, strict=True))

SIDES = st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.sampled_from([-1, 0, 1])), min_size=1, max_size=40)


def test_krippendorffs_own_example() -> None:
    """Published: nominal 0.743, ordinal 0.815."""
    assert krippendorff_alpha(UNITS) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(UNITS, "ordinal") == pytest.approx(0.815, abs=5e-4)


def test_krippendorffs_binary_example() -> None:
    """Example A there: two observers, ten units, nominal alpha 0.095."""
    first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert krippendorff_alpha(list(zip(first, second, strict=True))) == pytest.approx(0.095, abs=5e-4)


def test_alpha_ignores_units_with_one_rating_and_the_order_of_everything() -> None:
    shuffled = [tuple(random.Random(i).sample(unit, 4)) for i, unit in enumerate(UNITS)]
    random.Random(0).shuffle(shuffled)
    assert krippendorff_alpha([*shuffled, (7, _, _, _)]) == pytest.approx(krippendorff_alpha(UNITS))
    assert krippendorff_alpha([*shuffled, (7, _, _, _)], "ordinal") == pytest.approx(
        krippendorff_alpha(UNITS, "ordinal")
    )


def test_alpha_is_one_in_perfect_agreement_and_none_without_variation() -> None:
    assert krippendorff_alpha([(1, 1), (0, 0), (1, 1)]) == 1
    assert krippendorff_alpha([(1, 1), (1, 1)]) is None
    assert krippendorff_alpha([(1, _), (_, 0)]) is None
    assert krippendorff_alpha([]) is None


def test_kappa_of_the_textbook_table() -> None:
    """20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: p_o = .7, p_e = .5 * .6 + .5 * .4 = .5, kappa = .4."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(*zip(*pairs, strict=True)) == pytest.approx(0.4)


def test_a_tie_is_a_category_of_its_own() -> None:
    """Of 4: p_o = 1/2; both say 1 twice, 0 once, -1 once: p_e = (4 + 1 + 1) / 16 = 3/8; kappa = (1/8) / (5/8) = .2."""
    assert cohen_kappa([1, 1, 0, -1], [1, 1, -1, 0]) == pytest.approx(0.2)


def test_kappa_without_a_base_is_none() -> None:
    assert cohen_kappa([], []) is None
    assert cohen_kappa([1, 1], [1, 1]) is None
    with pytest.raises(ValueError, match="2 and 1 items"):
        cohen_kappa([1, 1], [1])


@given(SIDES)
def test_kappa_is_symmetric_and_at_most_one(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    kappa = cohen_kappa(first, second)
    assert kappa == cohen_kappa(second, first)
    assert kappa is None or -1 <= kappa <= 1


@given(SIDES)
def test_alpha_of_two_raters_is_scotts_pi_with_its_correction_for_small_samples(pairs: list[tuple[int, int]]) -> None:
    """1 - alpha = (1 - pi) (n - 1) / n with n ratings (Krippendorff 2011)."""
    ratings = [value for pair in pairs for value in pair]
    n = len(ratings)
    chance = sum((ratings.count(value) / n) ** 2 for value in set(ratings))
    alpha = krippendorff_alpha(pairs)
    if chance == 1:
        assert alpha is None
    else:
        disagreement = sum(a != b for a, b in pairs) / len(pairs)
        assert alpha == pytest.approx(1 - disagreement / (1 - chance) * (n - 1) / n)


def test_calibration_error_by_hand() -> None:
    """Two bins of two: |(.6 + .6) / 2 - 1/2| = .1 and |(.9 + .9) / 2 - 1| = .1, each of weight 1/2."""
    assert expected_calibration_error([0.6, 0.9, 0.6, 0.9], [1, 1, 0, 1], bins=2) == pytest.approx(0.1)
    assert expected_calibration_error([], []) is None


def test_bins_have_equal_mass() -> None:
    """.1 and .2 form one bin (mean .15, share 1/2), .8 and .9 the other; in bins of equal width each would be alone."""
    assert expected_calibration_error([0.1, 0.2, 0.8, 0.9], [1, 0, 1, 0], bins=2) == pytest.approx(0.35)


def test_equal_confidences_share_the_bin_of_their_middle_rank() -> None:
    """Ranks of the three .5 are 1 to 3, so they lie in the upper bin: (|.1 - 1| + |1.5 - 1|) / 4."""
    assert expected_calibration_error([0.1, 0.5, 0.5, 0.5], [1, 0, 1, 0], bins=2) == pytest.approx(0.35)


@given(
    st.lists(st.tuples(st.sampled_from([0.5, 0.7, 0.75, 1.0]), st.sampled_from([0, 0.5, 1])), min_size=1), st.randoms()
)
def test_calibration_error_does_not_depend_on_the_order(
    pairs: list[tuple[float, float]], generator: random.Random
) -> None:
    error = expected_calibration_error(*zip(*pairs, strict=True))
    generator.shuffle(pairs)
    assert expected_calibration_error(*zip(*pairs, strict=True)) == pytest.approx(error)
    assert error is not None
    assert 0 <= error <= 1


def test_accuracy_has_wilsons_interval() -> None:
    """8 of 10: Wilson's 95 % interval is 49.0 % to 94.3 % (Brown, Cai & DasGupta 2001); halves count as such."""
    assert accuracy([1] * 8 + [0] * 2) == pytest.approx((0.8, 0.490, 0.943), abs=5e-4)
    assert accuracy([0.5] * 10) == pytest.approx(accuracy([0, 1] * 5))
    assert accuracy([]) is None


def test_longest_pick_rate_counts_what_is_decided_and_of_different_length() -> None:
    assert longest_pick_rate([0.5, -1, 1, 0, None, 1], [1, 1, -1, 1, 1, 0]) == pytest.approx(1 / 3)
    assert longest_pick_rate([0, None], [1, 1]) is None
