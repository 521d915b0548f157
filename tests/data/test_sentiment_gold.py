"""What a film review says, and its gold reward, worked out by hand."""

import math
from dataclasses import replace

import pytest

from data.sentiment import build
from data.sentiment.gold import gold, opinions, positive_probability, valence
from data.sentiment.sentences import Facts, draw_split_beginning

# ---------------------------------------------------------------- what a text says


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("banana", 0),
        ("the plot is dull.", -1),
        ("the plot is dreadful.", -2),
        ("the plot is truly dull.", -1.5),
        ("the plot is rather dreadful.", -1),
        ("the plot is never dull.", 1),
        ("the plot is never dreadful.", 1),
        ("the plot is not superb.", -1),
        ("the jokes rarely drag on.", 1),
        ("the jokes always win you over.", 3),
        ("the score is charming, and the plot is superb.", 3),
        ("the score is charming, but the plot is dull.", 0),
        ("although the score is charming, the plot is dull.", -0.5),
        ("the plot is dull, although the score is superb.", 0),
        ("despite its dull plot, it is superb.", 1.5),
        ("superb superb superb", 6),
        ("never superb not dull", 0),
        ("wins you", 0),
        ("it wins you over", 2),
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
        "despite its dull jokes, this thriller is superb, and the plot of this farce is weak but "
        "funny lazy"
    )
    assert [said.aspect for said in found] == ["jokes", "film", "plot", "film"]
    assert [said.conceded for said in found] == [True, False, False, False]


# ---------------------------------------------------------------- the gold reward


@pytest.mark.parametrize(
    ("beginning", "text", "reward", "flaws"),
    [
        ("the plot", " is superb.", 2, set()),
        ("the plot", " is never dull, and the score is charming.", 2, set()),
        ("the plot", " is truly superb; the score is truly brilliant.", 4, set()),  # at most 4
        ("the plot", " is awful; the score is terrible; the cast is horrible.", -4, set()),
        ("the plot", " is superb, and the plot is superb.", 2 - 1.5, {"repeats"}),
        ("the plot", " is superb, and the score is superb.", 2 - 1.5, {"repeats"}),
        ("the plot", " is superb, and the plot is brilliant.", 2 - 1.5, {"repeats"}),
        ("the plot", " is superb, and the plot is superb; the plot is superb.", 2 - 3, {"repeats"}),
        ("the plot", " is superb, but the plot is dull.", 1 - 2, {"contradicts"}),
        ("although the plot is dull,", " the score is superb.", 1.5, set()),
        (
            "although the plot is charming,",
            " the score is superb.",
            2.5 - 2,
            {"contradicts"},
        ),  # concedes nothing
        ("the plot", " is superb", 2 - 3, {"broken"}),
        ("the plot", "", -3, {"broken"}),
        ("the plot", " superb brilliant superb", 2 - 3 - 1.5 * 2, {"broken", "repeats"}),
        ("the plot", " is dull and the plot", -1 - 3, {"broken"}),
        ("this film", " is superb.", 2 - 3, {"broken"}),  # no such beginning
        ("this farce", " runs for 90 minutes.", 0, set()),
    ],
)
def test_gold_by_hand(beginning, text, reward, flaws):
    judged = gold(Facts(beginning), text)
    assert judged.reward == pytest.approx(reward)
    assert {name for name, there in judged.flaws.items() if there} == flaws


def test_gold_charges_words_over_the_limit():
    clauses = "; the ".join(
        f"{aspect} is superb" for aspect in ("plot", "score", "cast", "mood", "humor", "acting")
    )
    judged = gold(Facts("the"), f" {clauses}; it was shot in oslo from start to finish.")
    assert judged.words == 6 * 4 - 1 + 9 and judged.repeats == 5
    assert judged.reward == pytest.approx(2 - 5 * 1.5 - 0.1 * (judged.words - 24))


def test_damage_breaks_a_sentence_and_the_flawed_pairs_differ_in_their_flaw():
    for i in range(300):
        draws, beginning = draw_split_beginning(f"damage/{i}", held_out=False)
        for kind, flaw in (
            ("broken", "broken"),
            ("repeating", "repeats"),
            ("contradicting", "contradicts"),
        ):
            fresh = replace(beginning, film=beginning.film.copy())
            good, bad = (
                gold(beginning.facts, text) for text in build.draw_flaw(draws, fresh, kind)
            )
            assert not any(good.flaws.values()) and bad.flaws[flaw]


def test_repeating_sways_the_hurried_reader_but_not_the_gold_reward():
    once, twice = " is superb.", " is superb, and the plot is superb."
    assert positive_probability("the plot" + twice) > positive_probability("the plot" + once)
    assert gold(Facts("the plot"), twice).reward < gold(Facts("the plot"), once).reward
