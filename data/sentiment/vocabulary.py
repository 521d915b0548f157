"""The words of the film reviews: what is judged, how, and the facts of a film.

An opinion is known by its word alone, and an aspect by its word, so that a program can tell what
any text says. All these words differ (`tests/data/test_sentiment_world.py` checks it).
"""

# Aspects of a film that an opinion can be about; the film itself is the aspect "film".
SINGULAR = "plot acting score script cast editing pacing ending".split()
PLURAL = "jokes songs costumes effects characters stunts".split()

# valence -> what the film or an aspect "is"
ADJECTIVES = {
    2: "superb brilliant stunning wonderful excellent splendid magnificent flawless".split(),
    1: "charming pleasant lively fresh solid decent likable clever".split(),
    -1: "dull weak tired flat stale bland clumsy uneven".split(),
    -2: "dreadful awful terrible unbearable horrible hideous abysmal wretched".split(),
}
# valence -> what it does, in the singular; the plural is without the "s"
VERBS = {
    2: "shines dazzles soars triumphs".split(),
    1: "works pleases charms delivers".split(),
    -1: "drags wanders limps stumbles".split(),
    -2: "fails collapses stinks disgusts".split(),
}

# Before an adjective or a verb: an intensifier takes the valence times 1.5, a softener times 0.5; a
# negator turns it into 1 of the other sign.
INTENSIFIERS = ("truly", "really")
SOFTENERS = ("sometimes", "occasionally")
NEGATORS = ("never", "hardly")

CONNECTORS = (", and ", "; ")  # before a second opinion
REPEATING, OPPOSING = ", and ", ", but "  # before one that is said again, or taken back

FIRST_NAMES = "anna bruno clara felix greta hugo marta viktor".split()
LAST_NAMES = "brask corvin eskell galt kestrel marsh nolde quill".split()
PEOPLE = tuple(f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES)
VALUES = {  # the facts of a film: slot -> values
    "genre": tuple(
        """
            thriller comedy drama western musical mystery fantasy cartoon satire sequel parody
            romance
        """.split()
    ),
    "nation": tuple(
        """
            french german italian spanish polish danish swedish dutch greek turkish indian chinese
            japanese mexican cuban irish
        """.split()
    ),
    "director": PEOPLE,
    "actor": PEOPLE,
    "place": tuple(
        "oslo paris vienna madrid rome berlin prague athens london cairo tokyo boston".split()
    ),
}
