"""The terms of DPO's loss list: a name, a weight, and the numbers of that one loss."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from rlaif.config import Config
from rlaif.errors import did_you_mean


class Term(Config):
    """One loss of the weighted sum."""

    weight: float = Field(default=1.0, gt=0)
    """Its weight in the sum."""


class PlainTerm(Term):
    """A loss with no number of its own."""

    name: Literal[
        "sigmoid", "robust", "hinge", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "apo_zero", "apo_down", "sigmoid_norm", "sft",
    ]  # fmt: skip
    """sigmoid: DPO, with label_smoothing cDPO. robust: robust DPO. hinge: SLiC. exo_pair, nca_pair, bco_pair,
    sppo_hard, aot, aot_unpaired, apo_zero, apo_down, sigmoid_norm (length-normalised): as in their papers. sft: the
    negative log-likelihood of the chosen answer, per token."""


class IpoTerm(Term):
    """IPO (arXiv 2310.12036)."""

    name: Literal["ipo"]
    """ipo"""
    average: bool = True
    """Log-ratios averaged over tokens (as its authors advise) instead of summed."""


class DiscopopTerm(Term):
    """DiscoPOP (arXiv 2406.08414)."""

    name: Literal["discopop"]
    """discopop"""
    tau: float = Field(default=0.05, gt=0)
    """Temperature of the blend of its two losses."""


class RdpoTerm(Term):
    """R-DPO (arXiv 2403.19159): a margin that grows with the length of the chosen answer."""

    name: Literal["rdpo"]
    """rdpo"""
    alpha: float = Field(default=0.05, ge=0)
    """Penalty per token of length difference."""


class DpopTerm(Term):
    """DPO-Positive (arXiv 2402.13228): the chosen answer must not become less likely."""

    name: Literal["dpop"]
    """dpop"""
    penalty: float = Field(default=50.0, ge=0)
    """Weight of the fall of the chosen answer's log-prob below the reference's."""


AnyTerm = Annotated[PlainTerm | IpoTerm | DiscopopTerm | RdpoTerm | DpopTerm, Field(discriminator="name")]
NAMES: tuple[str, ...] = (
    "sigmoid", "robust", "ipo", "hinge", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sigmoid_norm", "rdpo", "dpop", "sft",
)  # fmt: skip
SMOOTHED = {"sigmoid", "robust", "ipo", "exo_pair", "aot", "aot_unpaired"}
"""Terms that use label_smoothing."""
NEEDS_SMOOTHING = {"robust": 0.1, "exo_pair": 1e-3}
"""Terms that need it, and the value of their paper or of common use."""
CONFIDENT = {"sigmoid", "robust", "ipo"}
"""Terms that can use each pair's own flip probability."""
COUPLED = {"aot", "aot_unpaired"}
"""Terms where the loss of a pair depends on the whole step."""
OF_THE_MARGIN = {"sigmoid", "robust", "hinge", "exo_pair", "discopop", "rdpo", "ipo", "sigmoid_norm", "sft"}
"""Terms that use only the difference of the two log-ratios, so that they work without a reference."""
BY_MEANS = {"ipo", "sigmoid_norm"}
"""Terms that use log-ratios per token, which no length weight is defined for."""
WITH_DIVERGENCE = {"sigmoid", "robust", "hinge", "exo_pair", "discopop", "sft"}
"""Terms that may be held to the reference by another divergence."""


def _as_terms(value: Any) -> Any:
    """A name, or a list of names and mappings, as a list of mappings."""
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise ValueError("name at least one loss")
    terms = []
    for item in items:
        term = {"name": item} if isinstance(item, str) else item
        name = term.get("name") if isinstance(term, dict) else getattr(term, "name", None)
        if name is None:
            shown = json.dumps(item, default=str)
            raise ValueError(f"{shown} names no loss, as {{name: ipo}} does; losses: {', '.join(NAMES)}")
        if name not in NAMES:
            raise ValueError(f"unknown loss {name!r}{did_you_mean(str(name), NAMES)}; losses: {', '.join(NAMES)}")
        terms.append(term)
    return tuple(terms)


def _all_different(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """The terms. Two alike are an error: they would only add up, which a weight says better."""
    twice = next((term for number, term in enumerate(terms) if term in terms[:number]), None)
    if twice is not None:
        name = twice.model_dump()["name"]
        raise ValueError(
            f"{name} is in the list twice with the same settings, which would only double its weight; name it once, with "
            f"weight: {2 * twice.weight:g} if that is meant"
        )
    return terms


Terms = Annotated[tuple[AnyTerm, ...], BeforeValidator(_as_terms), AfterValidator(_all_different)]
