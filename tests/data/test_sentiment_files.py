"""The committed rows of `sentiment`: split, labels, pairs and writers as stated, and what
data/WORLDS.md says.
"""

import math
import re

import pytest

from data.annotators import preference
from data.draws import Draws
from data.sentiment.gold import gold, opinions, positive_probability
from data.sentiment.sentences import Facts, Film, draw_beginning, draw_split_beginning
from data.sentiment.writers import CAREFUL, WRITERS
from helpers.rows.embedded import load_rows, load_tokenizer

# ---------------------------------------------------------------- the committed rows


def test_a_tenth_of_the_beginnings_is_held_out():
    for held_out in (True, False):
        assert all(
            draw_split_beginning(f"split/{i}", held_out)[1].facts.held_out() == held_out
            for i in range(100)
        )
    held_out = [draw_beginning(Draws(i), Film()).facts.held_out() for i in range(3000)]
    assert 0.07 < sum(held_out) / len(held_out) < 0.13


def test_no_training_document_begins_like_a_heldout_prompt():
    heldout = {
        row.prompt
        for kind in ("demonstrations", "labels", "comparisons", "prompts")
        for row in load_rows(kind, "heldout", "sentiment")
    }
    for row in load_rows("documents", "train", "sentiment"):
        said = re.sub(r"^film(?: news)?: |\n.*", "", row.text, flags=re.DOTALL)
        for sentence in re.findall(r"[^.]+\.", said):
            parts = sentence.split()
            assert not heldout & {" ".join(parts[:number]) for number in range(4, 8)}


def test_labels_come_as_often_as_their_probability_says():
    rows = load_rows("labels", "train", "sentiment") + load_rows("labels", "heldout", "sentiment")
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row in rows:
        p = positive_probability(row.prompt + row.completion)
        assert row.probability == pytest.approx(p if row.label else 1 - p, abs=1e-4)
        bins.setdefault(int(p * 10), []).append((p, row.label == 1))
    assert len(bins) == 10
    for labelled in bins.values():
        expected = sum(p for p, _ in labelled)
        noise = math.sqrt(sum(p * (1 - p) for p, _ in labelled))
        assert abs(sum(label for _, label in labelled) - expected) < 4 * noise + 0.5


def test_pairs_are_labelled_by_the_gold_reward():
    for row in load_rows("comparisons", "heldout", "sentiment", limit=500):
        facts = Facts(row.prompt)
        p = preference(gold(facts, row.chosen).reward, gold(facts, row.rejected).reward)
        assert row.probability == pytest.approx(p, abs=1e-4)


def test_after_a_concession_one_careful_writer_goes_on():
    rows = [
        row
        for row in load_rows("demonstrations", "train", "sentiment")
        if row.prompt.startswith(("although", "despite"))
    ]
    assert len(rows) > 500
    for row in rows:
        careful = "cold" if opinions(row.prompt)[0].value > 0 else "warm"
        assert row.writer in (careful, *(set(WRITERS) - set(CAREFUL)))


def test_prompts_leave_the_sentiment_open():
    """Over prompts the completions are as often positive as negative; and most prompts go either
    way.
    """
    rows = load_rows("prompts", "heldout", "sentiment")
    conceding = [row.prompt for row in rows if row.prompt.startswith(("although", "despite"))]
    assert 0.05 < len(conceding) / len(rows) < 0.2
    assert all(row.facts == {"beginning": row.prompt} for row in rows)
    rows = load_rows("demonstrations", "train", "sentiment")
    positive = [positive_probability(row.prompt + row.completion) for row in rows]
    assert sum(positive) / len(positive) == pytest.approx(
        0.5, abs=4 * 0.4 / math.sqrt(len(positive))
    )


# ---------------------------------------------------------------- data/WORLDS.md


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "data/WORLDS.md").read_text(encoding="utf-8")


def test_the_page_states_the_ceilings(page):
    for kind in ("labels", "comparisons"):
        rows = load_rows(kind, "heldout", "sentiment")
        bayes = sum(max(row.probability, 1 - row.probability) for row in rows) / len(rows)
        assert f"| `{kind}` | Bayes accuracy | {bayes:.3f} |" in page
    tokenizer = load_tokenizer("sentiment")
    rows = load_rows("documents", "heldout", "sentiment")
    # with the end of text, without the first token
    tokens = sum(len(tokenizer.encode(row.text)) for row in rows)
    assert (
        f"| `documents` | entropy floor | {-sum(row.logprob for row in rows) / tokens:.3f} |"
        in page
    )
    rows = load_rows("demonstrations", "heldout", "sentiment")
    tokens = sum(len(tokenizer.encode(row.completion)) + 1 for row in rows)
    assert (
        f"| `demonstrations` | entropy floor | {-sum(row.logprob for row in rows) / tokens:.3f} |"
        in page
    )


def test_the_page_shows_real_rows(page):
    for row in load_rows("demonstrations", "heldout", "sentiment", limit=3):
        assert f"    {row.prompt} |{row.completion}\n" in page
