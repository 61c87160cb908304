import torch

from rlaif.engines.sampling import NUCLEUS_CANDIDATES, SeededSampling, draw


def test_draws_follow_the_softmax() -> None:
    """4,000 draws from p = (.5, .3, .2): each share within four standard errors (4 sqrt(.25 / 4000) = .032)."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(4000, 3)
    tokens = draw(logits, torch.rand(4000, generator=torch.Generator().manual_seed(0)), 1.0)
    shares = torch.bincount(tokens, minlength=3) / 4000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.032)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    """p = (.5, .3, .2) and top_p = .6 leave the first two, at .625 and .375; a uniform of .63 takes the second."""
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    drawn = [int(draw(logits, torch.tensor([u]), 0.6)) for u in (0.0, 0.62, 0.63, 0.999999)]
    assert drawn == [1, 1, 2, 2]
    assert int(draw(logits, torch.tensor([0.999]), 0.5)) == 1


def test_a_nucleus_wider_than_the_candidates_looked_at_first_is_exact() -> None:
    """Over a flat distribution of 4 x candidates tokens every quarter of the vocabulary is reached with top_p = .99."""
    size = 4 * NUCLEUS_CANDIDATES
    tokens = draw(torch.zeros(4, size), torch.tensor([0.1, 0.3, 0.6, 0.98]), 0.99)
    assert len({int(token) * 4 // size for token in tokens}) == 4


def test_a_row_draws_the_same_tokens_whatever_else_is_in_the_batch() -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together, alone = SeededSampling([1, 2, 3], 0.7, 0.9), SeededSampling([2], 0.7, 0.9)
    for _ in range(5):
        both = together(torch.zeros(3, 1), scores).argmax(-1)
        assert int(both[1]) == int(alone(torch.zeros(1, 1), scores[1:2]).argmax(-1))


def test_a_low_temperature_takes_the_likeliest_token() -> None:
    scores = torch.tensor([[1.0, 2.0, 1.5]])
    sampler = SeededSampling([0], 1e-3, 1.0)
    assert {int(sampler(torch.zeros(1, 1), scores).argmax(-1)) for _ in range(20)} == {1}
