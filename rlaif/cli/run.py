"""rlaif run"""

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import options


def run_command(
    recipe: Annotated[str, typer.Argument(help="Recipe: a shipped name (rlaif ls recipes) or a YAML file.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Policy to start from, instead of the recipe's.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder, instead of the recipe's.")] = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Run a whole recipe: generate, revise or judge, pairs, train, evaluate. Killed, the same command continues.

    Example: rlaif run quickstart
    """
    from rlaif.recipes.config import load_recipe, recipe_plan
    from rlaif.recipes.run import run

    if dry_run:
        config, path = load_recipe(recipe, model=model, output=output)
        would = recipe_plan(config, path.parent)
        options.print_json(would) if json else options.print_table(would)
        return
    result = run(recipe, model=model, output=output, overwrite=overwrite)
    if json:
        options.print_json({"path": result.path, "stages": result.stages})
    else:
        print(result.summary)
