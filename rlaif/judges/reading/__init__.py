"""Reading a verdict: what a judge wrote, as what it says of the responses it was shown.

base.py       what a format is
brackets.py   [[A]], [[7]], [[8,7]], [[A>B]]: label, MT-Bench, Arena-Hard, RewardBench
phrases.py    "Output (a) is better", m, 1, (A): LLMBar, AlpacaEval, PandaLM, Constitutional AI, Auto-J
scores.py     "[RESULT] 4", "Overall Score: 7", {"score": 4}: Prometheus, UltraFeedback's critique, G-Eval
several.py    a rating of each response: UltraFeedback's aspects, JudgeLM
ranking.py    [[B > A = C]]: all responses, best first
letters.py, numbers.py   labels in other forms, scores with their range and denominator
thinking.py, refusals.py   what is set aside, and what is a refusal
read.py       strict and lenient; what a verdict means for the shown responses
repair.py     the further question
"""

from rlaif.judges.reading.base import Choice, Format, FormatName, Meaning, Mode, Offer, Order, Ratings, Reading
from rlaif.judges.reading.read import FORMATS, normalise, outcome_of, parts_of, read, verdict_syntax
from rlaif.judges.reading.repair import repair_messages, should_repair
from rlaif.judges.reading.thinking import visible_text

__all__ = [
    "FORMATS",
    "Choice",
    "Format",
    "FormatName",
    "Meaning",
    "Mode",
    "Offer",
    "Order",
    "Ratings",
    "Reading",
    "normalise",
    "outcome_of",
    "parts_of",
    "read",
    "repair_messages",
    "should_repair",
    "verdict_syntax",
    "visible_text",
]
