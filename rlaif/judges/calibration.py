"""Gold pairs are judged, the judges measured, and the ensemble that gold recommends written with its confidence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rlaif.engines import EngineConfig
from rlaif.engines.base import Engine
from rlaif.errors import DataError, QualityGateError
from rlaif.gold.records import GoldPair, responses_of
from rlaif.judges.bench import gold_sample, longest
from rlaif.judges.calibrate import (
    Choice,
    GoldLabels,
    JudgeMeasures,
    JudgeRecord,
    agreement_between,
    check_gold,
    choose,
    fit_selected,
    measure,
)
from rlaif.judges.confidence import ConfidenceMap
from rlaif.judges.config import Comparisons, StopRule, load_judge_file
from rlaif.judges.ensemble import Ensemble, load_ensemble
from rlaif.judges.judge import LLMJudge
from rlaif.judges.reward import RewardJudge
from rlaif.judges.run import judge
from rlaif.judges.stopping import VOTE_MARGIN
from rlaif.records import refuse_same_file, write_text
from rlaif.types import Verdict

SIDES = {1: 1, 2: -1, "tie": 0}


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found."""

    measures: list[JudgeMeasures]
    choice: Choice
    alpha: float | None
    """Krippendorff's, of all judges."""
    confidence: ConfidenceMap | None
    """None where too few verdicts pass the gate."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for scripts."""
        return {
            "chosen": self.choice.strategy.name,
            "weights": self.choice.weights,
            "cross-validated": {name: value._asdict() for name, value in self.choice.accuracies.items()},
            "alpha": self.alpha,
            "confidence": self.confidence and self.confidence.model_dump(mode="json"),
            "judges": [{**asdict(each), "accuracy": each.accuracy._asdict()} for each in self.measures],
        }


def calibrate(
    gold: Sequence[str | Path],
    judge_name: str,
    output: str | Path,
    *,
    votes: int = 2,
    models: Sequence[EngineConfig] = (),
    stop: StopRule | None = None,
    stop_probability: float | None = None,
    gate: float = VOTE_MARGIN,
    limit: int | None = None,
    seed: int = 0,
    engines: Mapping[str, Engine] | None = None,
) -> Calibration:
    """Measures every judge of an ensemble on gold pairs and writes the ensemble that cross-validation recommends.

    All votes are asked once, to measure every judge; what the stopping rule would have asked is then told from them. The
    confidence is fitted on verdicts by that rule with a margin above the gate: for the rule `all` with weights that have not
    seen the label, else with the weights that are written (of one number per judge, so hardly fitted to single labels).
    output: the ensemble's YAML file; votes are kept in <output>.d and never asked twice. Raises DataError for fewer than 50
    labels or labels of one side only, QualityGateError (with what was found) if too few verdicts pass the gate for a fit.
    """
    path = Path(output)
    config, source = load_judge_file(judge_name)
    refuse_same_file(source, path)
    comparisons: Comparisons = getattr(config, "comparisons", None) or "all"
    pairs = gold_sample(gold, limit, seed)
    ensemble = load_ensemble(
        judge_name, votes=votes, models=tuple(models), comparisons="models", stop=stop, stop_probability=stop_probability,
        gates=(gate,),
    )  # fmt: skip
    labels = checked_labels(gold, pairs)
    common = {"votes": votes, "comparisons": "models", "max_unparsed": 1.0, "engines": engines}
    kept = path.with_name(path.name + ".d") / "verdicts.jsonl"
    try:
        asked = judge(responses_of(pairs), judge_name, models=models, stop="all", output=kept, **common)  # type: ignore[arg-type]
    except QualityGateError as error:
        raise DataError(f"{error}. Nothing is calibrated: every judge is measured on all pairs") from None
    verdicts = in_gold_order(pairs, asked.verdicts)
    records = [JudgeRecord.from_tallies(tallies) for tallies in zip(*(v.judges for v in verdicts), strict=True)]
    _check_voices(records)
    choice = choose(records, labels, seed=seed)
    write_ensemble(path, ensemble, choice, None, comparisons)
    margins: Sequence[float | None] = choice.out_of_fold
    if ensemble.stopping.rule != "all":
        again = judge(
            responses_of(pairs), str(path), stop=ensemble.stopping.rule, stop_probability=stop_probability, gates=(gate,),
            output=kept, **common,  # type: ignore[arg-type]
        )  # fmt: skip
        margins = [verdict.margin for verdict in in_gold_order(pairs, again.verdicts)]
    alpha, _ = agreement_between(records)
    found = Calibration([measure(record, labels) for record in records], choice, alpha, None)
    try:
        confidence = fit_selected(
            margins, [True] * len(pairs), labels, min_margin=gate, stopping_rule=str(ensemble.stopping), votes=ensemble.votes
        )  # fmt: skip
    except DataError as error:
        raise QualityGateError(f"{error}. {path} is written without a confidence", found) from None
    write_ensemble(path, ensemble, choice, confidence, comparisons)
    return replace(found, confidence=confidence)


