"""What both orders, panels, early stopping and calibration are worth, computed from recorded votes; no model is needed.

python -m benchmarks.judging_votes GOLD_FOLDER
"""

import argparse
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.recorded_votes import FIRST, GPTINST, NEIGHBOR, SECOND, Place, RecordedVotes, load
from rlaif.judges.aggregate import Voice, combine, ensemble_margin, sign, vote_margin
from rlaif.judges.calibrate import STRATEGIES, choose
from rlaif.judges.dawid_skene import fit_one_coin
from rlaif.judges.stopping import VOTE_MARGIN, Order, Seat, Stopping
from rlaif.judges.weights import hits, log_odds_weights
from rlaif.report.tables import markdown_table

PANEL = ("GPT-4", "PaLM2", "ChatGPT", "LLaMA2")
CHEAPEST_FIRST = ("LLaMA2", "ChatGPT", "PaLM2", "GPT-4")
"""Assumed order of price: an open 70B model, then the vendors' small and large models of 2023."""
PROMPTS = ("Vanilla", "Metrics_Reference")
SEEDS = 40
CANNOT_LOSE = Stopping("cannot-lose", gates=(VOTE_MARGIN,))
SPLITS, LABELS = 20, 50
WEIGHTED = next(strategy for strategy in STRATEGIES if strategy.aggregate == "weighted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gold", type=Path, help="the folder that holds llmbar_votes/votes.jsonl.gz")
    votes = load(parser.parse_args().gold)
    print(
        "# Recorded votes on LLMBar\n\nWritten by `python -m benchmarks.judging_votes GOLD_FOLDER`; see README.md. Percent."
    )
    for title, rows in (
        ("Judges and prompts", judge_table(votes)),
        ("Panels: majority of all judges, both orders", panel_table(votes)),
        ("Stopping at posterior 0.95, up to 16 votes", stopping_table(votes, Stopping("posterior", 0.95))),
        ("Stopping when nothing can change, up to 16 votes", stopping_table(votes, CANNOT_LOSE)),
        ("Ensembles from 50 gold labels, held-out accuracy on Neighbor and GPTInst", calibration_table(votes)),
    ):
        print(f"\n## {title}\n\n{markdown_table(rows)}", flush=True)


def hit(margin: float | None, gold: int) -> float:
    """1 right, 0 wrong, 1/2 for a tie or no margin."""
    return 0.5 if margin is None else (1 + sign(margin) * gold) / 2


@dataclass(frozen=True)
class JudgeRow:
    """One judge with one prompt on one subset."""

    one_order: float
    """Accuracy of the votes in the stored order."""
    both_orders: float
    kept: float
    """Share of comparisons in which both orders name the same side."""
    kept_accuracy: float | None
    """None where nothing is kept."""
    first_picks: float
    """Share of the votes that went to the output shown first."""


def judge_row(votes: RecordedVotes, judge: str, strategy: str, subset: str) -> JudgeRow:
    places = votes.places(subset)
    tallies = votes.tallies(judge, strategy, places)
    stored = [votes.judgments[judge, strategy][place][0] for place in places]
    gold = [votes.gold[place] for place in places]
    right = [hit(tally.margin, side) for tally, side in zip(tallies, gold, strict=True)]
    kept = [each for each, tally in zip(right, tallies, strict=True) if tally.order_consistent]
    return JudgeRow(
        one_order=fmean(hit(vote_margin(vote, FIRST, SECOND), side) for vote, side in zip(stored, gold, strict=True)),
        both_orders=fmean(right),
        kept=len(kept) / len(places),
        kept_accuracy=fmean(kept) if kept else None,
        first_picks=sum(tally.first_picks for tally in tallies) / sum(tally.decided for tally in tallies),
    )


def judge_table(votes: RecordedVotes) -> list[list[str]]:
    rows = [["subset", "prompt", "judge", "one order", "both orders", "kept", "accuracy of kept", "picks first"]]
    for subset in votes.subsets:
        for strategy in votes.strategies:
            for judge in votes.judges(strategy, subset):
                row = judge_row(votes, judge, strategy, subset)
                values = (row.one_order, row.both_orders, row.kept, row.kept_accuracy, row.first_picks)
                rows.append([subset, strategy, judge, *map(_percent, values)])
    return rows


