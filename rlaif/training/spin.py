"""SPIN's data: every answer of the data is preferred to one that the policy, as training starts, writes itself."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlaif.errors import DataError
from rlaif.progress import say
from rlaif.records import read_json_lines, write_text
from rlaif.training.config.paired import SpinConfig
from rlaif.training.formats import Example, read_examples
from rlaif.training.rows import Skipped
from rlaif.types import Prompt, Response, Sampling

PAIRS_FILE = "spin.jsonl"
OWN_ANSWERS = "spin/responses.jsonl"


def spin_pairs(config: SpinConfig) -> tuple[Path, list[Skipped]]:
    """The file of pairs in the run folder, made now unless it is there, and the data's rows that gave none.

    Chosen is the data's answer, rejected the policy's own. Own answers are resumable, as those of `rlaif generate`.
    Raises DataError if the data holds no answers.
    """
    examples = list(read_examples(config.data, "answers"))
    if not examples:
        raise DataError(f"{config.data}: no answers in it")
    path = config.output / PAIRS_FILE
    if not path.is_file():
        write_text(path, "".join(_lines(config, [example for example in examples if not example.skip_reason])))
    used = {str(row["id"]) for _, row in read_json_lines(path)}
    no_answer = f"the policy gave no answer (see {OWN_ANSWERS}.d/failed.jsonl)"
    skipped = [Skipped(example.id, example.skip_reason or no_answer) for example in examples if example.id not in used]
    return path, skipped


def _lines(config: SpinConfig, examples: Sequence[Example]) -> Iterator[str]:
    """The pairs as JSON lines."""
    own = _own_answers(config, examples)
    for example in examples:
        response = own.get(_prompt(example).id)
        if response is None:
            continue
        row = {
            "id": example.id,
            "prompt": [turn.as_dict() for turn in example.prompt],
            "chosen": [turn.as_dict() for turn in example.completions[0]],
            "chosen_finish_reason": "length" if example.cut[0] else None,
            "rejected": [turn.as_dict() for turn in response.messages],
            "rejected_finish_reason": response.finish_reason,
        }
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _own_answers(config: SpinConfig, examples: Sequence[Example]) -> dict[str, Response]:
    """What the policy as training starts answers, by prompt id."""
    from rlaif.generation import generate

    prompts = {(prompt := _prompt(example)).id: prompt for example in examples}
    say(f"the policy answers {len(prompts)} prompts")
    sampling = Sampling(
        temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_new_tokens, seed=config.seed
    )
    made = generate(
        list(prompts.values()), config.model, n=1, sampling=sampling, output=config.output / OWN_ANSWERS
    )  # fmt: skip
    return {response.prompt.id: response for response in made.responses}


def _prompt(example: Example) -> Prompt:
    return Prompt.from_messages(example.prompt)
