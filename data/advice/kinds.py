"""The kinds of request: how each is asked, and how an answer or a reader says again what was
asked.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of request, about three facts."""

    noun: str  # what is asked for
    asks: tuple[str, ...]  # ways to ask, with all facts
    # slot -> how the fact is said behind the noun, and what to say without it
    said: dict[str, tuple[str, str]]

    @property
    def slots(self) -> tuple[str, ...]:
        """The facts that a request of this kind has, beside the name."""
        return tuple(self.said)


KINDS = {
    "gift": Kind(
        "gifts",
        (
            "What are {number} good gifts for my {who} at the {event}? They should go with "
            "{hobby}.",
            "My {who} likes {hobby}. Name {number} gifts for the {event}.",
            "I need {number} gifts for the {event} of my {who}, who likes {hobby}.",
        ),
        {
            "who": (" for {your} {who}", ""),
            "event": (" at the {event}", ""),
            "hobby": (" that go with {hobby}", ""),
        },
    ),
    "dish": Kind(
        "dishes",
        (
            "I have {food} at home. What are {number} dishes that I can cook for my {who} on "
            "{day}?",
            "On {day} I will cook for my {who}. Name {number} dishes with {food}.",
            "I need {number} dishes with {food} that I can cook for my {who} on {day}.",
        ),
        {"food": (" with {food}", ""), "who": (" for {your} {who}", ""), "day": (" on {day}", "")},
    ),
    "pet": Kind(
        "names",
        (
            "What are {number} good names for my {trait} {color} {animal}?",
            "My {color} {animal} is {trait}. Name {number} names for it.",
            "I need {number} names for my {animal}, which is {trait} and {color}.",
        ),
        {
            "trait": (" for {your} {trait}", " for {your}"),
            "color": (" {color}", ""),
            "animal": (" {animal}", " pet"),
        },
    ),
    "stain": Kind(
        "cleaners",
        (
            "How do I get {stain} off the {thing} in my {room}? Name {number} cleaners.",
            "There is {stain} on the {thing} in my {room}. What are {number} good cleaners?",
            "I need {number} cleaners against {stain} on the {thing} in my {room}.",
        ),
        {
            "stain": (" against {stain}", " against stains"),
            "thing": (" on the {thing}", ""),
            "room": (" in {your} {room}", ""),
        },
    ),
    "trip": Kind(
        "places to see",
        (
            "In {month} I am going to {city} with my {who}. What are {number} good places to see?",
            "Name {number} places to see in {city}. I am going with my {who} in {month}.",
            "I need {number} places to see in {city} in {month} with my {who}.",
        ),
        {
            "city": (" in {city}", ""),
            "month": (" in {month}", ""),
            "who": (" with {your} {who}", ""),
        },
    ),
    "packing": Kind(
        "things to pack",
        (
            "In {month} I am going to {country} for {sport}. What are {number} good things to "
            "pack?",
            "I will go {sport} in {country} in {month}. Name {number} things to pack.",
            "I need {number} things to pack for {sport} in {country} in {month}.",
        ),
        {
            "sport": (" for {sport}", ""),
            "country": (" in {country}", ""),
            "month": (" in {month}", ""),
        },
    ),
    "excuse": Kind(
        "excuses",
        (
            "I missed the {event} of my {who} on {day}. What are {number} good excuses?",
            "My {who} waits for me at the {event} on {day}. Name {number} excuses.",
            "I need {number} excuses for my {who}, as I am late for the {event} on {day}.",
        ),
        {
            "who": (" for {your} {who}", ""),
            "event": (" about the {event}", ""),
            "day": (" on {day}", ""),
        },
    ),
}
