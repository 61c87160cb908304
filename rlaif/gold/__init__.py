"""Gold labels: pairs whose better response is known, in one simple JSONL format, and converters of public sets to it."""

from rlaif.gold.balance import Balance, balance_of, balanced, sample
from rlaif.gold.records import Gold, GoldPair, read_gold

__all__ = ["Balance", "Gold", "GoldPair", "balance_of", "balanced", "read_gold", "sample"]
