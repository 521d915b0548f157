"""What a lesson knows about its rows."""

import pytest

from data.tldr.posts import draw_split_post
from data.tldr.summaries import best_summary, flaw_rates
from helpers.evaluation import Responses
from helpers.lesson.known import flaw_rates as rates_of, floor_of, show_writers, writers_gold
from helpers.records import Document
from helpers.rows.embedded import load_rows


def test_the_floor_is_counted_per_token_and_only_where_it_is_known():
    known, unknown = Document("a text", -4.0), Document("another")
    assert floor_of([known, Document("a longer text", -3.5)], 5) == 7.5 / 5
    assert floor_of([known, unknown], 5) is None


def test_each_flaw_alone_costs_what_the_formula_says():
    alone, mixture = writers_gold(load_rows("prompts", "heldout", limit=200))
    assert alone["no flaw"] == 5.0 and alone["hallucination"] == pytest.approx(2.5)
    assert alone["missing question"] == pytest.approx(3.0)
    assert mixture < min(alone.values()) - 1
    assert writers_gold(load_rows("prompts", "heldout", "sentiment", limit=1)) == ({}, None)


def test_the_writers_rates_are_beside_those_of_the_model():
    prompts = load_rows("prompts", "heldout", limit=4)
    posts = [draw_split_post(f"prompts/heldout/{i}", held_out=True)[1] for i in range(4)]
    texts = [best_summary(post.facts) for post in posts]
    responses = Responses(prompts, [[0]] * 4, texts, [True] * 4)
    rates = rates_of(responses, responses)
    assert rates["writers"] == (flaw_rates(), 0)
    assert rates["SFT model"] == (dict.fromkeys(rates["writers"][0], 0.0), 4)


def test_demonstrations_are_shown_with_their_flaws(capsys):
    rows = load_rows("demonstrations", "train", limit=100)
    show_writers(rows)
    shown = capsys.readouterr().out
    assert all(row.completion in shown for row in rows[1:4])
    assert f"flaws: {', '.join(rows[1].flaws) or 'none'}" in shown and "hallucination" in shown
