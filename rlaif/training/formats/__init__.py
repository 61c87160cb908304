"""Training data in the formats people have it in, recognised by what a row holds."""

from rlaif.training.formats.example import Example, Kind
from rlaif.training.formats.read import read_examples

__all__ = ["Example", "Kind", "read_examples"]
