"""The gold reward, worked out by hand."""

import itertools
from dataclasses import replace

import pytest

from data.tldr.gold import DETAILS, FREE_WORDS, HIGHEST, gold
from data.tldr.posts import Facts, draw_split_post
from data.tldr.summaries import (
    BEST,
    FILLERS,
    FLAW_SHARES,
    MAINS,
    NAMED,
    QUESTIONS,
    Plan,
    best_summary,
    with_flaw,
)
from data.tldr.vocabulary import OPTION, TRIED
from helpers.rows.embedded import load_rows

FACTS = Facts("sister", "hiding", "lamp", "May", "Boston", "note", "away", "police")

GOOD = (
    " My sister keeps hiding my lamp since May in Boston, I already left a note."
    " Should I move away or call the police?"
)


def test_gold_of_a_complete_summary_by_hand():
    judged = gold(FACTS, GOOD)  # 8 facts, of which 3 are details, 23 words, a question
    assert (judged.covered, judged.invented, judged.copied, judged.question) == (8, 0, 0, True)
    assert judged.words == len(GOOD.replace(",", "").replace(".", "").split()) == 23
    assert judged.reward == pytest.approx(5 * 1.0 + 3 * 2.0 + 1.0)
    flaws = ("hallucination", "copying", "missing_question", "padding", "dropped_details")
    assert judged.flaws == dict.fromkeys(flaws, False) and judged.flaw_names == []


@pytest.mark.parametrize(
    ("text", "reward", "flaws"),
    [
        ("", 0.0, {"missing_question"}),
        (" My sister keeps hiding my lamp.", 3.0, {"missing_question"}),
        (" My sister keeps hiding my lamp. Should I move away or call the police?", 6.0, set()),
        (" My sister keeps hiding my lamp in Boston.", 5.0, {"missing_question"}),
        (" My sister keeps hiding my lamp in Denver.", 1.0, {"hallucination", "missing_question"}),
        (
            " My sister keeps hiding my lamp?",
            3.0,
            {"missing_question"},
        ),  # a question mark, but no option
        (
            " My brother keeps hiding my lamp. Should I move away or call the police?",
            3.0,
            {"hallucination"},
        ),
        (
            " My sister keeps hiding my lamp. Should I move away or get a dog?",
            3.0,
            {"hallucination"},
        ),
        (
            " My sister keeps hiding my lamp. It was foggy. Should I move away or call the police?",
            5.0,
            {"copying"},
        ),
        (" My brother keeps washing my sofa.", -6.0, {"hallucination", "missing_question"}),
        (
            " My sister keeps hiding my lamp. My sister keeps hiding my lamp.",
            3.0,
            {"missing_question"},
        ),
        (
            " My sister keeps hiding my lamp. Honestly, so much more.",
            2.0,
            {"padding", "missing_question"},
        ),
        (" My brother, my brother, my brother.", -2.0, {"hallucination", "missing_question"}),
        (" foggy foggy windy", -2.0, {"copying", "missing_question"}),
        (
            " Sister LAMP boston may",
            0.0,
            {"missing_question"},
        ),  # key words are read as they are spelled
        (" sisters and lamps", 0.0, {"missing_question"}),  # whole words only
    ],
)
def test_gold_by_hand(text, reward, flaws):
    judged = gold(FACTS, text)
    assert judged.reward == pytest.approx(reward)
    assert set(judged.flaw_names) - {"dropped_details"} == flaws
    assert judged.flaws["dropped_details"] == (judged.dropped > 0)


@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        (GOOD, 0),
        (" My sister keeps hiding my lamp since May in Boston.", 1),
        (" My sister keeps hiding my lamp in Denver.", 2),  # wrong, but not left out
        (" My sister keeps hiding my lamp.", 3),
    ],
)
def test_a_detail_is_dropped_if_none_of_its_values_is_named(text, dropped):
    assert gold(FACTS, text).dropped == dropped


