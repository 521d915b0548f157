"""The values of the facts that requests are about, those that are easily mixed up, and the things
that answers list.

Every value and every thing is a *key word* that no other value, template or filler uses, so that a
fact can be found in a text by looking for its key word (`tests/data/test_advice_world.py` checks
that they are unique).
"""

# slot -> its values: key words
VALUES = {
    "name": """
        Anna Hannah Simon Samuel Boris Clara David Felix Grace Irene Karen Laura Oliver Paula Tina
        Victor
    """,
    "who": """
        uncle aunt niece nephew brother mother father cousin grandmother wife husband daughter
        neighbor boss teacher roommate
    """,
    "hobby": """
        skiing skating rowing sailing fishing hiking climbing surfing diving cycling camping dancing
        riding hunting bowling swimming
    """,
    "event": """
        birthday anniversary picnic barbecue wedding concert graduation festival parade banquet
        reunion christening carnival premiere farewell jubilee
    """,
    "food": """
        salmon tuna bean lentil rice spinach potato carrot tofu chicken beef mushroom pumpkin cheese
        noodle turkey
    """,
    "city": """
        Boston Austin Paris Prague Lisbon Rome Berlin Vienna Madrid Athens Dublin Oslo Warsaw Venice
        Cairo Tokyo
    """,
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
}
VALUES = {slot: tuple(words.split()) for slot, words in VALUES.items()}

# Values that writers mix up, two of a slot each. About a quarter of its values are among them.
MIXED_UP = (
    ("Anna", "Hannah"),
    ("Simon", "Samuel"),
    ("uncle", "aunt"),
    ("niece", "nephew"),
    ("skiing", "skating"),
    ("rowing", "sailing"),
    ("birthday", "anniversary"),
    ("picnic", "barbecue"),
    ("salmon", "tuna"),
    ("bean", "lentil"),
    ("Boston", "Austin"),
    ("Paris", "Prague"),
    ("Tuesday", "Thursday"),
)
TWINS = {one: other for pair in MIXED_UP for one, other in (pair, pair[::-1])}

# kind of request -> what an answer lists: some things in a row, after the last comes the first
ITEMS = {
    "gift": "candles chocolates earrings flowers mugs posters puzzles records",
    "dish": "curry dumplings pancakes risotto salad soup stew tacos",
    "trip": "bridges castles fountains galleries gardens markets museums theaters",
    "packing": "bandages batteries boots gloves maps sandals socks towels",
}
ITEMS = {kind: tuple(words.split()) for kind, words in ITEMS.items()}

NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
MISCOUNTED = {2: 3, 3: 2, 4: 5, 5: 4}  # how many things a miscounting writer lists

SLOT_OF = {value: slot for slot, values in VALUES.items() for value in values}
KIND_OF = {item: kind for kind, items in ITEMS.items() for item in items}
