"""`rlaif merge`: an adapter into one model folder."""

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import options


def merge_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run (or any LoRA adapter).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the merged model.")],
    dtype: options.DType = "auto",
    json: options.Json = False,
) -> None:
    """Merge a trained adapter into its base: a model folder that transformers and vLLM load without peft.

    Example: rlaif merge runs/dpo -o runs/dpo-merged
    """
    from rlaif.training.merge import merge

    folder = merge(run, output, dtype=dtype)
    if json:
        options.print_json({"path": folder})
    else:
        typer.echo(f"{folder}")
