"""Verdicts to preference pairs, by rules, without judging again. Everything that gives no pair is listed with its reason."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Literal

from rlaif.errors import ConfigError, DataError
from rlaif.generation import write_notes
from rlaif.judges.aggregate import EQUAL
from rlaif.judges.compare import by_prompt
from rlaif.judges.stopping import VOTE_MARGIN
from rlaif.progress import say
from rlaif.records import read_records, refuse_same_file, write_records
from rlaif.types import (
    JudgeTally,
    PreferencePair,
    Preferred,
    Response,
    Score,
    Tie,
    Verdict,
)

Rule = Literal["best-random", "best-worst", "adjacent", "all"]
RULES: tuple[Rule, ...] = ("best-random", "best-worst", "adjacent", "all")


@dataclass
class PairsResult:
    """What `make_pairs` gives back."""

    pairs: list[PreferencePair] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Verdicts and prompts that gave no pair: prompt_id, verdict_id where there is one, reason."""
    output: Path | None = None

    @property
    def longer_chosen(self) -> float | None:
        """The share of pairs whose chosen response is longer (in characters) than the rejected one."""
        longer = [len(pair.chosen[-1].content) > len(pair.rejected[-1].content) for pair in self.pairs]
        return fmean(longer) if longer else None

    @property
    def reasons(self) -> dict[str, int]:
        return dict(Counter(item["reason"] for item in self.skipped).most_common())


@dataclass(frozen=True)
class Candidate:
    """One possible pair of a prompt."""

    chosen: Response
    rejected: Response
    margin: float
    verdicts: tuple[Verdict, ...]


def make_pairs(
    verdicts: str | Path | Iterable[Verdict],
    *,
    rule: Rule = "best-random",
    min_margin: float | None = None,
    min_chosen: float | None = None,
    max_length_ratio: float | None = None,
    max_pairs_per_prompt: int | None = None,
    keep_truncated: bool = False,
    seed: int = 0,
    output: str | Path | None = None,
) -> PairsResult:
    """Preference pairs from verdicts, with their provenance.

    rule: of each prompt, the best response against a random worse one (best-random), the worst (best-worst), the
    next worse one at each rank (adjacent), or every pair (all).
    min_margin: the margin must be above it; by default 1/3 for comparisons and 0 for differences of scores.
    min_chosen: the chosen response's score must reach it. max_length_ratio: of the longer to the shorter, in characters.
    max_pairs_per_prompt: largest margins first. keep_truncated: also choose responses that were cut at the token limit.
    Raises DataError for an unreadable or empty file.
    """
    if rule not in RULES:
        raise ConfigError(f"unknown rule '{rule}'; allowed: {', '.join(RULES)}")
    if isinstance(verdicts, str | Path):
        refuse_same_file(verdicts, output)
    rows = list(read_records(Path(verdicts), Verdict)) if isinstance(verdicts, str | Path) else list(verdicts)
    if not rows:
        where = verdicts if isinstance(verdicts, str | Path) else "the given verdicts"
        raise DataError(f"{where}: no verdicts in it; make some with rlaif judge")
    _tell_stopped(rows, VOTE_MARGIN if min_margin is None else min_margin)
    result = PairsResult(output=Path(output) if output is not None else None)
    filters = Filters(min_margin, min_chosen, max_length_ratio, keep_truncated)
    groups: dict[str, list[Verdict]] = {}
    for row in rows:
        groups.setdefault(row.prompt.id, []).append(row)
    for prompt_id, group in groups.items():
        candidates = _candidates(group, filters, result.skipped)
        selected = _select(candidates, rule, random.Random(f"{seed}:{prompt_id}"))
        selected.sort(key=lambda candidate: (-candidate.margin, candidate.chosen.id, candidate.rejected.id))
        result.pairs += [_pair(candidate, rule) for candidate in selected[:max_pairs_per_prompt]]
        if not selected:
            result.skipped.append({"prompt_id": prompt_id, "reason": "no pair of this prompt is left"})
    if result.output is not None:
        write_records(result.output, result.pairs)
        write_notes(result.output, "skipped.jsonl", result.skipped)
    return result


