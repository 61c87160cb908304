"""Is the trained policy better than the base, and was it earned? Both answer held-out prompts, the same judges judge."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlaif.engines import EngineConfig
from rlaif.errors import ConfigError, EngineError, QualityGateError
from rlaif.generation import generate
from rlaif.judges.run import judge as run_judge
from rlaif.judges.stats import JudgeStats
from rlaif.progress import say
from rlaif.records import write_text
from rlaif.statistics import Estimate, clustered_mean, distinct_ngrams
from rlaif.types import Preferred, Prompt, Record, Response, Sampling, Verdict

RELEVANCE_ANSWERS = 200
"""Answers per model whose relevance is measured."""
LEAST_RELEVANCE_KEPT = 0.5
LEAST_DISTINCT_KEPT = 0.6


class ModelReport(Record):
    """What was measured of one model's answers."""

    model: str
    score: Estimate | None
    """Mean score of the pointwise and program judges with a say; the pass rate where scores are 0 or 1."""
    answers: int
    mean_tokens: float | None
    finished: float | None
    """Share of the answers that ended by themselves."""
    distinct_1: float | None
    distinct_2: float | None
    distinct_answers: float
    relevance: float | None
    """Nats per token by which the answers fit their own prompts better than other prompts, under the baseline."""


class Evaluation(Record):
    """The trained policy against its baseline."""

    policy: ModelReport
    baseline: ModelReport
    win_rate: Estimate | None
    """Of the policy over the baseline, same prompt and sample index, ties as half."""
    wins: int
    ties: int
    losses: int
    undecided: int
    length_ratio: float | None
    findings: tuple[str, ...]
    judges: tuple[dict[str, Any], ...] = ()
    """Per judge, its counts and rates (JudgeStats.as_dict)."""
    examples: tuple[dict[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json")


def evaluate(
    model: str | EngineConfig,
    baseline: str | EngineConfig,
    prompts: str | Path | Iterable[str | Prompt],
    judge: str,
    *,
    n: int = 1,
    sampling: Sampling | None = None,
    system: str | None = None,
    votes: int = 2,
    judge_models: Sequence[str | EngineConfig] = (),
    max_unparsed: float = 0.05,
    measure_relevance: bool = True,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Win rate and scores of `model` against `baseline` on held-out prompts, with what tells a real gain from a dodge.

    output: a folder for responses.jsonl, judged.jsonl and evaluation.json; what is there is not asked again.
    max_unparsed: share of a judge's votes without a verdict that is allowed. measure_relevance: needs the baseline as a
    local model. Raises RlaifError.
    """
    policy_name = model if isinstance(model, str) else model.model
    baseline_name = baseline if isinstance(baseline, str) else baseline.model
    if policy_name == baseline_name:
        raise ConfigError(f"the model and the baseline are both '{policy_name}'; there is nothing to compare")
    folder = Path(output) if output is not None else None
    made = generate(
        list(prompts) if not isinstance(prompts, str | Path) else prompts,
        [baseline, model],
        n=n,
        sampling=sampling,
        system=system,
        output=folder / "responses.jsonl" if folder else None,
        overwrite=overwrite,
    )
    failed: QualityGateError | None = None
    try:
        judged = run_judge(
            made.responses,
            judge,
            votes=votes,
            models=judge_models,
            comparisons="models",
            gates=(),
            max_unparsed=max_unparsed,
            output=folder / "judged.jsonl" if folder else None,
            overwrite=overwrite,
        )
    except QualityGateError as error:
        judged, failed = error.result, error
    relevances = _relevances(made.responses, baseline, policy_name) if measure_relevance else {}
    result = compare(made.responses, judged.verdicts, judged.judges, policy_name, baseline_name, relevances)
    if folder is not None:
        write_text(folder / "evaluation.json", json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n")
    if failed is not None:
        raise QualityGateError(str(failed), result)
    return result


def compare(
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    judges: list[JudgeStats],
    policy: str,
    baseline: str,
    relevances: dict[str, float | None],
) -> Evaluation:
    """The evaluation of two models' answers and the verdicts on them. relevances: by model name."""
    reports = {name: _model_report(name, responses, verdicts, relevances.get(name)) for name in (policy, baseline)}
    points: dict[str, list[float]] = {}
    undecided = 0
    for verdict in verdicts:
        point = _policy_point(verdict, policy)
        if point is None:
            undecided += 1
        else:
            points.setdefault(verdict.prompt.id, []).append(point)
    flat = [point for cluster in points.values() for point in cluster]
    lengths = (reports[policy].mean_tokens, reports[baseline].mean_tokens)
    ratio = lengths[0] / lengths[1] if lengths[0] is not None and lengths[1] else None
    return Evaluation(
        policy=reports[policy],
        baseline=reports[baseline],
        win_rate=clustered_mean(points),
        wins=flat.count(1.0),
        ties=flat.count(0.5),
        losses=flat.count(0.0),
        undecided=undecided,
        length_ratio=ratio,
        findings=tuple(_findings(reports[policy], reports[baseline], clustered_mean(points), ratio)),
        judges=tuple(stats.as_dict() for stats in judges),
        examples=_examples(responses, policy, baseline),
    )


def _model_report(
    name: str, responses: Sequence[Response], verdicts: Sequence[Verdict], relevance: float | None
) -> ModelReport:
    own = [response for response in responses if response.model == name]
    texts = [response.text for response in own]
    tokens = [response.completion_tokens for response in own if response.completion_tokens is not None]
    ended = [response.finish_reason == "stop" for response in own if response.finish_reason is not None]
    return ModelReport(
        model=name,
        score=clustered_mean(_scores(verdicts, name)),
        answers=len(own),
        mean_tokens=fmean(tokens) if tokens else None,
        finished=fmean(ended) if ended else None,
        distinct_1=distinct_ngrams(texts, 1),
        distinct_2=distinct_ngrams(texts, 2),
        distinct_answers=len(set(texts)) / len(texts) if texts else 0.0,
        relevance=relevance,
    )


def _scores(verdicts: Sequence[Verdict], model: str) -> dict[str, list[float]]:
    """By prompt, the weighted mean score of each of the model's responses, over the scoring judges with a say."""
    found: dict[str, list[float]] = {}
    seen: set[str] = set()
    for verdict in verdicts:
        for place, response in enumerate(verdict.responses):
            given = [
                (tally.scores[place], tally.weight)
                for tally in verdict.judges
                if tally.scores is not None and tally.weight
            ]
            voiced = [(score, weight) for score, weight in given if score is not None]
            if response.model == model and response.id not in seen and voiced:
                seen.add(response.id)
                mean = sum(score * weight for score, weight in voiced) / sum(weight for _, weight in voiced)
                found.setdefault(verdict.prompt.id, []).append(mean)
    return found


def _policy_point(verdict: Verdict, policy: str) -> float | None:
    """1 if the policy's response is preferred, 0.5 for a tie, 0 if not; None without an outcome."""
    if verdict.outcome is None:
        return None
    if not isinstance(verdict.outcome, Preferred):
        return 0.5
    preferred = verdict.outcome.response_id
    return float(any(response.id == preferred and response.model == policy for response in verdict.responses))


def _relevances(responses: Sequence[Response], baseline: str | EngineConfig, policy: str) -> dict[str, float | None]:
    config = EngineConfig(model=baseline) if isinstance(baseline, str) else baseline
    if config.resolved_engine == "openai":
        say("relevance is not measured: it needs the baseline as a local model")
        return {}
    from rlaif.models import load_model, load_tokenizer
    from rlaif.relevance import relevance

    try:
        reference, tokenizer = load_model(config.model, config.dtype), load_tokenizer(config.model)
    except EngineError as error:
        say(f"relevance is not measured: {error}")
        return {}
    found: dict[str, float | None] = {}
    for name in (config.model, policy):
        own = sorted((r for r in responses if r.model == name), key=lambda r: (r.sample_index, r.prompt.id))
        own = own[:RELEVANCE_ANSWERS]
        say(f"relevance of {len(own)} answers of {name}")
        values = relevance(reference, tokenizer, [r.prompt.messages for r in own], [r.text for r in own])
        known = [value for value in values if value is not None]
        found[name] = fmean(known) if known else None
    return found


def _findings(
    policy: ModelReport, baseline: ModelReport, win_rate: Estimate | None, length_ratio: float | None
) -> list[str]:
    """What a reader should not overlook, in sentences."""
    found = []
    if win_rate is not None:
        if win_rate.low > 0.5:
            found.append("The judges prefer the trained policy, beyond chance (the interval excludes 50 %).")
        elif win_rate.high < 0.5:
            found.append("The judges prefer the BASE model, beyond chance: training made the policy worse for them.")
        else:
            found.append("No difference beyond chance: the interval of the win rate includes 50 %.")
    if policy.relevance is not None and baseline.relevance is not None and baseline.relevance > 0:
        kept = policy.relevance / baseline.relevance
        if kept < LEAST_RELEVANCE_KEPT:
            found.append(
                f"NOT EARNED: the answers keep only {kept:.0%} of their relevance to the prompt; "
                "the policy satisfies the judge by dodging the question."
            )
        else:
            found.append(f"The answers still belong to their prompts (relevance {kept:.0%} of the base model's).")
    if policy.distinct_2 is not None and baseline.distinct_2:
        kept = policy.distinct_2 / baseline.distinct_2
        if kept < LEAST_DISTINCT_KEPT:
            found.append(f"COLLAPSE: the answers repeat one another (distinct 2-grams {kept:.0%} of the base model's).")
    if length_ratio is not None and not 0.67 <= length_ratio <= 1.5:
        found.append(f"Length changed: the answers are {length_ratio:.2f} times as long; ask whether that is the gain.")
    return found


def _examples(responses: Sequence[Response], policy: str, baseline: str) -> tuple[dict[str, str], ...]:
    """The first few prompts with one answer of each model."""
    firsts = {(r.model, r.prompt.id): r for r in responses if r.sample_index == 0}
    prompts = [r.prompt for r in responses if r.model == policy and r.sample_index == 0][:3]
    return tuple(
        {
            "prompt": prompt.messages[-1].content,
            "baseline": firsts[baseline, prompt.id].text,
            "policy": firsts[policy, prompt.id].text,
        }
        for prompt in prompts
        if (baseline, prompt.id) in firsts
    )
