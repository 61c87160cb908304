"""Whether a model refused to do what it was asked: only what says so at its very start."""

import re

_OPENING = (
    r"(?i)\W{0,4}(?:i['’]m (?:very |really )?sorry|i am sorry|sorry|i apologi[sz]e|apologies"
    r"|unfortunately|as an ai[\w ]{0,30})?"
    r"\W{0,4}(?:but\W{1,3})?"
    r"i(?:['’]m| am)?\s(?:can(?:['’]t|not| not)|won['’]t|will not|(?:not able|unable) to|must decline to"
    r"|(?:have to )?decline to|refuse to"
    r"|(?:do not|don['’]t) feel comfortable)\s(?:to )?"
)


def refusal_to(verbs: str) -> re.Pattern[str]:
    """Matches a text that begins by refusing to do one of these: the beginnings of verbs, as a group of a pattern."""
    return re.compile(_OPENING + verbs)


_REFUSAL = refusal_to(
    r"(?:judg|compar|evaluat|assess|rat(?:e|ing)\b|scor|rank|help|assist|fulfill?|comply|participat|engag|discuss|provid|answer"
    r"|continu|complet|do (?:that|this)|process|respond)"
)


def is_refusal(said: str) -> bool:
    """Whether an answer without a verdict begins by refusing to judge; 'I can not decide' is no refusal."""
    return _REFUSAL.match(said) is not None
