"""Public sets to this project's rows: every row of the source gives rows, or is listed with its reason."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.generation import write_notes
from rlaif.gold import evalbiasbench, gsm8k, hh, llmbar, llmbar_votes, pandalm, prompt_sets
from rlaif.gold.balance import Balance, balance_of, balanced
from rlaif.gold.records import GoldPair
from rlaif.gold.sources import Row, Unusable, find_files, read_source
from rlaif.records import describe, refuse_same_file, write_records
from rlaif.types import Judgment, Prompt


@dataclass(frozen=True)
class GoldSet:
    """A public set: what its files are called, and how a row of it becomes rows."""

    kind: Literal["pairs", "votes", "prompts"]
    files: tuple[str, ...]
    convert: Callable[[Row], Iterable[GoldPair | Judgment | Prompt]]
    rows: Callable[[Path], Iterator[Row]] = read_source


SETS = {
    "llmbar": GoldSet("pairs", llmbar.FILES, llmbar.pairs),
    "llmbar_votes": GoldSet("votes", llmbar_votes.FILES, llmbar_votes.judgments),
    "pandalm": GoldSet("pairs", pandalm.FILES, pandalm.pairs),
    "evalbiasbench": GoldSet("pairs", evalbiasbench.FILES, evalbiasbench.pairs, evalbiasbench.rows),
    "hh_rlhf": GoldSet("pairs", hh.HH_FILES, hh.hh_pairs),
    "hhh": GoldSet("pairs", hh.HHH_FILES, hh.hhh_pairs),
    "gsm8k": GoldSet("pairs", gsm8k.PAIR_FILES, gsm8k.pairs),
    "gsm8k_prompts": GoldSet("prompts", gsm8k.PROMPT_FILES, gsm8k.prompts),
    "ifeval": GoldSet("prompts", prompt_sets.IFEVAL_FILES, prompt_sets.ifeval),
    "xstest": GoldSet("prompts", prompt_sets.XSTEST_FILES, prompt_sets.xstest),
    "self_instruct": GoldSet("prompts", prompt_sets.SELF_INSTRUCT_FILES, prompt_sets.self_instruct),
    "arena_hard": GoldSet("prompts", prompt_sets.ARENA_HARD_FILES, prompt_sets.arena_hard),
    "mt_bench": GoldSet("prompts", prompt_sets.MT_BENCH_FILES, prompt_sets.mt_bench),
}


@dataclass
class Converted:
    """What `convert` gives back."""

    set: str
    kind: str
    rows: Sequence[GoldPair | Judgment | Prompt] = ()
    rows_read: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Rows of the source that gave nothing: where, reason."""
    before: Balance | None = None
    """Of pairs: how often the better response stood first in the source."""
    after: Balance | None = None
    """The same after balancing."""

    def as_dict(self) -> dict[str, Any]:
        """Counts, for scripts."""
        told: dict[str, Any] = {
            "set": self.set,
            "kind": self.kind,
            "rows read": self.rows_read,
            self.kind: len(self.rows),
        }
        told |= {"rows skipped": len(self.skipped), "skipped": dict(Counter(row["reason"] for row in self.skipped))}
        if self.before is not None and self.after is not None:
            told |= {"gold ties": self.after.ties}
            told |= {
                "better stored first, in the source": self.before.first_share,
                "better stored first": self.after.first_share,
            }
            told |= {"subsets": dict(Counter(pair.subset for pair in self.rows if isinstance(pair, GoldPair)))}
        return told


def convert(name: str, source: str | Path, output: str | Path | None = None) -> Converted:
    """The rows of a public set, read from a file of it or from the folder that holds them.

    Pairs become GoldPair rows in balanced order, recorded votes Judgment rows, prompts the rows of `rlaif generate`.
    output: a JSONL file; what is skipped is listed in <output>.d/skipped.jsonl. Raises DataError if nothing fits.
    """
    if name not in SETS:
        raise ConfigError(f"unknown set '{name}'{did_you_mean(name, SETS)}; allowed: {', '.join(SETS)}")
    chosen, files = SETS[name], find_files(Path(source), SETS[name].files)
    for path in files:
        refuse_same_file(path, output)
    result = Converted(name, chosen.kind)
    rows = list(_rows(chosen, files, result))
    _check(rows, name, source, result)
    pairs = [row for row in rows if isinstance(row, GoldPair)]
    if pairs:
        rows = list(balanced(pairs))
        result.before, result.after = balance_of(pairs), balance_of(pair for pair in rows if isinstance(pair, GoldPair))
    result.rows = rows
    if output is not None:
        write_records(Path(output), rows)
        write_notes(Path(output), "skipped.jsonl", result.skipped)
    return result


def _rows(chosen: GoldSet, files: list[Path], result: Converted) -> Iterator[GoldPair | Judgment | Prompt]:
    for path in files:
        for row in chosen.rows(path):
            result.rows_read += 1
            try:
                yield from list(chosen.convert(row))
            except Unusable as reason:
                result.skipped.append({"where": row.where, "reason": str(reason)})
            except ValidationError as error:
                result.skipped.append({"where": row.where, "reason": describe(error)})


def _check(rows: Sequence[GoldPair | Judgment | Prompt], name: str, source: str | Path, result: Converted) -> None:
    if not rows:
        first = f" ({result.skipped[0]['where']}: {result.skipped[0]['reason']})" if result.skipped else ""
        raise DataError(f"{source}: no row of it is one of the set {name}{first}")
    doubled = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if doubled:
        raise DataError(
            f"{source}: holds '{doubled[0]}' twice; name one file or one folder that holds each part of {name} once"
        )
