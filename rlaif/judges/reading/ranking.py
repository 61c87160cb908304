"""All shown responses, best first: [[B > A = C]], where = stands between equals."""

import re
from collections.abc import Sequence
from itertools import chain

from rlaif.judges.reading.base import DECORATION, Format, Found, Offer, Order

_LONGEST = 160
_ANCHORED = re.compile(rf"\[\[([^\[\]\n]{{1,{_LONGEST}}})\]\]")
_SIGN = r"\s{0,3}(?:>{1,3}|≻|={1,2}|,|→|->)\s{0,3}"
_LETTER = r"(?:(?i:response|answer|option|output)\s)?[\[(*]{0,3}[A-Za-z][\])*]{0,3}"
_CHAIN = re.compile(rf"(?<![\w>=]){_LETTER}(?:{_SIGN}{_LETTER}){{1,25}}(?![\w=>])")
_PLACES = re.compile(rf"^\s{{0,8}}(\d{{1,2}})[.):]\s{{1,3}}\*{{0,2}}({_LETTER})\*{{0,2}}(?=$|\s|[.:,])", re.MULTILINE)
_NOUN = re.compile(r"(?i:response|answer|option|output)\s")


def _form(offer: Offer) -> str:
    order = list(offer.labels[1:2] + offer.labels[:1] + offer.labels[2:])
    example = " > ".join(order)
    ties = "; = instead of > between equals" if offer.tie else ""
    return f"[[{example}]] with every letter once, best first{ties}"


def _strict(text: str, offer: Offer) -> list[Found]:
    anchored = [_order(match[1], offer) for match in _ANCHORED.finditer(text)]
    if anchored:
        return anchored
    whole = text.strip(DECORATION)
    found = _order(whole, offer) if len(whole) <= _LONGEST else None
    return [] if found is None else [found]


def _order(text: str, offer: Offer) -> Found:
    """Letters between > and =, each that was offered exactly once."""
    tiers = [[label.strip() for label in tier.split("=")] for tier in text.split(">")]
    return _offered(tiers, offer)


def _offered(tiers: Sequence[Sequence[str]], offer: Offer) -> Found:
    named = list(chain.from_iterable(tiers))
    if sorted(named) != sorted(offer.labels):
        return None
    if offer.tie is None and len(tiers) < len(named):
        return None
    return Order(tuple(tuple(sorted(offer.labels.index(label) for label in tier)) for tier in tiers))


def _anchored_like(text: str, offer: Offer) -> list[Found]:
    return [_order_like(match[1], offer) for match in _ANCHORED.finditer(text)]


def _chains(text: str, offer: Offer) -> list[Found]:
    """Orders without brackets; a chain of other letters than the offered ones is no verdict."""
    found = [_order_like(match[0], offer) for match in _CHAIN.finditer(text)]
    return [order for order in found if order is not None]


def _order_like(text: str, offer: Offer) -> Found:
    """The same in any case, decorated, with other signs; commas where there are no other signs."""
    plain = re.sub(r"->|→|≻|>+", ">", text)
    plain = re.sub(r"=+", "=", plain)
    if ">" not in plain and "=" not in plain:
        plain = plain.replace(",", ">")
    plain = _NOUN.sub("", re.sub(r"[*\[\]()`]", "", plain)).upper()
    return _order(plain, offer)


def _numbered(text: str, offer: Offer) -> list[Found]:
    """A list: "1. B", "2. A". It counts if its numbers run from 1."""
    places = [
        (int(match[1]), _NOUN.sub("", re.sub(r"[*\[\]()]", "", match[2])).upper()) for match in _PLACES.finditer(text)
    ]
    numbers = [number for number, _ in places]
    if numbers != list(range(1, len(offer.labels) + 1)):
        return []
    found = _offered([[label] for _, label in places], offer)
    return [] if found is None else [found]


FORMATS = (
    Format(
        name="ranking",
        kinds=("listwise",),
        form=_form,
        strict=_strict,
        lenient=(_anchored_like, _chains, _numbered),
        syntax=re.compile(r"\[\[\s?[A-Z](?:\s?[>=]\s?[A-Z]){1,25}\s?\]\]"),
    ),
)
