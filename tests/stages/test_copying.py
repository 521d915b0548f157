"""Practice in copying: rows that can be copied, pseudo-summaries that are in the post, and a model
that learns to do it.
"""

import copy

import pytest
import torch

from helpers.config import SFTConfig
from helpers.model import GPT, GPTConfig
from helpers.pretrain import heldout_loss
from helpers.records import Demonstration, Document
from helpers.rows.common import Unusable
from helpers.stages.copying import (
    AT_ONCE,
    adapt,
    copying_rows,
    pseudo_summaries,
    sentences,
    with_titles,
)


class Letters:
    """A tokenizer whose tokens are characters."""

    eos_id, pad_id, vocab_size = 0, 1, 130

    def encode(self, text: str) -> list[int]:
        return [2 + ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(id_ - 2) for id_ in ids if id_ > 1)


LETTERS = Letters()
NAMES = ("Ann", "Bob", "Cid", "Dee", "Eve", "Fay", "Gus", "Hal")
DOCUMENTS = [
    Document(" ".join(f"{name} saw the {thing} of {name}." for name in NAMES))
    for thing in ("cat", "dog", "sea")
]


def post(title: str, text: str) -> Demonstration:
    return Demonstration(f"SUBREDDIT: r/x\n\nTITLE: {title}\n\nPOST: {text}\n\nTL;DR:", " I saw it")


def practice(rows: int = 100, context: int = 600, seed: int = 0) -> list[list[int]]:
    return copying_rows(DOCUMENTS, LETTERS, context, rows, seed)


def test_scraps_and_endless_sentences_are_no_sentences():
    text = "Yes. This is one sentence! And is this another? " + "x" * 300 + ". Fine."
    assert sentences(text) == ["This is one sentence!", "And is this another?"]


def test_half_of_a_row_is_the_other_half_in_another_order():
    rows, moved = practice(), 0
    for row in rows:
        first, second = LETTERS.decode(row).split("\n\nTL;DR: ")
        assert sorted(sentences(first)) == sorted(sentences(second))
        assert len(sentences(first)) <= AT_ONCE[1]
        moved += first != second
        assert row[-1] == LETTERS.eos_id and len(row) <= 600
    assert moved > len(rows) / 2 and rows == practice() != practice(seed=1)
    assert len(practice(rows=2)) == 2 and practice(context=20) == []  # none fits


def test_a_pseudo_summary_is_the_title_or_a_sentence_of_the_post():
    text = "First thing {} happened. Then came the second."
    items = [post(f"Title {i}", text.format(i)) for i in range(40)]
    made = pseudo_summaries(items, seed=0)
    assert {item.completion.split()[0] for item in made} == {"Title", "First", "Then"}
    assert [item.prompt for item in made] == [item.prompt for item in items]
    assert all(item.completion[0] == " " and item.completion[1:] in item.prompt for item in made)
    (only_title,) = pseudo_summaries([post("Just a title", "Hm.")], seed=0)
    assert only_title.completion == " Just a title"
    with pytest.raises(Unusable, match="prompt is no Reddit post"):
        pseudo_summaries([Demonstration("hello", " you")], seed=0)


def test_the_base_model_learns_all_three_kinds_of_rows(capsys):
    torch.manual_seed(0)
    base = GPT(GPTConfig(LETTERS.vocab_size, 448, 2, 2, 32))
    before = copy.deepcopy(base)
    items = [post(f"Title {i}", "It was a long and quiet day.") for i in range(4)]
    config = SFTConfig(copying_rows=6, adapt_epochs=8.0, batch_size=2)
    adapt(base, items, DOCUMENTS, config, LETTERS)
    texts = [document.text for document in DOCUMENTS], [item.prompt for item in items]
    for rows in (list(map(LETTERS.encode, part)) for part in texts):
        after, start = (heldout_loss(model, rows, LETTERS.pad_id) for model in (base, before))
        assert after < start - 1
    printed = capsys.readouterr().out
    assert "copying" in printed and "reading" in printed


def test_every_post_comes_twice_with_its_summary_and_its_title():
    items = [post("A title", "One thing happened to me."), post("x" * 400, "Another thing.")]
    rows = [
        (LETTERS.encode(item.prompt + item.completion) + [0], len(item.prompt)) for item in items
    ]
    both = with_titles(items, rows, LETTERS, context=600)
    assert both[:2] == rows and len(both) == 3  # the second title does not fit
    ids, length = both[2]
    assert LETTERS.decode(ids[:length]) == items[0].prompt
    assert LETTERS.decode(ids[length:]) == " A title" and ids[-1] == LETTERS.eos_id
