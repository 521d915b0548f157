"""Which facts of the world of posts writers mix up, and how many posts have them: counted."""

import itertools
import math
from collections import Counter
from dataclasses import replace

from data.tldr.posts import Facts
from data.tldr.vocabulary import TWINS, VALUES

PLAIN = Facts("boss", "hiding", "lamp", "Easter", "Miami", "fence", "away", "revenge")  # no twins
TWINNED = Facts("sister", "washing", "guitar", "June", "Boston", "letter", "fee", "cat")  # eight


def confusable_in(fields: tuple[str, ...]) -> Facts:
    """Facts of which these fields alone have values with a twin."""
    return replace(PLAIN, **{field: getattr(TWINNED, field) for field in fields})


def shares_of_confusable_fields() -> dict[tuple[str, ...], float]:
    """Every set of fields that writers can mix up in a post, and the share of facts with it."""
    ways = []
    for slot in ("who", "deed", "thing", "since", "place", "tried"):
        twins = sum(value in TWINS for value in VALUES[slot]) / len(VALUES[slot])
        ways.append([((), 1 - twins), ((slot,), twins)])
    both = itertools.permutations(VALUES["option"], 2)
    counts = Counter(replace(PLAIN, option=one, other=two).confusable() for one, two in both)
    ways.append([(fields, count / counts.total()) for fields, count in counts.items()])
    return {
        sum((fields for fields, _ in chosen), ()): math.prod(share for _, share in chosen)
        for chosen in itertools.product(*ways)
    }
