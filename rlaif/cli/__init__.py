"""The command line: parse, call the public function, print. One small module per group of commands."""

import sys

import typer

from rlaif import __version__
from rlaif.cli.evaluate import evaluate_command
from rlaif.cli.files import cp_command, ls_command, show_command
from rlaif.cli.generate import generate_command
from rlaif.cli.judge import judge_command
from rlaif.cli.pairs import pairs_command
from rlaif.cli.run import run_command
from rlaif.cli.train import train_command
from rlaif.errors import RlaifError

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
app.command("generate")(generate_command)
app.command("judge")(judge_command)
app.command("pairs")(pairs_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("run")(run_command)
app.command("ls")(ls_command)
app.command("show")(show_command)
app.command("cp")(cp_command)


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
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        print("interrupted; the work so far is saved: the same command continues", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        from rlaif.records import disk_message

        message = disk_message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def _quiet_libraries() -> None:
    """Our own progress is enough: the bars and banners of libraries stay off unless asked for by the environment."""
    import os

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
