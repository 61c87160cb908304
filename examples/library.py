"""The whole path from Python: prompts, responses, verdicts, pairs, a trained adapter, an evaluation.

Run it after `make model`: .venv/bin/python examples/library.py
"""

import tempfile
from pathlib import Path

import rlaif

MODEL = ".cache/models/SmolLM2-135M-Instruct"
SHORT = rlaif.Sampling(temperature=0.8, top_p=0.95, max_tokens=32)
PROMPTS = [
    f"{question} Answer in one short sentence." for question in ("What is tea?", "Why does ice float?", "Who are you?")
]


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="rlaif-"))
    made = rlaif.generate(PROMPTS, MODEL, n=4, sampling=SHORT)
    judged = rlaif.judge(made.responses, "brief")
    pairs = rlaif.make_pairs(judged.verdicts, output=folder / "preferences.jsonl")
    for pair in pairs.pairs:
        print("+", pair.chosen[-1].content, "\n-", pair.rejected[-1].content)
    trained = rlaif.train(
        "dpo", model=MODEL, data=folder / "preferences.jsonl", output=folder / "dpo", learning_rate=1e-4
    )
    report = rlaif.evaluate(
        str(trained.path), MODEL, ["What is a cat? Answer in one short sentence."], "brief", sampling=SHORT
    )
    print("wins", report.wins, "ties", report.ties, "losses", report.losses)


if __name__ == "__main__":
    main()