def _tell_stopped(verdicts: list[Verdict], floor: float) -> None:
    """Says so if votes were stopped for another margin than the one that pairs need: more could have passed, or fewer."""
    stopped = [
        verdict
        for verdict in verdicts
        if verdict.gates and verdict.votes_asked < (verdict.votes_planned or 0) and floor not in verdict.gates
    ]
    if stopped:
        say(
            f"{len(stopped)} of {len(verdicts)} verdicts were stopped when sure about a margin of "
            f"{', '.join(f'{gate:.3g}' for gate in stopped[0].gates)}, not {floor:.3g}; to be exact, judge again with "
            f"--margin-gate {floor:.3g} (votes that are there are not asked again)"
        )


@dataclass(frozen=True)
class Filters:
    """What a candidate must satisfy."""

    min_margin: float | None
    min_chosen: float | None
    max_length_ratio: float | None
    keep_truncated: bool

    def reason_against(self, candidate: Candidate, scores: dict[str, float], is_comparison: bool) -> str | None:
        """Why the candidate is no pair, or None."""
        chosen, rejected = candidate.chosen, candidate.rejected
        floor = self.min_margin if self.min_margin is not None else (VOTE_MARGIN if is_comparison else 0.0)
        if candidate.margin <= floor + EQUAL:
            return f"margin not above {floor:.3g}"
        if _normal(chosen.text) == _normal(rejected.text):
            return "both responses say the same"
        if not chosen.text.strip():
            return "the chosen response is empty"
        if chosen.finish_reason == "length" and not self.keep_truncated:
            return "the chosen response was cut at the token limit"
        if self.min_chosen is not None and scores.get(chosen.id, 0.0) < self.min_chosen:
            return f"the chosen response scores below {self.min_chosen:g}, or has no score"
        lengths = sorted((len(chosen.text), max(1, len(rejected.text))))
        if self.max_length_ratio is not None and lengths[1] > self.max_length_ratio * lengths[0]:
            return f"one response is more than {self.max_length_ratio:g} times as long"
        return None


def _candidates(group: list[Verdict], filters: Filters, skipped: list[dict[str, str]]) -> list[Candidate]:
    scores = _scores(group)
    kept = []
    for candidate, is_comparison in [*_compared(group, skipped), *_scored(group, skipped)]:
        reason = filters.reason_against(candidate, scores, is_comparison)
        if reason is None:
            kept.append(candidate)
        else:
            skipped.append({"prompt_id": group[0].prompt.id, "verdict_id": candidate.verdicts[0].id, "reason": reason})
    return kept


def _compared(group: list[Verdict], skipped: list[dict[str, str]]) -> list[tuple[Candidate, bool]]:
    """Candidates from comparisons; ties and verdicts without an outcome are listed."""
    found = []
    for verdict in group:
        if len(verdict.responses) != 2:
            continue
        if isinstance(verdict.outcome, Preferred) and verdict.margin is not None:
            first, second = verdict.responses
            chosen, rejected = (first, second) if verdict.outcome.response_id == first.id else (second, first)
            found.append((Candidate(chosen, rejected, abs(verdict.margin), (verdict,)), True))
        else:
            reason = "tie" if isinstance(verdict.outcome, Tie) else _why_no_outcome(verdict)
            skipped.append({"prompt_id": verdict.prompt.id, "verdict_id": verdict.id, "reason": reason})
    return found


def _why_no_outcome(verdict: Verdict) -> str:
    return "no outcome (unparsed)" if verdict.votes_asked else "no outcome (nobody voted)"


