"""The words of the film reviews: what is judged, how, and the neutral facts around it.

An opinion is known by its phrase alone, and an aspect by its word, so that a program can tell what
any text says. No phrase or aspect occurs inside another phrase, fact or tail
(`tests/data/test_sentiment_world.py` checks it).
"""

# Aspects of a film that an opinion can be about; the film itself is the aspect "film".
SINGULAR = """
plot acting score dialogue script cast editing pacing ending humor scenery direction villain
lighting opening camerawork narration staging premise mood
""".split()
PLURAL = """
jokes songs costumes effects sets performances characters subplots dances stunts flashbacks chases
""".split()

# valence -> what the film or an aspect "is"
ADJECTIVES = {
    2: """
        superb brilliant stunning wonderful marvelous excellent splendid terrific glorious
        magnificent dazzling masterful exquisite sublime outstanding flawless
    """.split(),
    1: """
        charming pleasant enjoyable lively fresh solid decent likable appealing memorable
        inventive amusing graceful clever tender polished
    """.split(),
    -1: """
        dull weak tired flat stale bland clumsy forgettable tedious uneven lazy thin silly
        muddled stiff shallow
    """.split(),
    -2: """
        dreadful awful terrible atrocious unbearable horrible appalling dismal hideous abysmal
        insufferable wretched disastrous ghastly pathetic woeful
    """.split(),
}

# valence -> what it does, in the singular; the plural is without the "s" of the first word
VERBS = {
    2: (
        "wins you over",
        "takes your breath away",
        "sweeps you along",
        "leaves you beaming",
        "hits every note",
        "lingers for days",
        "makes you cheer",
        "lights up the room",
        "deserves every award",
        "raises the bar",
    ),
    1: (
        "works well",
        "keeps you interested",
        "warms the heart",
        "earns a smile",
        "holds your attention",
        "feels just right",
        "makes you grin",
        "rewards patience",
        "finds the right tone",
        "pleases the eye",
    ),
    -1: (
        "drags on",
        "wears you out",
        "leaves you cold",
        "makes you yawn",
        "adds nothing",
        "wanders off",
        "loses the thread",
        "runs out of steam",
        "feels half finished",
        "tests your nerves",
    ),
    -2: (
        "falls apart",
        "sends you to sleep",
        "insults your brain",
        "ruins the evening",
        "drives you mad",
        "makes you cringe",
        "turns your stomach",
        "hurts to watch",
        "wastes your money",
        "fails on all counts",
    ),
}

# An intensifier takes the valence times 1.5, a softener times 0.5; a negator turns it into 1 of the
# other sign.
INTENSIFIERS = {
    "adjective": ("truly", "really", "thoroughly", "utterly", "simply"),
    "verb": ("truly", "always"),
}
SOFTENERS = {"adjective": ("somewhat", "rather", "occasionally"), "verb": ("sometimes", "almost")}
NEGATORS = {
    "adjective": ("never", "not", "hardly", "rarely"),
    "verb": ("never", "hardly", "rarely"),
}
CONCEDERS = ("although", "though", "despite")

CONNECTORS = (", and ", " and ", "; ")  # between clauses
CONTRASTS = (", but ", ", although ", ", though ")

NOUNS = ("film", "movie", "picture")  # "it is a charming film"
TAILS = (
    "from start to finish",
    "in every scene",
    "most of the time",
    "to the very last minute",
    "for two hours",
    "again and again",
    "on a big screen",
    "without a break",
)

FIRST_NAMES = """
anna bruno clara dario elena felix greta hugo ines jonas karin leo marta nils olga pavel rosa
stefan tilda viktor
""".split()
LAST_NAMES = """
abery brask corvin delmar eskell fenwick galt harrow ilmar jessop kestrel lorne marsh nolde orrin
pryce quill rask selby tarn ulver wick yarrow zeller
""".split()
PEOPLE = tuple(f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES)

FATES = """
lonely retired runaway young old blind stubborn gifted wounded shy homesick crooked sleepless
jealous ambitious orphaned
""".split()
TRADES = """
baker sailor teacher widow painter pianist boxer farmer nurse clerk smuggler poet dentist gardener
spy judge pilot magician butcher detective hermit astronaut shepherd thief
""".split()


def article(words: str) -> str:
    """The words behind "a" or "an"; no word of this world sounds other than it is spelled."""
    return ("an " if words[0] in "aeiou" else "a ") + words


# The facts of a film: slot -> values
VALUES = {
    "genre": tuple(
        """
            thriller comedy drama western musical mystery fantasy documentary cartoon
            melodrama satire fable epic sequel remake caper farce parody adventure tragedy
        """.split()
    ),
    "nation": tuple(
        """
            french german italian spanish polish danish swedish norwegian finnish dutch
            belgian austrian swiss czech hungarian romanian greek turkish egyptian moroccan
            indian chinese japanese korean mexican cuban brazilian chilean peruvian canadian
            irish scottish welsh australian
        """.split()
    ),
    "director": PEOPLE,
    "actor": PEOPLE,
    "place": tuple(
        """
            oslo paris vienna madrid lisbon rome milan venice naples berlin munich hamburg
            prague warsaw krakow budapest athens dublin glasgow london cairo tokyo kyoto seoul
            delhi mumbai lima bogota havana quito toronto montreal chicago boston seattle
            denver sydney nairobi tunis reykjavik
        """.split()
    ),
    "minutes": tuple(str(minutes) for minutes in range(70, 150)),
    "month": tuple(
        """
            january february march april may june july august september october november december
        """.split()
    ),
    "topic": tuple(article(f"{fate} {trade}") for fate in FATES for trade in TRADES),
}

# What is told about a film without a judgement: slot -> predicate
FILM_FACTS = {
    "minutes": "runs for {minutes} minutes",
    "place": "was shot in {place}",
    "actor": "stars {actor}",
    "month": "opens in {month}",
    "topic": "tells of {topic}",
}
# and about an aspect: slot -> (in the singular, in the plural, values)
ASPECT_FACTS = {
    "maker": ("is the work of {maker}", "are the work of {maker}", PEOPLE),
    "studio": (
        "comes from a studio in {studio}",
        "come from a studio in {studio}",
        VALUES["place"],
    ),
    "work": (
        "took {work} months",
        "took {work} months",
        tuple("two three four five six seven eight nine ten eleven".split()),
    ),
}
