"""The kinds of request: how each is asked, and how an answer or a reader says again what was
asked.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of request, about three facts."""

    asks: tuple[str, ...]  # ways to ask, with all facts
    main: tuple[str, str]  # the two facts that every answer repeats
    about: str  # how it repeats them
    detail: str  # the third fact
    when: str  # how it is repeated

    @property
    def details(self) -> tuple[str, str]:
        """The slots that most answers leave out."""
        return ("name", self.detail)

    @property
    def slots(self) -> tuple[str, ...]:
        """The four slots that an answer should name."""
        return ("name", *self.main, self.detail)


KINDS = {
    "gift": Kind(
        (
            "I need {number} {hobby} gifts for my {who} at the {event}.",
            "My {who} loves {hobby}. Name {number} gifts for the {event}.",
            "What are {number} gifts for the {event} of my {who}, who loves {hobby}?",
        ),
        ("hobby", "who"),
        "{hobby} gifts for {your} {who}",
        "event",
        " at the {event}",
    ),
    "dish": Kind(
        (
            "I need {number} {food} dishes for my {who} at the {event}.",
            "My {who} loves {food}. Name {number} dishes for the {event}.",
            "What are {number} dishes for the {event} of my {who}, who loves {food}?",
        ),
        ("food", "who"),
        "{food} dishes for {your} {who}",
        "event",
        " at the {event}",
    ),
    "trip": Kind(
        (
            "I need {number} places in {city} for my {who} on {day}.",
            "On {day} I will be in {city} with my {who}. Name {number} places.",
            "What are {number} places for my {who}, who is in {city} on {day}?",
        ),
        ("city", "who"),
        "places in {city} for {your} {who}",
        "day",
        " on {day}",
    ),
    "packing": Kind(
        (
            "I need {number} things for {hobby} in {city} on {day}.",
            "On {day} I will go {hobby} in {city}. Name {number} things.",
            "What are {number} things to pack for {city} on {day}, where I will go {hobby}?",
        ),
        ("hobby", "city"),
        "things for {hobby} in {city}",
        "day",
        " on {day}",
    ),
}
