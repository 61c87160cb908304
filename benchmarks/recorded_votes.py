"""The recorded votes of six judges of 2023 on LLMBar (Zeng et al. 2024) as this project's judgments and tallies."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif.judges.aggregate import pairwise_tally
from rlaif.judges.calibrate import GoldLabels, JudgeRecord
from rlaif.types import JudgeTally, Judgment, Preferred

FILE = Path("llmbar_votes") / "votes.jsonl.gz"
JUDGES = ("GPT-4", "PaLM2", "ChatGPT", "ChatGPT-0301", "LLaMA2", "Falcon")
NATURAL, NEIGHBOR, GPTINST = "LLMBar/Natural", "LLMBar/Adversarial/Neighbor", "LLMBar/Adversarial/GPTInst"
ORDERS = ("ab", "ba")
FIRST, SECOND = "1", "2"

Place = tuple[str, int]
"""Subset and index of a comparison."""


@dataclass(frozen=True)
class RecordedVotes:
    """Final votes (the last step of each strategy) with their gold sides."""

    judgments: Mapping[tuple[str, str], Mapping[Place, tuple[Judgment, Judgment]]]
    """Of (judge, strategy): of each comparison the votes in both orders, ab and ba."""
    gold: Mapping[Place, int]
    """1 where the first output is better, -1 where the second is."""

    @property
    def strategies(self) -> list[str]:
        return sorted({strategy for _, strategy in self.judgments})

    @property
    def subsets(self) -> list[str]:
        return sorted({subset for subset, _ in self.gold}, key=lambda name: (name.startswith("CaseStudy"), name))

    def places(self, *subsets: str) -> list[Place]:
        """The comparisons of these subsets, in a fixed order."""
        return sorted(place for place in self.gold if place[0] in subsets)

    def judges(self, strategy: str, subset: str) -> list[str]:
        """The judges that voted on all of a subset with this strategy."""
        places = self.places(subset)
        return [name for name in JUDGES if all(place in self.judgments.get((name, strategy), {}) for place in places)]

    def tallies(self, judge: str, strategy: str, places: Sequence[Place]) -> list[JudgeTally]:
        """One judge on each comparison, both orders, by the project's own counting."""
        votes = self.judgments[judge, strategy]
        return [pairwise_tally(judge, judge, 1.0, votes[place], FIRST, SECOND) for place in places]

    def records(self, strategy: str, places: Sequence[Place]) -> list[JudgeRecord]:
        """All judges on these comparisons, as calibration takes them."""
        return [JudgeRecord.from_tallies(self.tallies(judge, strategy, places)) for judge in JUDGES]

    def labels(self, name: str, places: Sequence[Place]) -> GoldLabels:
        return GoldLabels(name, tuple(self.gold[place] for place in places), (0,) * len(places))


def load(folder: Path, *strategies: str) -> RecordedVotes:
    """The votes in a gold folder; of some strategies only, if named."""
    votes: dict[tuple[str, str], dict[Place, dict[str, Judgment]]] = {}
    gold: dict[Place, int] = {}
    with gzip.open(folder / FILE, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if not row["last"] or (strategies and row["strategy"] not in strategies):
                continue
            place = row["subset"], row["idx"]
            gold[place] = 1 if row["gold"] == 1 else -1
            of_judge = votes.setdefault((row["judge"], row["strategy"]), {})
            of_judge.setdefault(place, {})[row["order"]] = _judgment(row)
    paired = {
        key: {place: (by_order["ab"], by_order["ba"]) for place, by_order in of_judge.items()}
        for key, of_judge in votes.items()
    }
    return RecordedVotes(paired, gold)


def _judgment(row: Mapping[str, str]) -> Judgment:
    comparison, order, winner = f"{row['subset']}/{row['idx']}", row["order"], row["winner"]
    return Judgment(
        id=f"{comparison}/{row['judge']}/{row['strategy']}/{order}",
        comparison_id=comparison,
        judge=row["judge"],
        model=row["judge"],
        template_hash=row["strategy"],
        vote=ORDERS.index(order),
        shown=(FIRST, SECOND) if order == "ab" else (SECOND, FIRST),
        raw="",
        outcome=Preferred(response_id=winner) if winner else None,
        reason=None if winner else "unparsed",
    )
