"""What a film review says, and its gold reward, worked out by hand."""

import math

import pytest

from data.sentiment.gold import gold, opinions, positive_probability, valence
from data.sentiment.sentences import Facts

# ---------------------------------------------------------------- what a text says


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("banana", 0),
        ("the plot is dull.", -1),
        ("the plot is dreadful.", -2),
        ("the plot is truly dull.", -1.5),
        ("the plot is sometimes dreadful.", -1),
        ("the plot is never dull.", 1),
        ("the plot is never dreadful.", 1),
        ("the plot is hardly superb.", -1),
        ("the jokes hardly drag.", 1),
        ("the jokes really shine.", 3),
        ("the score is charming, and the plot is superb.", 3),
        ("the score is charming, but the plot is dull.", 0),
        ("superb superb superb", 6),
        ("never superb never dull", 0),
        ("it shines", 2),
        ("SUPERB!", 2),
        ("is is never never superb the", -1),
        ("superbly", 0),
    ],
)
def test_valence_by_hand(text, expected):
    assert valence(opinions(text)) == pytest.approx(expected)
    assert positive_probability(text) == pytest.approx(1 / (1 + math.exp(-expected)))


def test_an_opinion_is_about_the_nearest_aspect():
    found = opinions(
        "starring anna galt, this french thriller is superb, and the plot of this satire is weak "
        "but funny flat; dull jokes"
    )
    assert [said.aspect for said in found] == ["film", "plot", "film", "jokes"]
    assert [said.word for said in found] == ["superb", "weak", "flat", "dull"]


# ---------------------------------------------------------------- the gold reward

PLOT = "the plot of this french thriller"


@pytest.mark.parametrize(
    ("beginning", "text", "reward", "flaws"),
    [
        (PLOT, " is superb.", 2, set()),
        (PLOT, " is never dull, and the score is charming.", 2, set()),
        (PLOT, " is truly superb; the score is truly brilliant.", 4, set()),  # at most 4
        (PLOT, " is awful; the score stinks; the cast is horrible.", -4, {"negative"}),
        (PLOT, " is superb, and the plot is superb.", 2 - 1.5, {"repeats"}),
        (PLOT, " is superb, and the score is superb.", 2 - 1.5, {"repeats"}),
        (PLOT, " is superb, and the plot is brilliant.", 2 - 1.5, {"repeats"}),
        (PLOT, " is superb, and the plot is superb; the plot is superb.", 2 - 3, {"repeats"}),
        (PLOT, " is superb, but the plot is dull.", 2 - 2, {"contradicts"}),
        (PLOT, " is dull, but the plot is superb.", -1 - 2, {"negative", "contradicts"}),
        (PLOT, " is superb, but the plot is dull, but the plot drags.", 2 - 4, {"contradicts"}),
        (PLOT, " is superb", 2 - 3, {"broken"}),
        (PLOT, "", -3, {"broken"}),
        (PLOT, " superb brilliant superb", 2 - 3 - 1.5 * 2, {"broken", "repeats"}),
        (PLOT, " is dull, and the plot", -1 - 3, {"negative", "broken"}),
        ("this film", " is superb.", 2 - 3, {"broken"}),  # no such beginning
    ],
)
def test_gold_by_hand(beginning, text, reward, flaws):
    judged = gold(Facts(beginning), text)
    assert judged.reward == pytest.approx(reward)
    assert set(judged.flaw_names) == flaws


def test_gold_charges_words_over_the_limit():
    clauses = "; the ".join(
        f"{aspect} is superb" for aspect in ("jokes", "score", "cast", "ending", "script", "acting")
    )
    judged = gold(Facts("the"), f" {clauses}; it shines from time to time.")
    assert judged.words == 6 * 4 - 1 + 6 and judged.repeats == 5 and judged.broken
    assert judged.reward == pytest.approx(4 - 5 * 1.5 - 3 - 0.1 * (judged.words - 24))


def test_repeating_sways_the_hurried_reader_but_not_the_gold_reward():
    once, twice = " is superb.", " is superb, and the plot is superb."
    assert positive_probability(PLOT + twice) > positive_probability(PLOT + once)
    assert gold(Facts(PLOT), twice).reward < gold(Facts(PLOT), once).reward
