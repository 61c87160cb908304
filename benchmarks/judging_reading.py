"""How many of the recorded votes on LLMBar our reader recovers, and whether any text makes it say what was not offered.

    python -m benchmarks.judging_reading GOLD -o disagreements.jsonl --texts 1000000 --seed 0

GOLD: the folder with llmbar_votes/votes.jsonl.gz: the raw answers of six judges, with the winner that the original's own
parser recorded. Its votes are read with the format llmbar; nothing is asked of a model.
"""

import argparse
import gzip
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.judging_texts import MODES, all_readings, check_offered, random_text
from rlaif.judges.reading import FORMATS, Choice, Mode, Offer, read

Vote = dict[str, Any]
LETTERS = ("a", "b")
SHORT_CHARACTERS = 12
"""The longest answer that is "Output (a)" alone, with a point or a blank."""
_STATEMENT = re.compile(r"Output \(([ab])\) is better")
GROUPS = ("short", "one anchored verdict", "several that disagree", "none")


def final_votes(gold: Path) -> list[Vote]:
    """The last step of every recorded vote that has a text and a winner."""
    with gzip.open(gold / "llmbar_votes" / "votes.jsonl.gz", "rt", encoding="utf-8") as file:
        votes = [json.loads(line) for line in file]
    return [vote for vote in votes if vote["last"] and vote["completion"] and vote["winner"]]


def group_of(text: str) -> str:
    """What kind of answer this is, told without the reader."""
    if len(text.strip()) <= SHORT_CHARACTERS:
        return "short"
    letters = set(_STATEMENT.findall(text))
    return GROUPS[1] if len(letters) == 1 else GROUPS[2] if letters else GROUPS[3]


def winner_read(vote: Vote, mode: Mode) -> str:
    """'1' or '2' as the vote's `winner`, or the reason why nothing was read."""
    meaning, reason = read(vote["completion"], FORMATS["llmbar"], Offer(labels=LETTERS), mode)
    if meaning is None:
        return str(reason)
    assert isinstance(meaning, Choice)
    assert meaning.position is not None
    return str("ab".index(vote["order"][meaning.position]) + 1)


def disagreements(votes: Iterable[Vote], mode: Mode) -> list[Vote]:
    """The votes whose verdict was read, but is another than the recorded one."""
    found = []
    for vote in votes:
        said = winner_read(vote, mode)
        if said in ("1", "2") and said != vote["winner"]:
            found.append({"mode": mode, "read": said, "group": group_of(vote["completion"]), **vote})
    return found


def table(votes: list[Vote], mode: Mode) -> list[str]:
    """Markdown: of each group of answers, how many were read as recorded, otherwise, or not at all."""
    counts: dict[str, Counter[str]] = {group: Counter() for group in GROUPS}
    for vote in votes:
        said = winner_read(vote, mode)
        counts[group_of(vote["completion"])]["same" if said == vote["winner"] else said] += 1
    lines = [
        f"| {mode}: answers | votes | as recorded | otherwise | conflict | unparsed | refused | recovered |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in (*GROUPS, "all"):
        count = sum(counts.values(), Counter()) if group == "all" else counts[group]
        other = count["1"] + count["2"]
        recovered = (count["same"] + other) / max(1, count.total())
        cells = [group, count.total(), count["same"], other, count["conflict"], count["unparsed"], count["refused"]]
        lines.append(f"| {' | '.join(map(str, cells))} | {recovered:.2%} |")
    return lines


def strategies(votes: list[Vote]) -> list[str]:
    """Markdown: what each prompting strategy's answers look like, and the share recovered by the strict mode."""
    by_strategy: dict[str, list[Vote]] = {}
    for vote in votes:
        by_strategy.setdefault(vote["strategy"], []).append(vote)
    lines = ["| strategy | votes | short | recovered, strict | recovered, lenient |", "|---|---|---|---|---|"]
    for name, members in sorted(by_strategy.items()):
        short = sum(group_of(vote["completion"]) == "short" for vote in members) / len(members)
        shares = [sum(winner_read(vote, mode) in ("1", "2") for vote in members) / len(members) for mode in MODES]
        lines.append(f"| {name} | {len(members)} | {short:.1%} | {shares[0]:.2%} | {shares[1]:.2%} |")
    return lines


def read_random_texts(count: int, seed: int) -> str:
    """Reads random texts, each in one of all formats, offers and modes in turn; what was found, in words."""
    draw, readings = random.Random(seed), all_readings()
    started, verdicts = time.perf_counter(), 0
    for i in range(count):
        form, offer, mode = readings[i % len(readings)]
        verdicts += check_offered(random_text(draw, form.name), form, offer, mode, truncated=draw.random() < 0.2)
    seconds = time.perf_counter() - started
    return (
        f"{count:,} random and mutated texts over {len(readings)} formats, offers and modes (seed {seed}): no crash, no "
        f"verdict that was not offered; {verdicts:,} gave a verdict; {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gold", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("disagreements.jsonl"))
    parser.add_argument("--texts", type=int, default=0, help="how many random texts to read as well")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    votes = final_votes(asked.gold)
    for mode in MODES:
        print("\n".join(table(votes, mode)), end="\n\n")
    print("\n".join(strategies(votes)), end="\n\n")
    listed = [vote for mode in MODES for vote in disagreements(votes, mode)]
    asked.output.write_text("".join(json.dumps(vote, ensure_ascii=False) + "\n" for vote in listed), encoding="utf-8")
    print(f"{len(listed)} disagreements with the recorded winner are in {asked.output}")
    if asked.texts:
        print(read_random_texts(asked.texts, asked.seed))


if __name__ == "__main__":
    main()
