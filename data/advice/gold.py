"""The gold reward: what an answer is worth, as a deterministic function of the request's facts and
the answer's text.

    gold = 2 right number + right form - facts missing - 2 facts invented - 2 rude - evasive
           - 0.15 words over 30

It sees key words only (see `vocabulary.py`). Annotators follow it, the reward model learns from the
annotators, and PPO from the reward model; none of them ever sees the formula. An answer without a
flaw is worth 3.
"""

import re
from dataclasses import dataclass

from data.advice.answers import EVASIVE, RUDE
from data.advice.requests import Facts
from data.advice.vocabulary import KIND_OF, SLOT_OF

NUMBER, FORM, MISSING, INVENTED, RUDENESS, EVASION, PER_WORD, FREE_WORDS = (
    2.0,
    1.0,
    -1.0,
    -2.0,
    -2.0,
    -1.0,
    -0.15,
    30,
)
MARK = re.compile(r"(?<!\S)(\d+)\.(?=\s)")  # the number before a thing of a numbered list


@dataclass(frozen=True)
class Gold:
    """The gold reward of one answer and what it is made of."""

    reward: float
    missing: int  # of the 4 facts of the request
    invented: int  # values of facts that are not the request's
    items: int  # things listed, repeated ones counted again
    # the right number of different things that fit the request, and nothing else listed
    number: bool
    form: bool  # something is listed, and in the form that was asked for
    rude: bool
    evasive: bool
    words: int

    @property
    def flaws(self) -> dict[str, bool]:
        """The flaws that are reported one by one. What lists nothing has no wrong form."""
        return {
            "too_long": self.words > FREE_WORDS,
            "fact_missing": self.missing > 0,
            "fact_invented": self.invented > 0,
            "wrong_number": not self.number,
            "wrong_form": self.items > 0 and not self.form,
            "rude": self.rude,
            "evasive": self.evasive,
        }


def gold(facts: Facts, answer: str) -> Gold:
    """Judge an answer to a request with these facts.

    Values count once however often they are named. A list is in the form "numbered" if the numbers
    1 to n, each with a full stop, stand in the answer in this order, n being the things listed, and
    "plain" if no such number does.
    """
    words = re.findall(r"[A-Za-z]+", answer)
    named = set(words)
    true = set(facts.values.values())
    missing = len(true - named)
    invented = sum(word in SLOT_OF for word in named - true)
    items = [word for word in words if word in KIND_OF]
    fitting = {word for word in items if KIND_OF[word] == facts.kind}
    number = len(fitting) == len(items) == facts.count
    marks = [str(i + 1) for i in range(len(items))] if facts.form == "numbered" else []
    form = bool(items) and MARK.findall(answer) == marks
    rude, evasive = bool(named & RUDE.keys()), bool(named & EVASIVE.keys())
    reward = (
        NUMBER * number + FORM * form + MISSING * missing + INVENTED * invented + RUDENESS * rude
    )
    reward += EVASION * evasive + PER_WORD * max(0, len(words) - FREE_WORDS)
    return Gold(reward, missing, invented, len(items), number, form, rude, evasive, len(words))
