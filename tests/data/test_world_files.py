"""The committed files of `tldr`: writers and pairs as stated, and what data/WORLDS.md says of
them.
"""

import math
import re

import pytest

from data.annotators import preference
from data.tldr import summaries, vocabulary
from data.tldr.gold import gold
from data.tldr.posts import Facts, draw_split_post
from helpers.rows.embedded import load_rows


def test_label_probabilities_come_from_the_gold_reward():
    for i, row in enumerate(load_rows("comparisons", "heldout", limit=300)):
        _, post = draw_split_post(f"comparisons/heldout/{i}", held_out=True)
        assert post.prompt == row.prompt
        p = preference(gold(post.facts, row.chosen).reward, gold(post.facts, row.rejected).reward)
        assert row.probability == pytest.approx(p, abs=1e-4)


def test_the_sides_of_a_pair_differ_in_that_flaw():
    rows = load_rows("comparisons", "heldout")
    flaw_of = {
        "hallucinating": "hallucination",
        "copying": "copying",
        "questionless": "missing_question",
    }
    for i, row in enumerate(rows[:400]):
        if row.kind not in flaw_of:
            continue
        _, post = draw_split_post(f"comparisons/heldout/{i}", held_out=True)
        flaws = [gold(post.facts, text).flaws for text in (row.chosen, row.rejected)]
        found = [{name for name, there in flaw.items() if there} for flaw in flaws]
        assert sorted(found, key=len) == [set(), {flaw_of[row.kind]}]


def test_prompt_rows_carry_the_facts_of_their_post():
    for row in load_rows("prompts", "heldout", limit=100):
        facts = Facts(**row.facts)
        assert facts.held_out()
        said = set(re.findall(r"[A-Za-z]+", row.prompt))
        for slot in vocabulary.SLOTS:
            assert said & set(vocabulary.VALUES[slot]) == facts.values(slot)


# ---------------------------------------------------------------- data/WORLDS.md


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "data/WORLDS.md").read_text(encoding="utf-8")


def test_the_page_states_how_facts_are_told_and_invented(page):
    assert f"each with probability {summaries.DETAIL_SHARE}," in page
    assert f"with probability {summaries.OPTION_SHARE} invents options" in page
    bayes = [
        max(row.probability, 1 - row.probability)
        for row in load_rows("comparisons", "heldout")
        if row.kind == "hallucinating"
    ]
    assert (
        f"hallucinating pairs (a test fits one), where Bayes is about {sum(bayes) / len(bayes):.0%}"
        in page
    )


def test_the_page_shows_a_real_post(page):
    example = load_rows("prompts", "heldout", limit=1)[0].prompt
    assert "".join(f"    {line}\n" if line else "\n" for line in example.split("\n")) in page


def test_invented_options_are_as_often_as_stated():
    """Of the false facts in the one-flaw pairs, OPTION_SHARE are options."""
    options = []
    for row in load_rows("comparisons", "train"):
        if row.kind == "hallucinating":
            chosen, rejected = (
                set(re.findall(r"[A-Za-z]+", text)) for text in (row.chosen, row.rejected)
            )
            options.append(bool((chosen ^ rejected) & set(vocabulary.VALUES["option"])))
    noise = math.sqrt(summaries.OPTION_SHARE * (1 - summaries.OPTION_SHARE) / len(options))
    assert abs(sum(options) / len(options) - summaries.OPTION_SHARE) < 4 * noise
