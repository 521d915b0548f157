"""Which texts are sentences of the grammar: clauses in its words, in agreement, joined and ended as
it does.
"""

import re
from functools import cache

from data.sentiment.sentences import BEGINNINGS, plural_verb
from data.sentiment.vocabulary import (
    ADJECTIVES,
    CONNECTORS,
    INTENSIFIERS,
    NEGATORS,
    OPPOSING,
    PLURAL,
    SINGULAR,
    SOFTENERS,
    VALUES,
    VERBS,
)


def broken(sentence: str) -> bool:
    """True for a text that is not a sentence of the grammar. What it says twice or against itself
    does not matter.
    """
    return _sentence().fullmatch(sentence) is None


def _any(options) -> str:
    """A pattern for one of the texts."""
    return f"(?:{'|'.join(map(re.escape, options))})"


def _beginning(template: str, aspects: list[str]) -> str:
    """A pattern for a template with any of its values."""
    values = {**VALUES, "aspect": aspects}
    return re.sub(r"\{(\w+)\}", lambda match: _any(values[match[1]]), template)


def _words(table: dict[int, list[str]]) -> list[str]:
    return [word for words in table.values() for word in words]


def _predicate(plural: bool) -> str:
    """ "is dull", "never drags"; in the plural "are dull", "never drag"."""
    modified = f"(?:{_any((*INTENSIFIERS, *SOFTENERS, *NEGATORS))} )?"
    adjectives, verbs = _words(ADJECTIVES), _words(VERBS)
    if plural:
        return f"(?:are {modified}{_any(adjectives)}|{modified}{_any(map(plural_verb, verbs))})"
    return f"(?:is {modified}{_any(adjectives)}|{modified}{_any(verbs)})"


@cache
def _sentence() -> re.Pattern:
    """The pattern of a whole sentence, put together from the vocabulary."""
    of_one, of_many = _predicate(plural=False), _predicate(plural=True)
    starts = [f"{_beginning(text, SINGULAR)} {of_one}" for text in BEGINNINGS]
    starts += [f"{_beginning(text, PLURAL)} {of_many}" for text in BEGINNINGS if "aspect" in text]
    subjects = f"the {_any(SINGULAR)} {of_one}|the {_any(PLURAL)} {of_many}|it {of_one}"
    further = f"{_any((*CONNECTORS, OPPOSING))}(?:{subjects})"
    return re.compile(f"(?:{'|'.join(starts)})(?:{further})*\\.")
