"""An ensemble is loaded from YAML, every single judge as an ensemble of one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rlaif import resources
from rlaif.engines import EngineConfig
from rlaif.errors import ConfigError
from rlaif.judges.confidence import ConfidenceMap
from rlaif.judges.config import (
    Aggregate,
    AnyJudgeConfig,
    ChecklistConfig,
    Comparisons,
    EnsembleConfig,
    HumanConfig,
    ListwiseConfig,
    LLMJudgeConfig,
    Member,
    PairwiseConfig,
    ProgramConfig,
    RewardModelConfig,
    StopRule,
    load_judge_file,
    load_templates,
    load_writer_template,
)
from rlaif.judges.human import HumanJudge, load_human
from rlaif.judges.judge import LLMJudge, Writer
from rlaif.judges.program_judge import ProgramJudge
from rlaif.judges.reward import RewardJudge
from rlaif.judges.stopping import VOTE_MARGIN, Stopping
from rlaif.progress import say

Judge = ProgramJudge | HumanJudge | RewardJudge | LLMJudge
K = TypeVar("K")


@dataclass(frozen=True)
class Ensemble:
    """Loaded judges, ready to be asked."""

    name: str
    judges: tuple[Judge, ...]
    """In the order in which verdicts name them: programs, people, reward models, language models."""
    aggregate: Aggregate
    comparisons: Comparisons | None
    """None: every response is judged by itself (all members score single responses)."""
    stopping: Stopping
    calibration: ConfidenceMap | None = None

    @property
    def votes(self) -> int:
        """The most votes of a judge on a comparison."""
        return max((judge.votes for judge in self.llms), default=1)

    @property
    def programs(self) -> tuple[ProgramJudge, ...]:
        return self._of(ProgramJudge)

    @property
    def humans(self) -> tuple[HumanJudge, ...]:
        return self._of(HumanJudge)

    @property
    def rewards(self) -> tuple[RewardJudge, ...]:
        return self._of(RewardJudge)

    @property
    def llms(self) -> tuple[LLMJudge, ...]:
        return self._of(LLMJudge)

    def _of(self, kind: type[K]) -> tuple[K, ...]:
        return tuple(judge for judge in self.judges if isinstance(judge, kind))

    @property
    def scorers(self) -> tuple[Judge, ...]:
        """The judges that score single responses."""
        return tuple(judge for judge in self.judges if not compares(judge))

    @property
    def rankers(self) -> tuple[LLMJudge, ...]:
        return tuple(judge for judge in self.llms if judge.is_listwise)

    @property
    def pairwise(self) -> tuple[LLMJudge, ...]:
        return tuple(judge for judge in self.llms if judge.is_pairwise)

    @property
    def pointwise(self) -> tuple[LLMJudge, ...]:
        """The language models among the scorers."""
        return tuple(judge for judge in self.llms if not compares(judge))


def compares(judge: Judge) -> bool:
    """Whether a judge says which of several responses is better, not how good one is."""
    if isinstance(judge, LLMJudge):
        return judge.is_pairwise or judge.is_listwise
    return isinstance(judge, HumanJudge) and judge.compares


def load_ensemble(
    name: str,
    *,
    votes: int | None = 2,
    models: tuple[EngineConfig, ...] = (),
    otherwise: EngineConfig | None = None,
    comparisons: Comparisons | None = None,
    stop: StopRule | None = None,
    stop_probability: float | None = None,
    gates: tuple[float, ...] = (VOTE_MARGIN,),
    beside: Path | None = None,
) -> Ensemble:
    """A judge or ensemble by shipped name or path, ready to be asked.

    votes: per judge and item; None: 2 of judges that compare, so that both orders are shown, and 1 of those that score.
    models: judge with these, instead of those the files name; several make a panel. A reward model beside judges that write
    keeps its own. otherwise: the model of judges whose files name none. comparisons, stop, stop_probability: instead of the
    file's. gates: see Stopping. Raises ConfigError.
    """
    if votes is not None and votes < 1:
        raise ConfigError(f"votes is {votes}; at least 1 is needed (2 show a pairwise judge both orders)")
    config, path = load_judge_file(name, beside)
    if not isinstance(config, EnsembleConfig):
        config = EnsembleConfig(kind="ensemble", name=config.name, members=(Member(judge=str(path)),))
    comparisons = comparisons or config.comparisons
    loaded = _load_members(config, path, votes, models, otherwise)
    if any(compares(judge) or isinstance(judge, RewardJudge) for judge in loaded):
        comparisons = comparisons or "all"  # of rewards only differences mean something
    judges = _distinct_names(str(path), sorted(loaded, key=_place))
    _check_screening(str(path), judges, comparisons)
    stopping = _stopping(config, stop, stop_probability, gates)
    ensemble = Ensemble(config.name, tuple(judges), config.aggregate, comparisons, stopping)
    return replace(ensemble, calibration=_calibration(config, ensemble, bool(models)))


def _place(judge: Judge) -> int:
    return (ProgramJudge, HumanJudge, RewardJudge, LLMJudge).index(type(judge))


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


def _load_members(
    config: EnsembleConfig,
    path: Path,
    votes: int | None,
    models: tuple[EngineConfig, ...],
    otherwise: EngineConfig | None,
) -> list[Judge]:
    """The judges of all members. models: a reward model beside judges that write keeps its own, since one model is not both."""
    files = [load_judge_file(member.judge, path.parent) for member in config.members]
    writes = any(isinstance(own, LLMJudgeConfig) for own, _ in files)
    if models and not writes and not any(isinstance(own, RewardModelConfig) for own, _ in files):
        raise ConfigError(f"{path}: has no judge that is a model, so a judge model has nothing to do; drop --model")
    judges: list[Judge] = []
    for member, (own, file) in zip(config.members, files, strict=True):
        if isinstance(own, EnsembleConfig):
            raise ConfigError(f"{path}: the member '{member.judge}' is itself an ensemble; list its judges instead")
        keeps_its_model = writes and isinstance(own, RewardModelConfig)
        judges += _load_member(member, own, file, votes, () if keeps_its_model else models, otherwise)
    return judges


def _load_member(
    member: Member,
    config: AnyJudgeConfig,
    path: Path,
    votes: int | None,
    models: tuple[EngineConfig, ...],
    otherwise: EngineConfig | None,
) -> list[Judge]:
    """The judge of a member, whose file was read, once for each model that judges."""
    name, source = member.name or config.name, resources.name_of("judges", path)
    if isinstance(config, ProgramConfig):
        return [ProgramJudge(name, config, member.weight, source)]
    if isinstance(config, HumanConfig):
        return [load_human(name, config, member.weight, path.parent, source)]
    if isinstance(config, RewardModelConfig):
        return [
            RewardJudge(own, config, engine, member.weight, member.cost, source)
            for own, engine in _models(member.engine or config.engine or otherwise, models, name, path)
        ]
    templates = load_templates(config, path)
    write = config.write if isinstance(config, ChecklistConfig) else None
    writer = Writer(write, load_writer_template(write.prompt, path)) if write is not None else None
    return [
        LLMJudge(
            name=own,
            config=config,
            templates=templates,
            engine=engine,
            weight=member.weight,
            votes=member.votes or votes or (2 if isinstance(config, PairwiseConfig | ListwiseConfig) else 1),
            cost=member.cost,
            source=source,
            writer=writer,
        )
        for own, engine in _models(member.engine or config.engine or otherwise, models, name, path)
    ]


def _models(
    own: EngineConfig | None, models: tuple[EngineConfig, ...], name: str, path: Path
) -> list[tuple[str, EngineConfig]]:
    """The models that judge, each with the name of the judge that it makes."""
    engines = models or ((own,) if own is not None else ())
    if not engines:
        raise ConfigError(
            f"{path}: the judge '{name}' names no model; give one with --model (--judge-model where a policy is trained or "
            "evaluated; and --base-url for an endpoint), or as engine: {model: ...} in the file (a reward model beside "
            "language models always in the file)"
        )
    if len(engines) == 1:
        return [(name, engines[0])]
    return [(f"{name}@{Path(engine.model).name}", engine) for engine in engines]


def _distinct_names(where: str, judges: list[Judge]) -> list[Judge]:
    """The judges under names of their own: votes are kept by name. Judges of one name get their model's whole name."""
    names = [judge.name for judge in judges]
    renamed = [
        replace(judge, name=f"{judge.name.split('@')[0]}@{judge.model}")
        if names.count(judge.name) > 1 and isinstance(judge, LLMJudge | RewardJudge)
        else judge
        for judge in judges
    ]
    final = [judge.name for judge in renamed]
    doubled = sorted({name for name in final if final.count(name) > 1})
    if doubled:
        raise ConfigError(f"{where}: two judges are called '{doubled[0]}'; name them apart (name), or drop one")
    return renamed


def _check_screening(where: str, judges: list[Judge], comparisons: Comparisons | None) -> None:
    if comparisons == "screened" and not any(judge.weight > 0 for judge in judges if not compares(judge)):
        raise ConfigError(
            f"{where}: comparisons 'screened' needs a judge that scores single responses (a program, a pointwise judge or a "
            "reward model), with a weight above 0, to screen with; add one, or compare 'all' or 'ring'"
        )
