"""Which texts are sentences of the grammar: clauses in its words, in agreement, joined and ended as
it does.
"""

import re
from functools import cache

from data.sentiment.sentences import BEGINNINGS
from data.sentiment.vocabulary import (
    ADJECTIVES,
    ASPECT_FACTS,
    CONNECTORS,
    CONTRASTS,
    FILM_FACTS,
    INTENSIFIERS,
    NEGATORS,
    NOUNS,
    PLURAL,
    SINGULAR,
    SOFTENERS,
    TAILS,
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


def _slots(template: str, values: dict) -> str:
    """A pattern for a template with any of its values."""
    return re.sub(r"\{(\w+)\}", lambda match: _any(values[match[1]]), template)


def _noun_phrase() -> str:
    """ "a dull film", "an utterly dull film": the article fits the next word."""
    words = [word for group in ADJECTIVES.values() for word in group]
    modifiers = (*INTENSIFIERS["adjective"], *SOFTENERS["adjective"])
    starts = []
    for article, fits in (("a", False), ("an", True)):
        alone = [word for word in words if (word[0] in "aeiou") == fits]
        before = [word for word in modifiers if (word[0] in "aeiou") == fits]
        starts.append(f"{article} (?:{_any(alone)}|{_any(before)} {_any(words)})")
    return f"(?:{'|'.join(starts)}) {_any(NOUNS)}"


def _adjective(negators: bool = True) -> str:
    """ "dull", "never dull"."""
    modifiers = [
        *INTENSIFIERS["adjective"],
        *SOFTENERS["adjective"],
        *(NEGATORS["adjective"] if negators else ()),
    ]
    return (
        f"(?:{_any(modifiers)} )?{_any([word for group in ADJECTIVES.values() for word in group])}"
    )


def _verb(plural: bool) -> str:
    """ "drags on", "never drag on"."""
    phrases = [phrase.split(" ", 1) for group in VERBS.values() for phrase in group]
    modifiers = [*INTENSIFIERS["verb"], *SOFTENERS["verb"], *NEGATORS["verb"]]
    forms = [f"{verb[:-1] if plural else verb} {rest}" for verb, rest in phrases]
    return f"(?:{_any(modifiers)} )?{_any(forms)}"


def _film() -> str:
    """A beginning that the film is the subject of: "this french thriller"."""
    about_it = [text for text in BEGINNINGS if not re.search("aspect|opinion", text)]
    return f"(?:{'|'.join(_slots(text, VALUES) for text in about_it)})"


@cache
def _sentence() -> re.Pattern:
    """The pattern of a whole sentence, put together from the vocabulary; pairs are (singular,
    plural).
    """
    film_fact = f"(?:{'|'.join(_slots(template, VALUES) for template in FILM_FACTS.values())})"
    facts = [
        "|".join(_slots(entry[plural], {slot: entry[2]}) for slot, entry in ASPECT_FACTS.items())
        for plural in (0, 1)
    ]
    opinions = [f"(?:is {_adjective()}|{_verb(False)})", f"(?:are {_adjective()}|{_verb(True)})"]
    of_film = f"(?:{opinions[0]}|is {_noun_phrase()})"
    aspects = [_any(SINGULAR), _any(PLURAL)]
    this_film = f"this {_any(VALUES['nation'])} {_any(VALUES['genre'])}"
    judged = "|".join(f"the {name} {said}" for name, said in zip(aspects, opinions))
    stated = "|".join(
        f"the {name}(?: of {this_film})? (?:{said}|{told})"
        for name, said, told in zip(aspects, opinions, facts)
    )
    attribute = f"{_adjective(negators=False)} {_any([*SINGULAR, *PLURAL])}"
    conceded = (
        f"(?:although (?:{judged})|despite its {attribute}), (?:{judged}|{this_film} {of_film})"
    )
    first = f"(?:{_film()} (?:{of_film}|{film_fact})|{stated}|{conceded})"
    further = (
        f"{_any((*CONNECTORS, *CONTRASTS))}(?:{judged}|it {of_film}|(?:it|the film) {film_fact})"
    )
    return re.compile(f"{first}(?:{further})*(?: {_any(TAILS)})?\\.")
