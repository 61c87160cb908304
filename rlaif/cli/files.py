"""rlaif ls, show, cp: the judges, prompts, constitutions, presets, configurations of accelerate and recipes that ship."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import options


class KindName(StrEnum):
    judges = "judges"
    prompts = "prompts"
    constitutions = "constitutions"
    train = "train"
    accelerate = "accelerate"
    recipes = "recipes"


KIND_HELP = "judges, prompts, constitutions, train, accelerate or recipes"
KindArgument = Annotated[KindName, typer.Argument(help=KIND_HELP)]


def ls_command(
    kind: Annotated[KindName | None, typer.Argument(help=f"{KIND_HELP}; all by default")] = None,
    json: options.Json = False,
) -> None:
    """List the shipped judges, prompts, constitutions, train presets, configurations of accelerate, and recipes.

    Example: rlaif ls judges
    """
    from rlaif import resources

    listed = {k: resources.names(k) for k in resources.KINDS if kind is None or kind.value == k}
    if json:
        options.print_json({str(name): entries for name, entries in listed.items()})
        return
    for name, entries in listed.items():
        print(f"{name}:")
        for entry in entries:
            print(f"  {entry:<24}{_first_comment(resources.find(name, entry))}")


def show_command(kind: KindArgument, name: Annotated[str, typer.Argument(help="Shipped name.")]) -> None:
    """Print a shipped file.

    Example: rlaif show judges helpful
    """
    from rlaif import resources

    print(resources.find(kind.value, name).read_text(encoding="utf-8"), end="")


def cp_command(
    kind: KindArgument,
    name: Annotated[str, typer.Argument(help="Shipped name.")],
    target: Annotated[Path, typer.Argument(help="File or folder to copy to.")] = Path("."),
    overwrite: options.Overwrite = False,
) -> None:
    """Copy a shipped file, to change it.

    Example: rlaif cp judges helpful my-judge.yaml
    """
    import shutil

    from rlaif import resources
    from rlaif.errors import ConfigError
    from rlaif.records import disk_errors, make_folder

    source = resources.find(kind.value, name)
    path = target / source.name if target.is_dir() else target
    if path.exists() and not overwrite:
        raise ConfigError(f"{path}: exists already; give another name, or --overwrite")
    make_folder(path.parent)
    with disk_errors(path):
        shutil.copyfile(source, path)
    print(path)


def _first_comment(path: Path) -> str:
    if path.suffix != ".yaml":
        return ""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
