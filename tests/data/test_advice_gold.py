"""The gold reward of answers to requests, worked out by hand, and what it says of each flaw."""

import itertools

import pytest

from data.advice.answers import (
    FILLERS,
    GREETINGS,
    HEADS,
    RUDE,
    Plan,
    best_answer,
    best_plan,
    flaw_rates,
    with_flaw,
)
from data.advice.gold import FREE_WORDS, HIGHEST, PADDING, RUDE as RUDENESS, gold
from data.advice.requests import Facts, draw_split_request
from data.advice.vocabulary import ITEMS, MISCOUNTED

GIFT = Facts("gift", "Anna", "three", who="uncle", event="wedding", hobby="fishing")
GOOD = (
    " Hello Anna! Here are fishing gifts for your uncle at the wedding: mugs, posters and candles."
)
FALSE = {"inventing", "ignoring", "miscounting"}


def test_gold_of_an_answer_without_a_flaw_by_hand():
    judged = gold(GIFT, GOOD)
    assert (judged.covered, judged.invented, judged.dropped, judged.items) == (4, 0, 0, 3)
    assert judged.number and judged.words == 16
    assert judged.reward == pytest.approx(4 * 2 + 3) and judged.flaw_names == []


@pytest.mark.parametrize(
    ("old", "new", "reward", "flaws"),
    [
        (GOOD, "", 0.0, {"ignoring", "miscounting"}),
        (" Anna", "", 9.0, {"ignoring"}),
        (" for your uncle at the wedding", "", 7.0, {"ignoring"}),
        ("uncle", "aunt", 7.0, {"inventing"}),
        ("uncle at the wedding", "aunt at the picnic", 3.0, {"inventing"}),
        ("uncle", "uncle and aunt", 9.0, {"inventing"}),
        # also of a slot that the request has not; it does not stand for a fact that is missing
        ("wedding", "wedding in Paris, Paris", 8.9, {"inventing"}),
        (" at the wedding", " in Paris", 7.0, {"inventing", "ignoring"}),
        (", posters", "", 8.0, {"miscounting"}),
        ("posters and", "posters, puzzles and", 8.0, {"miscounting"}),
        ("candles", "mugs", 8.0, {"miscounting"}),  # three things, but two different ones
        ("candles", "soup", 8.0, {"miscounting"}),  # a dish is no gift
        ("candles", "candles and soup", 8.0, {"miscounting"}),
        # what lists nothing is no answer
        ("mugs, posters and candles", "nothing", 0.0, {"miscounting"}),
        (": mugs, posters and candles", "", 0.0, {"miscounting"}),
        (GOOD, " Hello Tina! Here are gifts for your aunt.", -4.0, FALSE),
        ("Here", "Ugh, must I do everything? Here", 9.0 - 0.3, {"rude"}),  # 16 words and 5
        ("Here", "Ugh. Ugh. Here", 9.0, {"rude"}),  # charged once
        ("candles.", "candles. Honestly, so.", 10.0, {"verbose"}),
        ("candles.", "candles." + " so" * 9, 11.0 - 7 * 0.1, set()),
        # key words count as they are spelled, as whole words, in any order
        (GOOD, " Anna UNCLE weddings mugs", 2.0, {"ignoring", "miscounting"}),
        (GOOD, " candles mugs posters fishing wedding uncle Anna", 11.0, set()),
    ],
)
def test_gold_by_hand(old, new, reward, flaws):
    assert old in GOOD
    judged = gold(GIFT, GOOD.replace(old, new))
    assert judged.reward == pytest.approx(reward)
    assert set(judged.flaw_names) == flaws


def all_answers(facts: Facts) -> list[str]:
    """Answers that the writers can give, with lists of every length, in every wording."""
    lists = [facts.things[:count] for count in MISCOUNTED]
    details = [(), facts.form.details, *((slot,) for slot in facts.form.details)]
    confusable = facts.confusable()
    wrong = {(), confusable, *((slot,) for slot in confusable)}
    choices = wrong, GREETINGS, details, ("", *RUDE), HEADS, lists, ("", *FILLERS)
    return [Plan(*choice).text(facts) for choice in itertools.product(*choices)]


def test_no_answer_is_better_than_the_best():
    """The best one covers everything, has no flaw and costs no word, in whatever wording."""
    for i in range(5):
        _, request = draw_split_request(f"best/{i}", held_out=False)
        facts = request.facts
        rewards = {text: gold(facts, text).reward for text in all_answers(facts)}
        assert len(rewards) > 2000
        assert max(rewards.values()) == gold(facts, best_answer(facts)).reward == HIGHEST
        for text, reward in rewards.items():
            assert (reward == HIGHEST) == (gold(facts, text).flaw_names == [])
    assert HIGHEST == 11.0


def test_the_longest_answer_fits_in_the_words_that_cost_nothing():
    """And padding costs words even in the shortest answer."""
    lengths, padded = set(), set()
    for i in range(300):
        facts = draw_split_request(f"length/{i}", held_out=False)[1].facts
        lengths.add(gold(facts, best_answer(facts)).words)
        for filler in FILLERS:
            plan = Plan((), GREETINGS[0], (), "", HEADS[0], facts.things[:2], filler)
            padded.add(gold(facts, plan.text(facts)).words)
    assert max(lengths) == FREE_WORDS < min(padded)


@pytest.mark.parametrize("flaw", flaw_rates())
def test_every_flaw_costs_and_is_reported_alone(flaw):
    """A word with a twin is mixed up wherever there is one; each costs 4, and a fact that is left
    out 2.
    """
    costs = {"ignoring": 2, "miscounting": 3, "verbose": 1, "rude": 2}
    drawn = (draw_split_request(f"flaw/{i}", held_out=False) for i in range(120))
    able = [(draws, request.facts) for draws, request in drawn if request.facts.confusable()]
    assert len(able) > 60
    for draws, facts in able:
        judged = gold(facts, with_flaw(best_plan(facts), flaw, facts, draws).text(facts))
        assert judged.flaw_names == [flaw]
        cost = costs.get(flaw, 4 * len(facts.confusable()))
        words = 0.1 * max(0, judged.words - FREE_WORDS)
        assert judged.reward == pytest.approx(HIGHEST - cost - words)


def test_rudeness_and_padding_are_known_by_their_first_word():
    for sentences, word in ((RUDE, RUDENESS), (FILLERS, PADDING)):
        assert all(sentence.startswith(f" {word}, ") for sentence in sentences)


def test_a_miscounting_writer_lists_the_number_of_another_request():
    assert all(MISCOUNTED[MISCOUNTED[count]] == count for count in MISCOUNTED)
    assert max(MISCOUNTED) <= min(map(len, ITEMS.values()))
