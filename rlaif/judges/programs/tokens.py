"""Sentences and words counted as IFEval's reference does with NLTK, without NLTK and its models."""

import itertools
import re

ABBREVIATIONS = (
    "mr mrs ms dr prof rep reps sen gen col maj lt adm st ave jr sr messrs inc corp co cos ltd bros cie vs no ok "
    "jan feb aug sept sep oct nov dec tues wed fri a.m p.m u.s u.k u.n u.s.a d.c ph.d a.d l.a n.y n.j n.c n.h s.c r.i "
    "ala ariz calif colo conn fla ga ill kan ky mich minn nev okla ore pa tenn va vt wash wis yr "
    "c d e f g h k l m n p r s t v w"
)
"""Words whose full stop ends a sentence only before a word that is small inside of one. As in the model, e.g. is none."""
SMALL_WORDS = (
    "the a an this that these those it he she they we you i i'm i've i'll i'd it's that's there's they're we're you're "
    "there here his her its our their your my what when where why how if in on at for from with by as but and so "
    "however also then thus therefore while after before once since because although though yet let please many most "
    "some both even another does did is was were has have had according instead indeed"
)
"""Words with a capital letter only where a sentence begins."""
IS_ABBREVIATION, IS_SMALL = frozenset(ABBREVIATIONS.split()), frozenset(SMALL_WORDS.split())
CLOSERS = "\"')]}‘’“”«»"
NON_WORD = r"""[)";}\]*:@'({\[‘’“”«»?!]"""
INNER_END = re.compile(rf"\S*[.?!](?={NON_WORD})")
LAST_PART = re.compile(rf"{NON_WORD}|,")
CAPITAL_SEPARATORS = re.compile(r"[«»“”‘’„`;@#$%&?!*\"\]\[(){}<>]|--|\.{2,}|[:,](?=\D|$)|''")
CONTRACTIONS = re.compile(r"(?<=[^'\s])('[sSmMdD]|'ll|'LL|'re|'RE|'ve|'VE|n't|N'T)(?=\s)")


def punkt_sentences(text: str) -> int:
    """The number of sentences, near to that of Punkt (Kiss and Strunk, 2006) with NLTK's English model.

    . ! and ? end one before space or punctuation, unless the full stop belongs to an abbreviation or an initial; the end
    of a line does not. Closing quotes and brackets belong to the sentence that they close.
    """
    count, is_open = 0, False
    words = text.split()
    for word, following in itertools.zip_longest(words, words[1:]):
        end = _sentence_end(word, following)
        count += end is not None
        is_open = end is None or bool(word[end:].strip(CLOSERS))
    return count + is_open


def _sentence_end(word: str, following: str | None) -> int | None:
    """Where in a word a sentence ends, after its mark: at the word's own end, or before punctuation inside of it."""
    if following is not None and word[-1] in ".?!":
        end = len(word)
    else:
        match = INNER_END.match(word)
        if match is None:
            return None
        end = match.end()
    after = following or "" if end == len(word) else word[end:]
    return end if _ends_sentence(word[:end], after) else None


def _ends_sentence(word: str, after: str) -> bool:
    """Whether the mark that a word ends with ends a sentence, given what comes after."""
    if word[-1] in "?!":
        return True
    bare = LAST_PART.split(word)[-1][:-1].lower()
    if any(mark in word[:-1] for mark in "?!"):
        return True
    is_initial = len(bare) == 1 and bare.isalpha()
    if bare.endswith(".") or bare in IS_ABBREVIATION or bare.rpartition("-")[2] in IS_ABBREVIATION or is_initial:
        return after[:1].isupper() and after.rstrip(",.?!").lower().replace("’", "'") in IS_SMALL
    return not (bare.isdigit() and after[:1].islower())


def capital_words(text: str) -> int:
    """The number of words all in capitals, split as in the Penn Treebank: A-B is one word, IT'S and DON'T are two."""
    split = CAPITAL_SEPARATORS.sub(" ", f" {text} ")
    return sum(word.isupper() for word in CONTRACTIONS.sub(r" \1 ", split).split())
