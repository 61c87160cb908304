"""rlaif generate"""

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import options


@options.with_engine_options
def generate_command(
    prompts: Annotated[
        str, typer.Argument(help="JSONL, JSON, CSV, Parquet or text file, or a data set name (name:split).")
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help="Model folder, hub name, GGUF file, adapter folder, or the name an endpoint serves; repeat for several.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSONL file; what it already holds is not asked again.")
    ],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Responses per prompt and model.")] = 1,
    temperature: options.Temperature = 1.0,
    top_p: options.TopP = 1.0,
    max_tokens: options.MaxTokens = 512,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="Text at which an answer ends; repeat for several.")
    ] = None,
    seed: options.Seed = 0,
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="System prompt for prompts that have none.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many prompts.")] = None,
    *,
    through: options.EngineOptions,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Sample n responses per prompt.

    Example: rlaif generate prompts.jsonl -m HuggingFaceTB/SmolLM2-135M-Instruct -n 4 -o responses.jsonl
    """
    from rlaif.config import validate
    from rlaif.generation import generate, plan
    from rlaif.inputs import read_prompts
    from rlaif.types import Sampling

    configs = through.configs(model)
    values = {
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "stop": tuple(stop or ()),
        "seed": seed,
    }
    sampling = validate(values, Sampling, "command line")
    if dry_run:
        would = plan(read_prompts(prompts, system=system, limit=limit), configs, n, sampling)
        options.print_json(would) if json else options.print_table(would)
        return
    result = generate(
        prompts, configs, n=n, sampling=sampling, system=system, output=output, limit=limit, overwrite=overwrite
    )
    told = {
        "responses": len(result.responses), "new": result.new, "already there": result.reused,
        "failed": len(result.failures), "duplicate prompts": len(result.duplicates), "output": output,
    }  # fmt: skip
    options.print_json(told) if json else options.print_table(told)
