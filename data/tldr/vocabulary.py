"""The values of the facts that the posts are about, and of the small talk around them.

Every value owns one *key word* that no other value, template or filler uses, so that a fact can be
found in a text by looking for its key word (`tests/data/test_world.py` checks that they are
unique).
"""

# who: key word -> subreddits
FAMILY = ("family", "advice")
HOME = ("housing", "advice")
WORK = ("work", "advice")
WHO = {
    "sister": FAMILY,
    "stepmother": FAMILY,
    "brother": FAMILY,
    "father": FAMILY,
    "aunt": FAMILY,
    "uncle": FAMILY,
    "roommate": HOME,
    "neighbor": HOME,
    "landlord": HOME,
    "tenant": HOME,
    "boss": WORK,
    "coworker": WORK,
    "manager": WORK,
    "assistant": WORK,
    "intern": WORK,
    "trainee": WORK,
}

DEED = """
borrowing hiding using losing washing wrapping repairing licking
""".split()

THING = """
camera laptop guitar sofa jacket umbrella suitcase violin blender kettle lamp mirror tent scooter
motorcycle tablet ladder blanket watch armchair carpet drum bicycle piano
""".split()

SINCE = """
January February March May June July September October November December Easter Halloween spring
summer autumn winter
""".split()

PLACE = """
Boston Chicago Denver Seattle Austin Dallas Phoenix Atlanta Miami Memphis Detroit Toledo Omaha
Orlando Madison Albany
""".split()

# tried: key word -> phrase in the past tense, each with a verb of its own
TRIED = {
    phrase.split()[-1]: phrase
    for phrase in (
        "left a note",
        "sent a letter",
        "offered some money",
        "made a schedule",
        "hired a lawyer",
        "changed a lock",
        "called a meeting",
        "wrote a contract",
        "filed a lawsuit",
        "baked a cake",
        "drew a map",
        "built a fence",
        "recorded a video",
        "gave a speech",
        "kept a list",
        "paid a bribe",
    )
}

# option: key word -> phrase in the base form, each with a verb of its own
OPTION = {
    phrase.split()[-1]: phrase
    for phrase in (
        "move away",
        "call the police",
        "replace the door",
        "demand an apology",
        "ask for rent",
        "charge a fee",
        "stay silent",
        "take a vacation",
        "find a mediator",
        "tell everyone",
        "write a poem",
        "throw a party",
        "seek revenge",
        "split the bill",
        "try counseling",
        "get a dog",
        "cancel the wedding",
        "adopt a cat",
        "learn karate",
        "employ a detective",
        "skip the reunion",
        "phone a locksmith",
        "set a boundary",
        "start a diary",
    )
}

# Small talk: kind -> (key words, two ways to say it). Nothing of it belongs into a summary.
SMALL_TALK = {
    "hobby": (
        "pottery chess baking gardening knitting fishing hiking yoga sailing singing".split(),
        ("I enjoy {} a lot.", "My hobby is {}."),
    ),
    "food": (
        "lasagna soup tacos sushi curry pancakes salad noodles pizza chili".split(),
        ("We had {} yesterday.", "I usually eat {}."),
    ),
    "weather": (
        "sunny rainy foggy windy stormy cloudy snowy humid freezing mild".split(),
        ("The weather is {}.", "It was {} all week."),
    ),
    "pet": (
        "Biscuit Pepper Ziggy Luna Mango Pickles Olive Bruno Coco Daisy".split(),
        ("The goldfish is called {}.", "We have a parrot named {}."),
    ),
    "book": (
        "whales volcanoes robots castles dragons rivers trains planets pirates bees".split(),
        ("I read a book about {}.", "I saw a film about {}."),
    ),
    "color": (
        "purple orange beige crimson yellow scarlet maroon white gray teal".split(),
        ("I painted the kitchen {}.", "The curtains are {}."),
    ),
}

SLOTS = ("who", "deed", "thing", "since", "place", "tried", "option")
VALUES = {
    "who": tuple(WHO),
    "deed": tuple(DEED),
    "thing": tuple(THING),
    "since": tuple(SINCE),
    "place": tuple(PLACE),
    "tried": tuple(TRIED),
    "option": tuple(OPTION),
}

# Pairs of values that hasty writers mix up: a quarter of the words of every slot.
MIXED_UP = """
    sister-stepmother aunt-uncle
    washing-wrapping
    laptop-tablet guitar-violin sofa-armchair
    June-July March-May
    Boston-Austin Toledo-Orlando
    note-letter contract-lawsuit
    fee-bill police-detective cat-dog
""".split()
TWINS = {}  # a value -> the one that it is taken for
for _pair in MIXED_UP:
    _one, _other = _pair.split("-")
    TWINS |= {_one: _other, _other: _one}
