"""An ensemble is loaded from YAML, every single judge as an ensemble of one."""

from dataclasses import dataclass, replace
from pathlib import Path

from rlaif import resources
from rlaif.engines import EngineConfig
from rlaif.errors import ConfigError
from rlaif.judges.confidence import ConfidenceMap
from rlaif.judges.config import (
    Aggregate,
    Comparisons,
    EnsembleConfig,
    Member,
    ProgramConfig,
    StopRule,
    load_judge_file,
    load_templates,
)
from rlaif.judges.judge import LLMJudge, ProgramJudge
from rlaif.judges.stopping import VOTE_MARGIN, Stopping
from rlaif.progress import say


@dataclass(frozen=True)
class Ensemble:
    """Loaded judges, ready to be asked."""

    name: str
    programs: tuple[ProgramJudge, ...]
    llms: tuple[LLMJudge, ...]
    aggregate: Aggregate
    comparisons: Comparisons | None
    """None: every response is judged by itself (all members are pointwise or programs)."""
    stopping: Stopping
    calibration: ConfidenceMap | None = None

    @property
    def votes(self) -> int:
        """The most votes of a judge on a comparison."""
        return max((judge.votes for judge in self.llms), default=1)

    @property
    def pairwise(self) -> tuple[LLMJudge, ...]:
        return tuple(judge for judge in self.llms if judge.is_pairwise)

    @property
    def pointwise(self) -> tuple[LLMJudge, ...]:
        return tuple(judge for judge in self.llms if not judge.is_pairwise)


def load_ensemble(
    name: str,
    *,
    votes: int = 2,
    models: tuple[EngineConfig, ...] = (),
    comparisons: Comparisons | None = None,
    stop: StopRule | None = None,
    stop_probability: float | None = None,
    gates: tuple[float, ...] = (VOTE_MARGIN,),
    beside: Path | None = None,
) -> Ensemble:
    """A judge or ensemble by shipped name or path, ready to be asked.

    votes: per judge and item. models: judge with these, instead of those the files name; several make a panel.
    comparisons, stop, stop_probability: instead of the file's. gates: see Stopping. Raises ConfigError.
    """
    if votes < 1:
        raise ConfigError(f"votes is {votes}; at least 1 is needed (2 show a pairwise judge both orders)")
    config, path = load_judge_file(name, beside)
    if not isinstance(config, EnsembleConfig):
        config = EnsembleConfig(kind="ensemble", name=config.name, members=(Member(judge=str(path)),))
    comparisons = comparisons or config.comparisons
    programs: list[ProgramJudge] = []
    llms: list[LLMJudge] = []
    for member in config.members:
        judge = _load_member(member, path, votes, models)
        if isinstance(judge, ProgramJudge):
            programs.append(judge)
        else:
            llms.extend(judge)
    if models and not llms:
        raise ConfigError(f"{path}: has no LLM judge, so a judge model has nothing to do; drop --model")
    if any(judge.is_pairwise for judge in llms):
        comparisons = comparisons or "all"
    llms = _distinct_names(str(path), llms, {program.name for program in programs})
    _check_deciders(str(path), programs, llms, comparisons)
    stopping = _stopping(config, stop, stop_probability, gates)
    loaded = Ensemble(config.name, tuple(programs), tuple(llms), config.aggregate, comparisons, stopping)
    return replace(loaded, calibration=_calibration(config, loaded, bool(models)))


def _calibration(config: EnsembleConfig, loaded: Ensemble, other_models: bool) -> ConfidenceMap | None:
    """The ensemble's map to a confidence, if it judges as it did when that was fitted; else None, and why is said."""
    fitted = config.calibration
    if fitted is None:
        return None
    why = ""
    if other_models:
        why = "it was calibrated with the models in its file"
    elif (str(loaded.stopping), loaded.votes) != (fitted.stopping_rule, fitted.votes):
        why = (
            f"it was calibrated for '{fitted.stopping_rule}' with {fitted.votes} votes, and judges by '{loaded.stopping}' "
            f"with {loaded.votes}"
        )
    if why:
        say(f"{config.name}: verdicts get no confidence: {why}; judge alike, or calibrate again")
    return None if why else fitted


def _stopping(
    config: EnsembleConfig, stop: StopRule | None, probability: float | None, gates: tuple[float, ...]
) -> Stopping:
    rule = stop or config.stop_rule
    if rule != "all" and config.aggregate == "bradley-terry":
        raise ConfigError(
            f"stop '{rule}' looks at one comparison, and bradley-terry fits all of a prompt; use stop 'all'"
        )
    if probability is not None and rule != "posterior":
        raise ConfigError(f"a stop probability belongs to the rule 'posterior', not to '{rule}'; drop one of the two")
    if probability is not None and not 0.5 < probability < 1:
        raise ConfigError(f"the stop probability is {probability:g}; it lies between 0.5 and 1, such as 0.95")
    if any(not 0 <= gate < 1 for gate in gates):
        raise ConfigError(f"a margin gate is from 0 to below 1, not {', '.join(f'{gate:g}' for gate in gates)}")
    return Stopping(rule, probability or config.stop_probability, tuple(sorted(gates)))


def _load_member(
    member: Member, ensemble_path: Path, votes: int, models: tuple[EngineConfig, ...]
) -> ProgramJudge | list[LLMJudge]:
    config, path = load_judge_file(member.judge, ensemble_path.parent)
    if isinstance(config, EnsembleConfig):
        raise ConfigError(
            f"{ensemble_path}: the member '{member.judge}' is itself an ensemble; list its judges instead"
        )
    name = member.name or config.name
    if isinstance(config, ProgramConfig):
        return ProgramJudge(name, config, member.weight, resources.name_of("judges", path))
    templates = load_templates(config, path)
    own = member.engine or config.engine
    engines = models or ((own,) if own is not None else ())
    if not engines:
        raise ConfigError(
            f"{path}: the judge '{name}' names no model; give one with --model (and --base-url for an endpoint), "
            "or as engine: {model: ...} in the file"
        )
    return [
        LLMJudge(
            name=name if len(engines) == 1 else f"{name}@{Path(engine.model).name}",
            config=config,
            templates=templates,
            engine=engine,
            weight=member.weight,
            votes=member.votes or votes,
            cost=member.cost,
            source=resources.name_of("judges", path),
        )
        for engine in engines
    ]


def _distinct_names(where: str, llms: list[LLMJudge], taken: set[str]) -> list[LLMJudge]:
    """The judges under names of their own: votes are kept by name. Judges of one name get their model's whole name."""
    names = [judge.name for judge in llms]
    renamed = [
        judge
        if names.count(judge.name) == 1
        else replace(judge, name=f"{judge.name.split('@')[0]}@{judge.engine.model}")
        for judge in llms
    ]
    final = [*taken, *(judge.name for judge in renamed)]
    doubled = sorted({name for name in final if final.count(name) > 1})
    if doubled:
        raise ConfigError(f"{where}: two judges are called '{doubled[0]}'; name them apart (name), or drop one")
    return renamed


def _check_deciders(
    where: str, programs: list[ProgramJudge], llms: list[LLMJudge], comparisons: Comparisons | None
) -> None:
    if comparisons != "screened":
        return
    weights = [program.weight for program in programs] + [llm.weight for llm in llms if not llm.is_pairwise]
    if not any(weight > 0 for weight in weights):
        raise ConfigError(
            f"{where}: comparisons 'screened' needs a program or pointwise judge with a weight above 0 to screen with; "
            "add one, or compare 'all' or 'ring'"
        )
