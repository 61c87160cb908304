"""Writes prompts.jsonl and held_out.jsonl: things to be described as a JSON object. Held-out things are other ones (the
second paragraph of things.txt).

python -m benchmarks.json_task.make_prompts
"""

import json
import random
from pathlib import Path

PHRASINGS = (
    'Give me a JSON object with the keys "name" and "use" for {thing}. Write nothing else.',
    'Return only a JSON object with the keys "name" and "use" for {thing}.',
)


def main() -> None:
    folder, draw = Path(__file__).parent, random.Random(0)
    parts = (folder / "things.txt").read_text().split("\n\n")
    for name, part in zip(("prompts", "held_out"), parts, strict=True):
        rows = [
            {"id": f"{thing}-{number}", "prompt": phrasing.format(thing=_with_article(thing))}
            for thing in part.split()
            for number, phrasing in enumerate(PHRASINGS)
        ]
        draw.shuffle(rows)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _with_article(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


if __name__ == "__main__":
    main()