def test_a_comment_is_no_summary():
    comment = GOOD.replace(" My ", " Your ").replace(" my ", " your ")
    assert gold(FACTS, comment).reward == 0
    assert gold(FACTS, comment + " It was foggy.").reward == 0
    assert gold(FACTS, " Your lamp in Denver. It was foggy.").reward == -2
    assert gold(FACTS, comment).comment and not gold(FACTS, GOOD).comment
    for split, number in (("train", 2000), ("heldout", 500)):  # no writer speaks to the author
        for row in load_rows("demonstrations", split, limit=number):
            assert not gold(FACTS, row.completion).comment


def test_gold_charges_words_over_the_limit():
    for fillers, reward in ((10, 1.0), (23, 1.0), (24, 0.9), (30, 1.0 - 0.1 * 7)):
        judged = gold(FACTS, " My sister." + " so" * fillers)
        assert judged.words == 2 + fillers and judged.reward == pytest.approx(reward)


def test_gold_does_not_read_the_order_and_accepts_either_option_first():
    swapped = GOOD.replace("move away or call the police", "call the police or move away")
    assert gold(FACTS, swapped) == gold(FACTS, GOOD)
    words = GOOD.split()
    assert gold(FACTS, " ".join(reversed(words))).reward == gold(FACTS, GOOD).reward


def all_summaries(post):
    """Every summary that the writers can make of a post, without padding or with one filler."""
    details, copied = ((), *NAMED), ("", f" {post.small_talk}")
    confusable = post.facts.confusable()
    wrong = {(), confusable, *((field,) for field in confusable)}
    choices = wrong, MAINS, details, copied, ("", FILLERS[0]), ("", *QUESTIONS)
    return [Plan(*choice).text(post) for choice in itertools.product(*choices)]


def test_no_summary_is_better_than_the_best():
    """The best one covers everything, has no flaw and costs no word, in whatever wording."""
    for i in range(20):
        _, post = draw_split_post(f"best/{i}", held_out=False)
        rewards = {text: gold(post.facts, text).reward for text in all_summaries(post)}
        assert len(rewards) >= 288
        assert max(rewards.values()) == gold(post.facts, best_summary(post.facts)).reward == HIGHEST
        for text, reward in rewards.items():
            assert (reward == HIGHEST) == (gold(post.facts, text).flaw_names == [])
    assert HIGHEST == 12.0


def test_the_longest_facts_fit_in_the_words_that_cost_nothing():
    tried, other, option = *longest(TRIED, 1), *longest(OPTION, 2)
    facts = Facts("sister", "hiding", "lamp", "May", "Boston", tried, option, other)
    complete = [
        replace(BEST, main=main, question=question) for main in MAINS for question in QUESTIONS
    ]
    assert max(gold(facts, plan.fill(facts)).words for plan in complete) == FREE_WORDS


def longest(phrases: dict[str, str], number: int) -> list[str]:
    """The key words of the phrases with the most words."""
    return sorted(phrases, key=lambda key: -len(phrases[key].split()))[:number]


@pytest.mark.parametrize("flaw", [*FLAW_SHARES, "dropped_details"])
def test_every_flaw_costs_and_is_reported_alone(flaw):
    """A word with a twin is mixed up wherever there is one; each costs 2, and what it hides 1, or 2
    if it is a detail.
    """
    drawn = (draw_split_post(f"flaw/{i}", held_out=False) for i in range(120))
    able = [(draws, post) for draws, post in drawn if post.facts.confusable()]
    assert len(able) > 90
    for draws, post in able:
        judged = gold(post.facts, with_flaw(BEST, flaw, post, draws).text(post))
        assert judged.flaw_names == [flaw] and judged.reward < HIGHEST
        mixed_up = post.facts.confusable() if flaw == "hallucination" else ()
        assert judged.invented == len(mixed_up)
        if mixed_up:
            cost = sum(4 if field in DETAILS else 3 for field in mixed_up)
            assert judged.reward == pytest.approx(HIGHEST - cost)
