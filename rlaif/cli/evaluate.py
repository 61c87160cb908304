"""rlaif evaluate"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli import options


@options.with_engine_options
def evaluate_command(
    prompts: Annotated[str, typer.Argument(help="Held-out prompts (any format that rlaif generate reads).")],
    model: Annotated[str, typer.Option("--model", "-m", help="The trained policy: a model or adapter folder.")],
    baseline: Annotated[
        str, typer.Option("--baseline", "-b", help="What it is compared with, usually the base model.")
    ],
    judge: Annotated[str, typer.Option("--judge", "-j", help="Judge or ensemble: a shipped name or a YAML file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the answers, the verdicts and evaluation.json.")
    ],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Answers per prompt and model.")] = 1,
    votes: Annotated[int, typer.Option("--votes", min=1, help="Votes per judge and comparison.")] = 2,
    judge_model: Annotated[
        list[str] | None,
        typer.Option("--judge-model", help="Model that judges, instead of the file's; several make a panel."),
    ] = None,
    judge_engine: Annotated[
        options.EngineName, typer.Option("--judge-engine", help="Engine of the judge model.")
    ] = options.EngineName.auto,
    judge_base_url: Annotated[
        list[str] | None, typer.Option("--judge-base-url", help="Endpoint of the judge model.", metavar="URL")
    ] = None,
    temperature: options.Temperature = 1.0,
    top_p: options.TopP = 1.0,
    max_tokens: options.MaxTokens = 512,
    seed: options.Seed = 0,
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="System prompt for prompts that have none.")
    ] = None,
    relevance: Annotated[
        bool, typer.Option("--relevance/--no-relevance", help="Measure whether answers belong to their prompts.")
    ] = True,
    *,
    through: options.EngineOptions,
    max_unparsed: Annotated[
        float,
        typer.Option(
            "--max-unparsed", min=0, max=1, help="Share of a judge's votes without a verdict that is allowed."
        ),
    ] = 0.05,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Compare a trained policy with its base on held-out prompts.

    Example: rlaif evaluate heldout.jsonl --model runs/dpo --baseline HuggingFaceTB/SmolLM2-135M-Instruct --judge brief
    -o runs/eval
    """
    from rlaif.config import validate
    from rlaif.errors import ConfigError
    from rlaif.evaluation import evaluate
    from rlaif.generation import plan
    from rlaif.inputs import read_prompts
    from rlaif.types import Sampling

    is_remote = bool(through.base_url) or through.engine == options.EngineName.openai
    judge_is_remote = bool(judge_base_url) or judge_engine == options.EngineName.openai
    if through.max_requests is not None and not (is_remote or judge_is_remote):
        raise ConfigError("--max-requests bounds paid endpoints, and both the policy and the judge run here; drop it")
    if not judge_model and judge_is_remote:
        raise ConfigError("--judge-engine, --judge-base-url: belong to a judge model; name it with --judge-model")
    policy, base = replace(through, max_requests=through.max_requests if is_remote else None).configs([model, baseline])
    judges = replace(
        through, engine=judge_engine, base_url=judge_base_url, max_requests=through.max_requests if judge_is_remote else None
    ).configs(judge_model) if judge_model else ()  # fmt: skip
    sampling = validate(
        {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}, Sampling, "command line"
    )
    if dry_run:
        from rlaif.judges.ensemble import load_ensemble

        found = read_prompts(prompts, system=system)
        ensemble = load_ensemble(judge, votes=votes, models=judges, comparisons="models")
        would = plan(found, (base, policy), n, sampling)
        would["LLM votes, at most"] = sum(llm.votes for llm in ensemble.llms) * len(found.prompts) * n
        options.print_json(would) if json else options.print_table(would)
        return
    result = evaluate(
        policy, base, prompts, judge, n=n, sampling=sampling, system=system, votes=votes, judge_models=judges,
        measure_relevance=relevance, max_unparsed=max_unparsed, output=output, overwrite=overwrite,
    )  # fmt: skip
    if json:
        options.print_json(result.as_dict())
        return
    from rlaif.report.tables import evaluation_rows, text_table

    print(text_table(evaluation_rows(result)))
    for finding in result.findings:
        print(f"* {finding}")
    print(f"\nwritten: {output}/responses.jsonl, judged.jsonl, evaluation.json")
