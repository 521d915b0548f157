"""The values of the facts that the posts are about, and of the small talk around them.

Every value owns one *key word* that no other value, template or filler uses, so that a fact can be
found in a text by looking for its key word (`tests/data/test_world.py` checks that they are
unique).
"""

# who: key word -> (pronouns, subreddits)
HE, SHE = ("he", "his"), ("she", "her")
FAMILY = ("family", "relationships", "advice")
HOME = ("neighbors", "housing", "advice")
WORK = ("work", "careers", "advice")
CIRCLE = ("friendship", "relationships", "advice")
WHO = {
    "sister": (SHE, FAMILY),
    "mother": (SHE, FAMILY),
    "aunt": (SHE, FAMILY),
    "niece": (SHE, FAMILY),
    "grandmother": (SHE, FAMILY),
    "stepmother": (SHE, FAMILY),
    "daughter": (SHE, FAMILY),
    "wife": (SHE, FAMILY),
    "brother": (HE, FAMILY),
    "father": (HE, FAMILY),
    "uncle": (HE, FAMILY),
    "nephew": (HE, FAMILY),
    "grandfather": (HE, FAMILY),
    "stepfather": (HE, FAMILY),
    "son": (HE, FAMILY),
    "husband": (HE, FAMILY),
    "roommate": (SHE, HOME),
    "neighbor": (HE, HOME),
    "landlord": (HE, HOME),
    "tenant": (SHE, HOME),
    "babysitter": (SHE, HOME),
    "janitor": (HE, HOME),
    "caretaker": (HE, HOME),
    "lodger": (SHE, HOME),
    "boss": (SHE, WORK),
    "coworker": (HE, WORK),
    "manager": (SHE, WORK),
    "assistant": (HE, WORK),
    "intern": (SHE, WORK),
    "supervisor": (HE, WORK),
    "trainee": (HE, WORK),
    "secretary": (SHE, WORK),
    "girlfriend": (SHE, CIRCLE),
    "boyfriend": (HE, CIRCLE),
    "classmate": (SHE, CIRCLE),
    "teammate": (HE, CIRCLE),
}

DEED = """
borrowing hiding damaging using moving mocking photographing stealing losing kicking scratching
washing covering wrapping decorating repairing dragging licking
""".split()

THING = """
camera bicycle laptop guitar sofa jacket umbrella suitcase piano violin blender toaster kettle
lamp mirror carpet tent kayak skateboard helmet telescope typewriter printer tablet keyboard
backpack scooter motorcycle truck canoe drill ladder lawnmower wheelbarrow hammock grill freezer
microwave bookshelf wardrobe mattress blanket necklace watch drum trumpet saddle armchair
""".split()

SINCE = """
January February March April May June July August September October November December Easter
Christmas Halloween Thanksgiving spring summer autumn winter
""".split()

