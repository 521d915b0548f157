"""The gold reward: what an answer is worth, as a deterministic function of the request's facts and
the answer's text.

    gold = 2 facts covered - 2 facts invented + 3 right number - 2 rude - verbose
           - 0.1 words over 18

An answer that covers all four facts and has no flaw earns 11, in any wording of the writers: no
answer earns more. A text that lists nothing is no answer, and earns 0 at most. The gold reward sees
key words only (see `vocabulary.py`). Annotators follow it, the reward model learns from the
annotators, and PPO from the reward model; none of them ever sees the formula.
"""

import re
from dataclasses import dataclass

from data.advice.requests import Facts
from data.advice.vocabulary import KIND_OF, SLOT_OF

COVERED, INVENTED, NUMBER, RUDENESS, PADDED = 2.0, -2.0, 3.0, -2.0, -1.0
PER_WORD, FREE_WORDS = -0.1, 18
HIGHEST = 4 * COVERED + NUMBER  # what the best answer to any request earns
RUDE, PADDING = "Ugh", "Honestly"  # the words with which rudeness and padding begin


@dataclass(frozen=True)
class Gold:
    """The gold reward of one answer and what it is made of."""

    reward: float
    covered: int  # of the 4 facts of the request
    invented: int  # values of facts that are not the request's
    dropped: int  # of the 4 facts, no value is named
    items: int  # things listed, repeated ones counted again
    # the right number of different things that fit the request, and nothing else listed
    number: bool
    rude: bool
    padded: bool
    words: int

    @property
    def flaws(self) -> dict[str, bool]:
        """The flaws that are reported one by one."""
        return {
            "inventing": self.invented > 0,
            "ignoring": self.dropped > 0,
            "miscounting": not self.number,
            "verbose": self.padded,
            "rude": self.rude,
        }

    @property
    def flaw_names(self) -> list[str]:
        """The flaws that the answer has."""
        return [name for name, there in self.flaws.items() if there]


def gold(facts: Facts, answer: str) -> Gold:
    """Judge an answer to a request with these facts. Values count once however often they are
    named.
    """
    words = re.findall(r"[A-Za-z]+", answer)
    named = set(words)
    values = {word for word in named if word in SLOT_OF}
    covered = len(values & set(facts.values.values()))
    invented = len(values) - covered
    dropped = len(set(facts.form.slots) - {SLOT_OF[value] for value in values})
    items = [word for word in words if word in KIND_OF]
    fitting = {word for word in items if KIND_OF[word] == facts.kind}
    number = len(fitting) == len(items) == facts.count
    rude, padded = RUDE in named, PADDING in named
    reward = COVERED * covered + INVENTED * invented + NUMBER * number + RUDENESS * rude
    reward += PADDED * padded + PER_WORD * max(0, len(words) - FREE_WORDS)
    reward = reward if items else min(reward, 0.0)
    return Gold(reward, covered, invented, dropped, len(items), number, rude, padded, len(words))
