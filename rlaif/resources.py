"""The one door to the folders of text that ship with rlaif: judges, prompts (and beside them constitutions), train presets
(and beside them accelerate's configurations), recipes.

In a checkout they are top folders; in a wheel they are under rlaif/data. A path on disk wins over a shipped name.
"""

from pathlib import Path
from typing import Literal, get_args

from rlaif.errors import ConfigError, did_you_mean

Kind = Literal["judges", "prompts", "constitutions", "train", "accelerate", "recipes"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SUFFIX: dict[Kind, str] = {kind: ".j2" if kind == "prompts" else ".yaml" for kind in KINDS}
NESTED: dict[Kind, str] = {"constitutions": "prompts/constitutions", "accelerate": "train/accelerate"}
PLACES: dict[Kind, str] = {kind: NESTED.get(kind, kind) for kind in KINDS}


def folder(kind: Kind) -> Path:
    """The folder that holds the shipped files of a kind."""
    package = Path(__file__).resolve().parent
    packaged = package / "data" / PLACES[kind]
    return packaged if packaged.is_dir() else package.parent / PLACES[kind]


def names(kind: Kind) -> list[str]:
    """The names of the shipped files of a kind, sorted."""
    return sorted(path.name.removesuffix(SUFFIX[kind]) for path in folder(kind).glob(f"*{SUFFIX[kind]}"))


def name_of(kind: Kind, path: Path) -> str:
    """How another file names this one: by its shipped name, or else by its whole path."""
    whole = path.resolve()
    return whole.name.removesuffix(SUFFIX[kind]) if whole.parent == folder(kind).resolve() else str(whole)


def find(kind: Kind, name: str, beside: Path | None = None) -> Path:
    """The file for a path (as it is, or beside the file that names it) or a shipped name.

    Raises ConfigError naming the nearest shipped name.
    """
    candidates = [Path(name)]
    if beside is not None and not Path(name).is_absolute():
        candidates.insert(0, beside / name)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    shipped = folder(kind) / (name if name.endswith(SUFFIX[kind]) else name + SUFFIX[kind])
    if "/" not in name and shipped.is_file():
        return shipped
    names_of = {"train": "train preset", "accelerate": "configuration of accelerate"}
    singular = names_of.get(kind, kind.removesuffix("s"))
    raise ConfigError(
        f"unknown {singular} '{name}'{did_you_mean(name, names(kind))}: neither a file nor one of the shipped "
        f"{kind}: {', '.join(names(kind))}"
    )