PLACE = """
Boston Chicago Denver Seattle Portland Austin Dallas Houston Phoenix Atlanta Miami Tampa Orlando
Memphis Nashville Detroit Cleveland Toledo Omaha Tulsa Tucson Reno Oakland Fresno Boise Helena
Fargo Madison Milwaukee Albany Buffalo Newark Baltimore Richmond Raleigh Charlotte Savannah Mobile
Honolulu Juneau
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
        "consulted a priest",
        "baked a cake",
        "drew a chart",
        "set an alarm",
        "built a fence",
        "proposed a trade",
        "printed a sign",
        "recorded a video",
        "threatened a lawsuit",
        "gave a speech",
        "showed a map",
        "forwarded an email",
        "kept a list",
        "bought a safe",
        "paid a bribe",
        "declared a truce",
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
        "send an invoice",
        "set a deadline",
        "just forgive",
        "stay silent",
        "take a vacation",
        "file a complaint",
        "find a mediator",
        "buy a replacement",
        "use some storage",
        "tell everyone",
        "write a poem",
        "throw a party",
        "plan a prank",
        "seek revenge",
        "split the bill",
        "draw a boundary",
        "try counseling",
        "phone a locksmith",
        "get a dog",
        "cancel the wedding",
        "skip the reunion",
        "block the number",
        "cut all contact",
        "hold a vote",
        "wear a disguise",
        "adopt a cat",
        "keep a diary",
        "learn karate",
        "hire a detective",
        "obtain insurance",
    )
}

# Small talk: kind -> (key words, two ways to say it). Nothing of it belongs into a summary.
SMALL_TALK = {
    "hobby": (
        """
            pottery chess baking gardening knitting fishing hiking poetry yoga archery origami
            astronomy juggling bowling surfing sailing singing dancing boxing skiing swimming
            camping
        """.split(),
        ("In my free time I enjoy {}.", "My favorite hobby is {}."),
    ),
    "food": (
        """
            lasagna soup tacos sushi curry pancakes salad noodles pizza chili stew risotto
            dumplings burgers waffles meatballs pasta salmon oatmeal omelets ramen paella
        """.split(),
        ("We had {} for dinner yesterday.", "I usually eat {} for lunch."),
    ),
    "weather": (
        """
            sunny rainy foggy windy stormy cloudy snowy humid freezing chilly mild breezy
            gloomy warm icy hazy
        """.split(),
        ("The weather is {} right now.", "It was {} all week."),
    ),
    "acquaintance": (
        """
            dentist barber doctor pharmacist plumber mechanic librarian gardener tailor baker
            butcher florist chef pilot nurse veterinarian electrician carpenter
        """.split(),
        ("The {} says that I worry too much.", "Even the {} has heard about it."),
    ),
    "pet": (
        """
            Biscuit Pepper Ziggy Luna Mango Pickles Olive Bruno Coco Daisy Ginger Hazel Jasper
            Milo Nacho Oscar Poppy Rusty Teddy Willow
        """.split(),
        ("The goldfish is called {}.", "We also have a parrot named {}."),
    ),
    "book": (
        """
            whales volcanoes robots castles dragons rivers trains planets pirates bees magnets
            mushrooms glaciers pyramids dinosaurs comets deserts spiders submarines
            lighthouses
        """.split(),
        ("I am reading a book about {}.", "Last night I saw a film about {}."),
    ),
    "plant": (
        """
            clover ivy moss basil parsley rosemary thyme lavender jasmine mint sage garlic
            spinach cabbage rhubarb celery
        """.split(),
        ("I just planted some {}.", "There is a lot of {} in the yard."),
    ),
    "language": (
        """
            Spanish French German Italian Greek Latin Dutch Swedish Polish Turkish Arabic
            Hindi Korean Japanese Danish Finnish Welsh Czech
        """.split(),
        ("I am learning some {}.", "My goal for this year is to speak {}."),
    ),
    "building": (
        """
            museum theater stadium aquarium cinema bakery airport hospital warehouse factory
            hotel restaurant gallery cathedral bridge tunnel playground fountain
        """.split(),
        ("They are building a new {} in town.", "On Sunday we walked past the old {}."),
    ),
    "color": (
        """purple orange turquoise beige crimson yellow magenta indigo scarlet maroon white gray
        teal""".split(),
        ("I painted the kitchen {} yesterday.", "The new curtains are {}."),
    ),
}

FEELING = """
angry sad tired confused hurt lonely nervous guilty annoyed worried helpless ashamed stressed
upset furious anxious
""".split()

AGE = [str(age) for age in range(20, 60)]

EXCUSE = (
    "{} said it was no big deal.",
    "{} just laughed at me.",
    "{} blamed me for it.",
    "{} promised to change.",
    "{} acted surprised.",
    "{} walked off without a word.",
    "{} rolled both eyes.",
    "{} claimed it was a habit.",
)

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

# Pairs of values that hasty writers mix up: a quarter of the words of every slot, some more or
# less.
MIXED_UP = """
    sister-stepmother aunt-uncle niece-nephew landlord-lodger coworker-classmate
    washing-wrapping moving-mocking
    laptop-tablet guitar-violin sofa-armchair scooter-motorcycle kayak-canoe freezer-microwave
    June-July March-May spring-summer
    Boston-Austin Dallas-Denver Houston-Tucson Toledo-Orlando Fresno-Reno
    note-letter contract-lawsuit trade-bribe
    fee-bill police-detective cat-dog deadline-complaint
""".split()
TWINS = {}  # a value -> the one that it is taken for
for _pair in MIXED_UP:
    _one, _other = _pair.split("-")
    TWINS |= {_one: _other, _other: _one}