def checked_labels(gold: Sequence[str | Path], pairs: Sequence[GoldPair]) -> GoldLabels:
    """The labels of gold files. Raises DataError where they are too few, or of one side."""
    labels = gold_labels(pairs, ", ".join(Path(name).stem for name in gold))
    check_gold(labels)
    return labels


def _check_voices(records: Sequence[JudgeRecord]) -> None:
    """Raises DataError for a judge without a single verdict: silence can not be measured."""
    silent = [record.judge for record in records if all(margin is None for margin in record.margins)]
    if silent:
        raise DataError(
            f"{', '.join(silent)}: no verdict on any of these pairs, so there is nothing to measure; leave that judge out, or "
            "look at its votes beside the output"
        )


def gold_labels(pairs: Sequence[GoldPair], name: str) -> GoldLabels:
    """The labels as numbers, and which response is longer."""
    return GoldLabels(name, tuple(SIDES[pair.gold] for pair in pairs), tuple(SIDES[longest(pair)] for pair in pairs))


def in_gold_order(pairs: Sequence[GoldPair], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdict of each pair, its margins positive for the pair's first response."""
    by_id = {verdict.prompt.id: verdict for verdict in verdicts}
    return [_turned(by_id[pair.id], pair.response_ids[0]) for pair in pairs]


def _turned(verdict: Verdict, first: str) -> Verdict:
    if verdict.responses[0].id == first:
        return verdict
    return verdict.model_copy(
        update={
            "margin": _minus(verdict.margin),
            "judges": tuple(tally.model_copy(update={"margin": _minus(tally.margin)}) for tally in verdict.judges),
        }
    )


def _minus(margin: float | None) -> float | None:
    return None if margin is None else -margin


def write_ensemble(
    path: Path, ensemble: Ensemble, choice: Choice, confidence: ConfidenceMap | None, comparisons: Comparisons
) -> None:
    """The recommended ensemble as a judge file. Judges without a say are left out: asking them would be for nothing.

    comparisons: it compares, also where all its judges score: a confidence is that of a margin between two responses.
    """
    members = []
    for loaded in ensemble.judges:
        weight = choice.weights[loaded.name]
        member: dict[str, object] = {"judge": loaded.source, "name": loaded.name, "weight": round(weight, 6)}
        if isinstance(loaded, LLMJudge | RewardJudge):
            member |= {"cost": loaded.cost, "engine": loaded.engine.model_dump(mode="json", exclude_defaults=True)}
        if isinstance(loaded, LLMJudge):
            member["votes"] = loaded.votes
        if weight:
            members.append(member)
    document: dict[str, object] = {
        "kind": "ensemble",
        "description": f"{choice.strategy.name}, as gold labels recommend.",
        "members": members,
        "aggregate": choice.strategy.aggregate,
        "stop": ensemble.stopping.rule,
        "stop_probability": ensemble.stopping.probability,
        "comparisons": comparisons,
    }
    if confidence is not None:
        document["calibration"] = confidence.model_dump(mode="json")
    write_text(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))
