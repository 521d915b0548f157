"""The gold reward: what a summary is worth, as a deterministic function of the post's facts and the
summary's text.

    gold = facts covered + details covered - 2 facts invented - small talk copied - padded
           + question kept - 0.1 words over 25

The details are three of the facts (since when, where, what was tried), so they count twice. A
summary that covers all eight facts, keeps the question and has no flaw earns 12, in any wording of
the writers: no summary earns more. A text that speaks to the author ("your sister") is no summary
but a comment, like those below a post, and earns 0 at most. The gold reward sees key words only
(see `vocabulary.py`). Annotators follow it, the reward model learns from the annotators, and PPO
from the reward model; none of them ever sees the formula.
"""

import re
from dataclasses import dataclass

from data.tldr.posts import Facts
from data.tldr.vocabulary import SLOTS, SMALL_TALK, VALUES

COVERED, DETAIL, INVENTED, COPIED, PADDED, QUESTION = 1.0, 1.0, -2.0, -1.0, -1.0, 1.0
PER_WORD, FREE_WORDS = -0.1, 25
DETAILS = {"since", "place", "tried"}
HIGHEST = 8 * COVERED + len(DETAILS) * DETAIL + QUESTION  # what the best summary of any post earns
PADDING = "Honestly"  # the word with which padding begins
SLOT_OF = {value: slot for slot in SLOTS for value in VALUES[slot]}
SMALL_TALK_WORDS = frozenset(word for words, _ in SMALL_TALK.values() for word in words)


@dataclass(frozen=True)
class Gold:
    """The gold reward of one summary and what it is made of (counts)."""

    reward: float
    covered: int  # of the 8 facts of the post
    invented: int  # values of a fact that are not the post's
    copied: int  # key words of small talk
    question: bool
    comment: bool  # speaks to the author
    words: int
    padded: bool
    dropped: int  # of the three details (since, place, tried), no value is named

    @property
    def flaws(self) -> dict[str, bool]:
        """The flaws that are reported one by one."""
        return {
            "hallucination": self.invented > 0,
            "copying": self.copied > 0,
            "missing_question": not self.question,
            "padding": self.padded,
            "dropped_details": self.dropped > 0,
        }

    @property
    def flaw_names(self) -> list[str]:
        """The flaws that the summary has."""
        return [name for name, there in self.flaws.items() if there]


def gold(facts: Facts, summary: str) -> Gold:
    """Judge a summary of a post with these facts.

    Values count once however often they are named; a question is kept if the summary has a question
    mark and names an option.
    """
    words = re.findall(r"[A-Za-z]+", summary)
    named = set(words)
    pairs = {(SLOT_OF[word], word) for word in named if word in SLOT_OF}
    right = [slot for slot, value in pairs if value in facts.values(slot)]
    covered, details = len(right), len(DETAILS.intersection(right))
    copied = len(named & SMALL_TALK_WORDS)
    question = "?" in summary and any(slot == "option" for slot, _ in pairs)
    invented, padded = len(pairs) - covered, PADDING in named
    reward = COVERED * covered + DETAIL * details + INVENTED * invented + COPIED * copied
    reward += PADDED * padded + QUESTION * question
    reward += PER_WORD * max(0, len(words) - FREE_WORDS)
    comment = not named.isdisjoint({"your", "Your"})
    reward = min(reward, 0.0) if comment else reward
    dropped = len(DETAILS - {slot for slot, _ in pairs})
    return Gold(reward, covered, invented, copied, question, comment, len(words), padded, dropped)
