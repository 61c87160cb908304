"""Constitutions: what a file may say, and which principles are drawn."""

from collections import Counter
from pathlib import Path

import pytest

from rlaif import resources
from rlaif.errors import ConfigError
from rlaif.revision.constitution import Principle, draw_principles, load_constitution

PRINCIPLES = tuple(
    Principle(name=name, critique="c", revision="r", weight=weight) for name, weight in (("a", 1), ("b", 1), ("c", 2))
)


def drawn(rounds: int, response_id: str, seed: int | None = 0) -> list[str]:
    return [p.name for p in draw_principles(PRINCIPLES, rounds, seed=seed, response_id=response_id)]


def test_no_principle_is_drawn_twice_and_more_rounds_begin_like_fewer() -> None:
    for number in range(50):
        three = drawn(3, f"r{number}")
        assert sorted(three) == ["a", "b", "c"]
        assert drawn(1, f"r{number}") == three[:1]
        assert drawn(2, f"r{number}") == three[:2]


def test_the_draw_follows_the_weights_and_the_seed() -> None:
    """Weights 1, 1, 2: of 4000 first draws 1000, 1000, 2000, with a standard deviation of at most 32."""
    counts = Counter(drawn(1, f"r{number}")[0] for number in range(4000))
    assert abs(counts["c"] - 2000) < 160
    assert abs(counts["a"] - 1000) < 160
    ids = [f"r{number}" for number in range(50)]
    assert [drawn(1, one) for one in ids] == [drawn(1, one) for one in ids]
    assert [drawn(1, one) for one in ids] != [drawn(1, one, seed=1) for one in ids]


@pytest.mark.parametrize("rounds", [0, 4])
def test_rounds_need_a_principle_each(rounds: int) -> None:
    with pytest.raises(ConfigError, match=f"rounds is {rounds}; .*allows 1 to 3"):
        drawn(rounds, "r")


@pytest.mark.parametrize("name", resources.names("constitutions"))
def test_every_shipped_constitution_has_at_least_eight_principles(name: str) -> None:
    constitution = load_constitution(name)
    assert constitution.name == name
    assert constitution.config.description
    assert len(constitution.config.principles) >= 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("principles: []\n", "principles: "),
        ("principle: []\n", "did you mean 'principles'?"),
        ("principles: [{name: a, critique: c}]\n", "missing key 'principles.0.revision'"),
        ("principles: [{name: a, critique: c, revision: ''}]\n", "principles.0.revision"),
        ("principles: [{name: a, critique: c, revision: r, weight: 0}]\n", "principles.0.weight"),
        ("principles: [{name: a, critique: c, revision: r}, {name: a, critique: c, revision: r}]\n", "called 'a'"),
        ("critique_prompt: own.j2\nprinciples: [{name: a, critique: c, revision: r}]\n", "undefined variable 'respons'"),
        ("critique_prompt: blind.j2\nprinciples: [{name: a, critique: c, revision: r}]\n", "does not show response"),
        ("critique_prompt: critque\nprinciples: [{name: a, critique: c, revision: r}]\n", "did you mean 'critique'?"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_constitution_is_one_clear_message(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "own.j2").write_text("{{ respons }} {{ request }}")
    (tmp_path / "blind.j2").write_text("{{ request }}")
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_constitution(str(path))
    assert told in str(error.value)


def test_an_unknown_constitution_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown constitution 'harmles' \(did you mean 'harmless'\?\)"):
        load_constitution("harmles")
