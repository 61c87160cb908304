from collections.abc import Callable

import pytest

from rlaif import evaluate
from rlaif.errors import ConfigError
from rlaif.evaluation import compare
from rlaif.judges.run import judge
from rlaif.relevance import other_prompt
from rlaif.types import Response

Make = Callable[..., Response]


def answers(make: Make, model: str, texts: list[str]) -> list[Response]:
    return [make(text, prompt=f"q{i}", model=model) for i, text in enumerate(texts)]


def report(make: Make, base: list[str], policy: list[str], relevances: dict[str, float | None] | None = None):  # type: ignore[no-untyped-def]
    rows = [*answers(make, "base", base), *answers(make, "policy", policy)]
    judged = judge(rows, "brief", comparisons="models")
    return compare(rows, judged.verdicts, judged.judges, "policy", "base", relevances or {})


def test_wins_pass_rates_and_length(make_response: Make) -> None:
    long = "word " * 30
    result = report(make_response, [long] * 9 + ["Short one."], [f"Tea number {i} is fine." for i in range(10)])
    assert (result.wins, result.ties, result.losses, result.undecided) == (9, 1, 0, 0)
    assert result.win_rate is not None
    assert result.win_rate.value == pytest.approx(0.95)
    assert result.policy.score is not None
    assert result.baseline.score is not None
    assert (result.policy.score.value, result.baseline.score.value) == (1.0, 0.1)
    assert result.length_ratio == pytest.approx(5 / 27.2)
    assert any("beyond chance" in finding for finding in result.findings)
    assert any("Length changed" in finding for finding in result.findings)


def test_a_policy_that_dodges_every_request_is_called_out(make_response: Make) -> None:
    result = report(
        make_response,
        [" ".join(f"w{i * 30 + k}" for k in range(30)) for i in range(10)],
        ["I can help."] * 10,
        {"base": 1.2, "policy": 0.1},
    )
    assert result.wins == 10
    assert any(finding.startswith("NOT EARNED") for finding in result.findings)
    assert any(finding.startswith("COLLAPSE") for finding in result.findings)


def test_no_difference_is_said_to_be_none(make_response: Make) -> None:
    same = [f"Tea {i} is fine." for i in range(10)]
    result = report(make_response, same, same)
    assert result.ties == 10
    assert any("No difference beyond chance" in finding for finding in result.findings)


def test_a_worse_policy_is_said_to_be_worse(make_response: Make) -> None:
    result = report(make_response, [f"Tea {i} is fine." for i in range(10)], ["word " * 30] * 10)
    assert result.losses == 10
    assert any("worse" in finding for finding in result.findings)


def test_comparing_a_model_with_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to compare"):
        evaluate("m", "m", ["a"], "brief")


@pytest.mark.model
def test_an_answer_is_more_likely_after_its_own_prompt(model_path: str) -> None:
    from rlaif.models import load_model, load_tokenizer
    from rlaif.relevance import relevance
    from rlaif.types import Prompt

    prompts = [
        Prompt.from_text(text).messages for text in ("What is the capital of France?", "How do bees make honey?")
    ]
    model, tokenizer = load_model(model_path), load_tokenizer(model_path)
    own = relevance(model, tokenizer, prompts, ["The capital of France is Paris.", "Bees turn nectar into honey."])
    crossed = relevance(model, tokenizer, prompts, ["Bees turn nectar into honey.", "The capital of France is Paris."])
    assert all(value is not None and value > 0.5 for value in own)
    assert own == pytest.approx([-value for value in reversed(crossed) if value is not None], abs=1e-4)
    assert relevance(model, tokenizer, prompts, ["", "Honey."])[0] is None


@pytest.mark.parametrize("distance", [1, 50])
def test_the_other_prompt_is_not_of_the_same_kind(distance: int) -> None:
    """Sorted prompts have their own kin at some fixed distance, and an answer fits those as well."""
    kinds = [number % 50 if distance == 50 else number // 2 for number in range(100)]
    prompts = [f"{kind}, wording {number}" for number, kind in enumerate(kinds)]
    others = [other_prompt(prompts, index) for index in range(100)]
    assert sum(str(other).startswith(f"{kind},") for other, kind in zip(others, kinds, strict=True)) < 10
    assert others == [other_prompt(prompts, index) for index in range(100)]


def test_without_another_prompt_there_is_none() -> None:
    assert other_prompt(["a", "a", "b"], 0) == "b"
    assert other_prompt(["a", "a"], 0) is None
