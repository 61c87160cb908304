"""The command line: parse, call the public function, print. One small module per group of commands."""

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from rlaif import __version__
from rlaif.cli import bench
from rlaif.cli.calibrate import calibrate_command
from rlaif.cli.evaluate import evaluate_command
from rlaif.cli.files import cp_command, ls_command, show_command
from rlaif.cli.generate import generate_command
from rlaif.cli.judge import judge_command
from rlaif.cli.merge import merge_command
from rlaif.cli.pairs import pairs_command
from rlaif.cli.probe import probe_command
from rlaif.cli.revise import revise_command
from rlaif.cli.run import run_command
from rlaif.cli.train import train_command
from rlaif.errors import RlaifError
from rlaif.progress import is_first

app = typer.Typer(
    name="rlaif",
    help="From a list of prompts to an aligned language model, without human labels.",
    epilog="Everything at once, on the CPU: rlaif run quickstart",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "generate": generate_command,
    "revise": revise_command,
    "judge": judge_command,
    "calibrate": calibrate_command,
    "probe": probe_command,
    "pairs": pairs_command,
    "train": train_command,
    "merge": merge_command,
    "evaluate": evaluate_command,
    "run": run_command,
    "ls": ls_command,
    "show": show_command,
    "cp": cp_command,
}
GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "bench": (bench.HELP, {"convert": bench.convert_command, "judge": bench.judge_command}),
}
SECONDS_FOR_THE_FIRST = 10.0
"""How long another process than the first keeps an error to itself."""


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with Ctrl-C as exit status 130 (typer by itself would make it 1, our bugs' status)."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            print("interrupted; the work so far is saved: the same command continues", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


for _name, _command in COMMANDS.items():
    app.command(_name)(_interruptible(_command))
for _group, (_help, _commands) in GROUPS.items():
    _part = typer.Typer(help=_help, no_args_is_help=True, rich_markup_mode=None)
    for _name, _command in _commands.items():
        _part.command(_name)(_interruptible(_command))
    app.add_typer(_part, name=_group)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        print(f"rlaif {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs the command line. Exit status: 0 done, 1 our bug, 2 the user can mend it, 3 quality gate, 130 interrupted."""
    _quiet_libraries()
    try:
        app()
    except RlaifError as error:
        _refuse(str(error), error.exit_status)
    except OSError as error:
        from rlaif.records import disk_message

        message = disk_message(error)
        if message is None:
            raise
        _refuse(message, 2)


def _refuse(message: str, status: int) -> NoReturn:
    """Prints an error and ends with the status.

    Of several processes mostly all have the same error, and the first says it. The others wait without a word until the
    launcher ends them because the first ended. One that is not ended has an error of its own, and says it; so does the
    first one of another machine, where the launcher does not see that the very first ended.
    """
    where = ""
    if not is_first():
        for ended in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ended, lambda *_: sys.exit(status))
        is_first_here = int(os.environ.get("LOCAL_RANK") or 0) == 0
        time.sleep(SECONDS_FOR_THE_FIRST * (1 if is_first_here else 2))
        where = f" (process {os.environ['RANK']})"
    print(f"error{where}: {message}", file=sys.stderr, flush=True)
    raise SystemExit(status) from None


def _quiet_libraries() -> None:
    """Our own progress is enough: the bars and banners of libraries stay off unless asked for by the environment."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