def panel_accuracy(votes: RecordedVotes, judges: Sequence[str], strategy: str, subset: str) -> float:
    """Accuracy of the majority of the judges' sides, each side from both orders."""
    places = votes.places(subset)
    by_judge = [votes.tallies(judge, strategy, places) for judge in judges]
    margins = [ensemble_margin(tallies, "majority") for tallies in zip(*by_judge, strict=True)]
    return fmean(hit(margin, votes.gold[place]) for margin, place in zip(margins, places, strict=True))


def panel_table(votes: RecordedVotes) -> list[list[str]]:
    rows = [["prompt", "judges", *votes.subsets]]
    for strategy in votes.strategies:
        cells, sizes = [], set()
        for subset in votes.subsets:
            judges = votes.judges(strategy, subset)
            sizes.add(len(judges))
            cells.append(_percent(panel_accuracy(votes, judges, strategy, subset)) if len(judges) > 2 else "-")
        if max(sizes) > 2:
            rows.append([strategy, str(max(sizes)), *cells])
    return rows


Vote = tuple[int, int, float | None]
"""The seat (a judge with a prompt), the order it is shown (0 or 1), and the margin; None is unparsed."""


@dataclass(frozen=True)
class Run:
    """A comparison judged until the rule stops it."""

    asked: int
    margin: float | None


def panel_votes(votes: RecordedVotes, place: Place, judges: Sequence[str] = PANEL) -> list[Vote]:
    """The 16 votes of a comparison, judge by judge, prompt by prompt, order by order."""
    members = [(judge, prompt) for judge in judges for prompt in PROMPTS]
    return [
        (seat, order, vote_margin(votes.judgments[member][place][order], FIRST, SECOND))
        for seat, member in enumerate(members)
        for order in (0, 1)
    ]


