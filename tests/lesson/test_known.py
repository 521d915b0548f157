"""What a lesson knows about its rows."""

from dataclasses import replace

import pytest
import torch

from data.draws import Draws
from data.tldr.gold import DETAILS, gold
from data.tldr.posts import Facts, Post, draw_split_post
from data.tldr.summaries import best_summary, draw_summary, flaw_rates
from data.tldr.vocabulary import PLACE, TWINS
from helpers.evaluation import Responses, judge
from helpers.lesson.known import (
    false_values,
    flaw_rates as rates_of,
    flaws_note,
    floor_of,
    show_demonstrations,
    value_losses,
    verdict,
    writers_gold,
)
from helpers.records import Demonstration, Document
from helpers.rows.embedded import load_rows


def test_the_floor_is_counted_per_token_and_only_where_it_is_known():
    known, unknown = Document("a text", -4.0), Document("another")
    assert floor_of([known, Document("a longer text", -3.5)], 5) == 7.5 / 5
    assert floor_of([known, unknown], 5) is None


def test_losses_of_facts_by_whether_their_word_has_a_twin():
    first = [(" My", 9.0), (" aunt", 0.6), (" hid", 9.0), (" June", 0.2), (" Miami", 0.1)]
    found = value_losses([first, [(" cat", 0.8), (".", 9.0), (" Miami", 0.3)]])
    assert found == {"no twin": 0.2, "first with a twin": 0.7, "later ones": 0.2}
    assert set(value_losses([]).values()) == {0.0}


def test_each_flaw_alone_costs_what_the_formula_says():
    """A mixed-up value is a fact less and a false one more, 3 in all, or 4 if it is a detail; a
    post has about two.
    """
    alone, _ = writers_gold(load_rows("prompts", "heldout", limit=200))
    words = [field for post in heldout_posts(200) for field in post.facts.confusable()]
    cost = sum(4 if field in DETAILS else 3 for field in words) / 200
    assert alone["no flaw"] == 12.0
    assert alone["hallucination"] == pytest.approx(12.0 - cost) and 1.5 < len(words) / 200 < 2.5
    assert alone["missing question"] == pytest.approx(9.0)
    assert alone["dropped details"] == pytest.approx(10.0)
    assert writers_gold(load_rows("prompts", "heldout", "sentiment", limit=1)) == ({}, None)


def test_the_writers_are_worse_than_any_flaw_alone():
    alone, mixture = writers_gold(load_rows("prompts", "heldout", limit=200))
    again = torch.tensor(
        [
            gold(post.facts, draw_summary(Draws(f"again/{i}"), post)).reward
            for i, post in enumerate(heldout_posts(200))
        ]
    )
    error = again.std().item() * (2 / len(again)) ** 0.5
    assert mixture == pytest.approx(again.mean().item(), abs=4 * error)
    assert mixture < min(alone.values())


def heldout_posts(number: int) -> list[Post]:
    names = [f"prompts/heldout/{i}" for i in range(number)]
    return [draw_split_post(name, held_out=True)[1] for name in names]


def test_the_writers_rates_are_beside_those_of_the_model():
    prompts = load_rows("prompts", "heldout", limit=4)
    texts = [best_summary(post.facts) for post in heldout_posts(4)]
    responses = Responses(prompts, [[0]] * 4, texts, [True] * 4)
    rates = rates_of(responses)
    assert rates["writers"] == (flaw_rates(), 0)
    assert rates["SFT model"] == (dict.fromkeys(rates["writers"][0], 0.0), 4)


@pytest.mark.parametrize(
    ("track", "usual"), [("sentiment", {"broken": 0.6}), ("instruct", {"rude": 0.6})]
)
def test_every_world_knows_its_writers_rates(track, usual):
    prompts = load_rows("prompts", "heldout", track, limit=2)
    rates = rates_of(Responses(prompts, [[0]] * 2, [" the", " the"], [True] * 2))
    assert rates["writers"][0].items() >= usual.items()
    assert rates["writers"][0].keys() == rates["SFT model"][0].keys()


def test_a_false_value_of_the_post_is_told_from_another():
    drawn = zip(load_rows("prompts", "heldout", limit=20), heldout_posts(20), strict=True)
    some = [(prompt, post) for prompt, post in drawn if post.facts.confusable()][:4]
    prompts, (true, wrong, slip, both) = zip(*some)
    texts = [
        best_summary(true.facts),
        best_summary(wrong.facts.misread(wrong.facts.confusable()[-1:])),
        best_summary(slip.facts) + f" {another_than(slip)}",
        best_summary(both.facts.misread(both.facts.confusable())) + f" {another_than(both)}",
    ]
    shares = false_values(Responses(prompts, [[0]] * 4, texts, [True] * 4))
    assert shares == {"mixed up": 0.5, "another": 0.5}
    elsewhere = load_rows("prompts", "heldout", "sentiment", limit=1)
    assert false_values(Responses(elsewhere, [[0]], [""], [True])) == {}


def another_than(post: Post) -> str:
    """A place that is neither the post's nor the one that it is taken for."""
    true = post.facts.place
    return next(place for place in PLACE if place not in (true, TWINS.get(true)))


def test_the_twin_of_one_option_is_no_mix_up_where_it_is_the_other_one():
    """A post with these two options: to name either is true, and nobody takes one for the other."""
    facts = Facts("boss", "hiding", "piano", "Easter", "Miami", "note", "cat", "dog")
    prompt = replace(load_rows("prompts", "heldout", limit=1)[0], facts=vars(facts))
    texts = [best_summary(facts), best_summary(replace(facts, place="Omaha"))]
    shares = false_values(Responses([prompt] * 2, [[0]] * 2, texts, [True] * 2))
    assert shares == {"mixed up": 0.0, "another": 0.5}


def test_demonstrations_are_shown_with_their_flaws(capsys):
    rows = load_rows("demonstrations", "train", limit=100)
    show_demonstrations(rows)
    shown = " ".join(capsys.readouterr().out.split())  # lines are wrapped
    assert all(row.completion in shown for row in rows[1:4])
    assert f"flaws: {', '.join(rows[1].flaws) or 'none'}" in shown and "hallucination" in shown
    assert flaws_note(Demonstration("a", " b", flaws=[])) == "flaws: none"
    assert flaws_note(Demonstration("a", " b")) == "flaws: not known"


@pytest.mark.parametrize("track", ["tldr", "sentiment", "assistant", "instruct"])
def test_a_verdict_is_in_words(track):
    prompt = load_rows("prompts", "heldout", track, 1)[0]
    said = verdict(prompt, " no words")
    assert said.startswith(f"gold reward {judge(prompt, ' no words').reward:+.2f} (")
    assert "words 2" in said and "=" not in said and "False" not in said
