"""rlaif: from a list of prompts to an aligned language model, without human labels."""

__version__ = "0.1.0"