def _scored(group: list[Verdict], skipped: list[dict[str, str]]) -> list[tuple[Candidate, bool]]:
    """Candidates from verdicts on single responses: every two with different scores."""
    singles: dict[str, tuple[float, Verdict]] = {}
    for verdict in group:
        if len(verdict.responses) != 1:
            continue
        if isinstance(verdict.outcome, Score):
            singles[verdict.responses[0].id] = (verdict.outcome.score, verdict)
        else:
            reason = _why_no_outcome(verdict)
            skipped.append({"prompt_id": verdict.prompt.id, "verdict_id": verdict.id, "reason": reason})
    responses = [verdict.responses[0] for _, verdict in singles.values()]
    ordered = [response for members in by_prompt(responses).values() for response in members]
    found = [
        (Candidate(a, b, singles[a.id][0] - singles[b.id][0], (singles[a.id][1], singles[b.id][1])), False)
        for a in ordered
        for b in ordered
        if singles[a.id][0] > singles[b.id][0]
    ]
    if ordered and not found:
        skipped.append({"prompt_id": group[0].prompt.id, "reason": "all responses have the same score"})
    return found


def _scores(group: list[Verdict]) -> dict[str, float]:
    """A score in [0, 1] per response: the verdict on it alone, or else the judges' scores seen in comparisons."""
    scores: dict[str, float] = {}
    for verdict in group:
        if len(verdict.responses) == 1 and isinstance(verdict.outcome, Score):
            scores[verdict.responses[0].id] = verdict.outcome.score
        for place, response in enumerate(verdict.responses):
            given = [
                (tally.scores[place], tally.weight)
                for tally in verdict.judges
                if tally.scores is not None and tally.weight > 0 and tally.scores[place] is not None
            ]
            if given and response.id not in scores:
                total = sum(score * weight for score, weight in given if score is not None)
                scores[response.id] = total / sum(weight for _, weight in given)
    return scores


def _select(candidates: list[Candidate], rule: Rule, generator: random.Random) -> list[Candidate]:
    """The candidates of one prompt that the rule takes. Responses rank by their mean margin over their comparisons."""
    if rule == "all" or not candidates:
        return list(candidates)
    margins: dict[str, list[float]] = {}
    for candidate in candidates:
        margins.setdefault(candidate.chosen.id, []).append(candidate.margin)
        margins.setdefault(candidate.rejected.id, []).append(-candidate.margin)
    rank = {response: fmean(values) for response, values in margins.items()}
    if rule == "adjacent":
        order = sorted(rank, key=lambda response: (-rank[response], response))
        wanted = set(pairwise(order))
        return [c for c in candidates if (c.chosen.id, c.rejected.id) in wanted]
    best = max((c.chosen.id for c in candidates), key=lambda response: (rank[response], response))
    beaten = sorted((c for c in candidates if c.chosen.id == best), key=lambda c: (rank[c.rejected.id], c.rejected.id))
    return [beaten[0] if rule == "best-worst" else generator.choice(beaten)]


def _pair(candidate: Candidate, rule: Rule) -> PreferencePair:
    chosen, rejected = candidate.chosen, candidate.rejected
    scores = _scores(list(candidate.verdicts))
    confidences = [verdict.confidence for verdict in candidate.verdicts if verdict.confidence is not None]
    return PreferencePair.of(
        chosen,
        rejected,
        chosen_score=scores.get(chosen.id),
        rejected_score=scores.get(rejected.id),
        margin=candidate.margin,
        confidence=min(confidences) if confidences else None,
        provenance={
            "verdict_ids": tuple(verdict.id for verdict in candidate.verdicts),
            "rule": rule,
            "ensemble": candidate.verdicts[0].ensemble,
            "judges": tuple(tally for verdict in candidate.verdicts for tally in _oriented(verdict, chosen)),
        },
    )


def _oriented(verdict: Verdict, chosen: Response) -> list[JudgeTally]:
    """The verdict's tallies with margins that are positive for the chosen response, and its score first."""
    if len(verdict.responses) == 1 or verdict.responses[0].id == chosen.id:
        return list(verdict.judges)
    return [
        tally.model_copy(
            update={
                "margin": None if tally.margin is None else -tally.margin,
                "scores": None if tally.scores is None else tally.scores[::-1],
                "questions": tally.questions and {name: each[::-1] for name, each in tally.questions.items()},
            }
        )
        for tally in verdict.judges
    ]


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
