"""rlaif revise"""

from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import options


@options.with_engine_options
def revise_command(
    responses: Annotated[Path, typer.Argument(help="Responses, as written by rlaif generate.")],
    constitution: Annotated[
        str,
        typer.Option("--constitution", "-c", help="A shipped name (rlaif ls constitutions) or a YAML file."),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Model that criticises and revises; it need not be the one that answered."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="JSONL file of revisions; answers are kept beside it and never asked twice."
        ),
    ],
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", help="Also write preference pairs here: the revision chosen, the original rejected."),
    ] = None,
    responses_output: Annotated[
        Path | None,
        typer.Option(
            "--responses",
            help="Also write originals and revisions here as responses, for rlaif judge --comparisons models.",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Rounds of critique and revision, each under another principle.")
    ] = 1,
    temperature: options.Temperature = 1.0,
    top_p: options.TopP = 1.0,
    max_tokens: options.MaxTokens = 512,
    seed: Annotated[int, typer.Option("--seed", help="Of the sampling, and of the draw of principles.")] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first so many responses, prompt by prompt.")
    ] = None,
    max_unusable: Annotated[
        float,
        typer.Option(
            "--max-unusable",
            min=0,
            max=1,
            help="Share of responses that may end without a revision, those that needed no change aside.",
        ),
    ] = 0.2,
    *,
    through: options.EngineOptions,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Criticise and revise responses by the principles of a constitution; revisions are preferred to originals.

    Example: rlaif revise responses.jsonl --constitution harmless -m gpt-5-mini --engine openai
    -o revised.jsonl --pairs preferences.jsonl
    """
    from rlaif.config import validate
    from rlaif.errors import QualityGateError
    from rlaif.revision.plan import revise_plan
    from rlaif.revision.run import revise
    from rlaif.types import Sampling

    (config,) = through.configs([model])
    values = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    sampling = validate(values, Sampling, "command line")
    if dry_run:
        would = revise_plan(responses, constitution, config, rounds=rounds, sampling=sampling, limit=limit)
        options.print_plan(would, json)
        return
    failed: QualityGateError | None = None
    try:
        result = revise(
            responses, constitution, config, rounds=rounds, sampling=sampling, output=output, pairs_output=pairs,
            responses_output=responses_output, limit=limit, max_unusable=max_unusable, overwrite=overwrite,
        )  # fmt: skip
    except QualityGateError as error:
        result, failed = error.result, error
    told = {
        "responses": len(result.revisions), "revised": len(result.pairs), "new answers": result.new,
        "answers already there": result.reused, "failed requests": len(result.failures), "output": output,
    }  # fmt: skip
    told |= {"pairs": pairs} if pairs is not None else {}
    told |= {"originals and revisions": responses_output} if responses_output is not None else {}
    if json:
        options.print_json({**told, "skipped": result.reasons})
    else:
        options.print_table(told)
        if result.skipped:
            print("gave no revision (each listed in the .d folder beside the output):")
            options.print_table({f"  {reason}": count for reason, count in result.reasons.items()})
    if failed is not None:
        raise failed
