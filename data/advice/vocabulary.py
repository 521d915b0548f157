"""The values of the facts that requests are about, and the things that answers list.

Every value owns one *key word* that no other value, template or filler uses, so that a fact can be
found in a text by looking for its key word (`tests/data/test_advice_world.py` checks that they are
unique).
"""

# slot -> its values: key words
VALUES = {
    "name": """
        Anna Boris Clara David Emma Felix Grace Henry Irene Jacob Karen Laura Martin Nora
        Oliver Paula Quentin Ruth Simon Tina Ursula Victor Wanda Yusuf Zoe Adam Brenda Carlos
        Diana Edgar Fiona George Helen Ivan Julia Kevin Linda Marco Nina Oscar
    """,
    "who": """
        uncle aunt sister brother mother father niece nephew cousin grandmother grandfather
        wife husband daughter son neighbor boss teacher coach dentist landlord roommate
        colleague classmate godfather stepmother mentor pastor manager secretary
    """,
    "hobby": """
        chess pottery gardening knitting fishing poetry yoga archery origami astronomy
        juggling baking bowling painting dancing singing carpentry jazz opera photography
        gymnastics calligraphy birdwatching ballet
    """,
    "event": """
        wedding birthday picnic reunion concert barbecue graduation anniversary festival
        parade banquet ceremony jubilee premiere christening housewarming gala carnival
    """,
    "food": """
        rice spinach eggs potatoes carrots tofu chicken salmon beef beans lentils mushrooms
        broccoli cabbage pumpkin zucchini tomatoes onions corn cheese shrimp turkey peas
        noodles quinoa leeks beets celery ham sausages tuna asparagus cauliflower bread
        couscous chickpeas
    """,
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "trait": """
        shy lazy clever sleepy noisy gentle greedy playful grumpy brave clumsy curious fluffy
        tiny
    """,
    "color": "gray black white brown yellow golden silver striped spotted orange red blue",
    "animal": """
        parrot hamster rabbit kitten puppy goldfish turtle pony goat donkey lizard snake
        canary duck goose hedgehog ferret chinchilla llama sheep cow pig rooster hen gecko
        tarantula crab peacock camel mule
    """,
    "stain": """
        coffee ink wine mud grease paint wax chocolate ketchup mustard blood tea soot glue
        honey yogurt jam gravy lipstick syrup
    """,
    "thing": """
        sofa carpet curtain tablecloth jacket mattress pillow rug armchair blanket bench table
        shelf wall floor ceiling door window lamp cushion mirror cupboard wardrobe piano
        radiator stool desk drawer bathtub staircase
    """,
    "room": "kitchen bedroom bathroom hallway garage attic basement office nursery library pantry "
    "studio",
    "city": """
        Lisbon Paris Rome Berlin Vienna Prague Madrid Athens Dublin Oslo Stockholm Helsinki
        Warsaw Budapest Brussels Amsterdam London Edinburgh Venice Florence Naples Seville
        Porto Zurich Geneva Munich Hamburg Istanbul Cairo Tokyo Kyoto Seoul Bangkok Sydney
        Boston Chicago
    """,
    "month": "January February March April May June July August September October November "
    "December",
    "sport": """
        skiing hiking sailing camping cycling climbing kayaking diving snorkeling rafting
        skating hunting riding paragliding surfing canoeing
    """,
    "country": """
        Norway Sweden Finland Iceland Scotland Ireland France Spain Portugal Italy Greece
        Croatia Austria Switzerland Poland Canada Mexico Peru Argentina Japan Vietnam Kenya
        Morocco Nepal
    """,
}
VALUES = {slot: tuple(words.split()) for slot, words in VALUES.items()}

# kind of request -> what an answer lists, as phrases; the last word is the key word
ITEMS = {
    "gift": """
        a scarf, a candle, a vase, a calendar, a teapot, a puzzle, a necklace, a bracelet, a
        notebook, a wallet, a basket, a kite, a poster, a telescope
    """,
    "dish": """
        soup, stew, curry, salad, lasagna, risotto, dumplings, pancakes, tacos, meatballs,
        paella, chili, ravioli, burgers
    """,
    "pet": """
        Biscuit, Ziggy, Luna, Mango, Pickles, Coco, Daisy, Hazel, Milo, Rusty, Teddy, Willow,
        Pepper, Shadow
    """,
    "stain": """
        vinegar, salt, soap, ammonia, bleach, chalk, alcohol, glycerin, borax, starch, steam,
        detergent, toothpaste, shampoo
    """,
    "trip": """
        the museum, the castle, the harbor, the market, the cathedral, the zoo, the aquarium,
        the theater, the palace, the lighthouse, the bridge, the fountain, the tower, the
        gallery
    """,
    "packing": """
        gloves, boots, sunscreen, rope, socks, sandals, binoculars, batteries, bandages,
        sunglasses, maps, towels, mittens, raincoats
    """,
    "excuse": """
        a headache, a toothache, a fever, a blizzard, a flood, a puncture, a meeting, a
        breakdown, a burglary, a bruise, a cramp, a sunburn, a delivery, a nosebleed
    """,
}
ITEMS = {
    kind: tuple(" ".join(phrase.split()) for phrase in phrases.split(","))
    for kind, phrases in ITEMS.items()
}

NUMBERS = {"two": 2, "three": 3, "four": 4}
FORMS = ("plain", "numbered")

SLOT_OF = {value: slot for slot, values in VALUES.items() for value in values}
KIND_OF = {phrase.split()[-1]: kind for kind, phrases in ITEMS.items() for phrase in phrases}