def judge_until(stopping: Stopping, queue: Sequence[Vote]) -> Run:
    """Votes are asked one at a time, in the order of the queue, until the rule is settled."""
    seats = [Seat(1.0, (Order(open=1), Order(open=1))) for _ in range(len(queue) // 2)]
    asked = 0
    for seat, order, margin in queue:
        if stopping.is_settled(seats, "mean"):
            break
        seats[seat] = _answered(seats[seat], order, margin)
        asked += 1
    return Run(asked, _margin_so_far(seats))


def _answered(seat: Seat, order: int, margin: float | None) -> Seat:
    if margin is not None:
        return seat.after(order, margin)
    return Seat(seat.weight, tuple(Order() if place == order else kept for place, kept in enumerate(seat.orders)))


def _margin_so_far(seats: Iterable[Seat]) -> float | None:
    """The mean of the judges' margins, each the mean over the orders that it has answered."""
    voices = []
    for seat in seats:
        means = [order.total / order.counted for order in seat.orders if order.counted]
        if means:
            voices.append(Voice(fmean(means), seat.weight))
    return combine(voices, "mean")


@dataclass(frozen=True)
class StoppingRow:
    """A stopping rule on one subset against asking all votes."""

    share: float
    """Votes asked over all votes."""
    accuracy: float
    full_accuracy: float
    same: float
    """Share of comparisons with the same outcome, and the same side of the gate, as with all votes."""


Queue = Callable[[RecordedVotes, Place, random.Random], list[Vote]]


def random_order(votes: RecordedVotes, place: Place, generator: random.Random) -> list[Vote]:
    return generator.sample(panel_votes(votes, place), 16)


def cheapest_first(votes: RecordedVotes, place: Place, generator: random.Random) -> list[Vote]:
    return panel_votes(votes, place, CHEAPEST_FIRST)


def dearest_first(votes: RecordedVotes, place: Place, generator: random.Random) -> list[Vote]:
    return panel_votes(votes, place, CHEAPEST_FIRST[::-1])


def stopping_row(
    votes: RecordedVotes, subset: str, stopping: Stopping, queue: Queue = random_order, seeds: int = SEEDS
) -> StoppingRow:
    """The mean over seeds; an order that is not random needs one."""
    asked, right, full, same = [], [], [], []
    for seed in range(seeds):
        generator = random.Random(seed)
        for place in votes.places(subset):
            votes_of_place = queue(votes, place, generator)
            run = judge_until(stopping, votes_of_place)
            everything = judge_until(Stopping("all"), votes_of_place)
            asked.append(run.asked / everything.asked)
            right.append(hit(run.margin, votes.gold[place]))
            full.append(hit(everything.margin, votes.gold[place]))
            same.append(_class_of(run.margin) == _class_of(everything.margin))
    return StoppingRow(fmean(asked), fmean(right), fmean(full), fmean(same))


def _class_of(margin: float | None) -> tuple[int, bool] | None:
    """Which outcome, and whether above the gate."""
    return None if margin is None else (sign(margin), abs(margin) > VOTE_MARGIN + 1e-9)


def stopping_table(votes: RecordedVotes, stopping: Stopping) -> list[list[str]]:
    rows = [["subset", "order of votes", "votes asked", "accuracy", "of all 16 votes", "same outcome and gate"]]
    for subset in votes.subsets:
        for name, queue, seeds in (
            ("random", random_order, SEEDS),
            ("cheapest judge first", cheapest_first, 1),
            ("dearest judge first", dearest_first, 1),
        ):
            row = stopping_row(votes, subset, stopping, queue, seeds)
            rows.append(
                [subset, name, *map(_percent, (row.share, row.accuracy, row.full_accuracy)), _percent(row.same)]
            )
    return rows


def calibration_row(votes: RecordedVotes, strategy: str) -> dict[str, float]:
    """Held-out accuracy on Neighbor and GPTInst of ensembles from 50 labels, mean over 20 random splits, by name."""
    places = votes.places(NEIGHBOR, GPTINST)
    by_split = [_one_split(votes, strategy, places, split) for split in range(SPLITS)]
    return {name: fmean(accuracies[name] for accuracies in by_split) for name in by_split[0]}


def _one_split(votes: RecordedVotes, strategy: str, places: Sequence[Place], split: int) -> dict[str, float]:
    shuffled = random.Random(split).sample(places, len(places))
    seen, held_out = shuffled[:LABELS], shuffled[LABELS:]
    chosen = choose(votes.records(strategy, seen), votes.labels("seen", seen))
    margins, gold = _arrays(votes, strategy, seen)
    others, truth = _arrays(votes, strategy, held_out)
    accuracies = {
        each.name: float(hits(each.margins(others, each.fit(margins, gold)), truth).mean()) for each in STRATEGIES
    }
    weights = np.array(list(chosen.weights.values()))
    accuracies["calibrated"] = float(hits(chosen.strategy.margins(others, weights), truth).mean())
    inverting = log_odds_weights(margins, gold, negative=True)
    accuracies["weights below 0 kept"] = float(hits(WEIGHTED.margins(others, inverting), truth).mean())
    anchors = np.concatenate([gold, np.full(len(truth), np.nan)])
    sides = 2 * fit_one_coin(np.vstack([margins, others]), anchors).first_is_better - 1
    accuracies["Dawid–Skene, anchored"] = float(hits(sides[LABELS:], truth).mean())
    return accuracies


def _arrays(votes: RecordedVotes, strategy: str, places: Sequence[Place]) -> tuple[np.ndarray, np.ndarray]:
    """Margins (C, J) and gold (C,)."""
    margins = np.array([record.margins for record in votes.records(strategy, places)], dtype=float).T
    return margins, np.array([votes.gold[place] for place in places], dtype=float)


def calibration_table(votes: RecordedVotes) -> list[list[str]]:
    rows: list[list[str]] = []
    for strategy in ("Vanilla", "Metrics_Reference", "Vanilla_NoRules"):
        values = calibration_row(votes, strategy)
        rows = rows or [["prompt", *values]]
        rows.append([strategy, *map(_percent, values.values())])
    return rows


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
