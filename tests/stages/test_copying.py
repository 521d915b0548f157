"""Practice in copying: rows that can be copied, stand-ins that are in the post, and a model that
learns to do it.
"""

import copy

import pytest
import torch

from helpers.config import SFTConfig
from helpers.model import GPT, GPTConfig
from helpers.pretrain import heldout_loss
from helpers.records import Demonstration, Document
from helpers.rows.common import Unusable
from helpers.stages.copying import AT_ONCE, adapt, copying_rows, sentences, stand_ins, with_titles


class Letters:
    """A tokenizer whose tokens are characters."""

    eos_id, pad_id, vocab_size = 0, 1, 130

    def encode(self, text: str) -> list[int]:
        return [2 + ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(id_ - 2) for id_ in ids if id_ > 1)


LETTERS = Letters()
NAMES = ("Ann", "Bob", "Cid", "Dee", "Eve", "Fay", "Gus", "Hal")
THINGS = ("cat", "dog", "sea")
DOCUMENTS = [
    Document(" ".join(f"{name} saw the {thing} of {name}." for name in NAMES)) for thing in THINGS
]


def post(title: str, text: str) -> Demonstration:
    return Demonstration(f"SUBREDDIT: r/x\n\nTITLE: {title}\n\nPOST: {text}\n\nTL;DR:", " I saw it")


def test_scraps_and_endless_sentences_are_no_sentences():
    assert sentences(
        "Yes. This is one sentence! And is this another? " + "x" * 300 + ". Fine."
    ) == ["This is one sentence!", "And is this another?"]


def test_half_of_a_row_is_the_other_half_in_another_order():
    rows = copying_rows(DOCUMENTS, LETTERS, 600, 100, seed=0)
    moved = 0
    for row in rows:
        first, second = LETTERS.decode(row).split("\n\nTL;DR: ")
        assert (
            sorted(sentences(first)) == sorted(sentences(second))
            and len(sentences(first)) <= AT_ONCE[1]
        )
        moved += first != second
        assert row[-1] == LETTERS.eos_id and len(row) <= 600
    assert moved > len(rows) / 2 and rows == copying_rows(DOCUMENTS, LETTERS, 600, 100, seed=0)
    assert rows != copying_rows(DOCUMENTS, LETTERS, 600, 100, seed=1)
    assert len(copying_rows(DOCUMENTS, LETTERS, 600, 2, seed=0)) == 2
    assert copying_rows(DOCUMENTS, LETTERS, 20, 100, seed=0) == []  # none fits


def test_a_stand_in_is_the_title_or_a_sentence_of_the_post():
    items = [
        post(f"Title {i}", f"First thing {i} happened. Then came the second.") for i in range(40)
    ]
    found = stand_ins(items, seed=0)
    kinds = {item.completion.split()[0] for item in found}
    assert kinds == {"Title", "First", "Then"} and [item.prompt for item in found] == [
        item.prompt for item in items
    ]
    assert all(item.completion[0] == " " and item.completion[1:] in item.prompt for item in found)
    (only_title,) = stand_ins([post("Just a title", "Hm.")], seed=0)
    assert only_title.completion == " Just a title"


def test_the_base_model_learns_all_three_kinds_of_rows(capsys):
    torch.manual_seed(0)
    base = GPT(GPTConfig(LETTERS.vocab_size, 448, 2, 2, 32))
    before = copy.deepcopy(base)
    items = [post(f"Title {i}", "It was a long and quiet day.") for i in range(4)]
    adapt(
        base, items, DOCUMENTS, SFTConfig(copying_rows=6, adapt_epochs=8.0, batch_size=2), LETTERS
    )
    prose = [LETTERS.encode(document.text) for document in DOCUMENTS]
    prompts = [LETTERS.encode(item.prompt) for item in items]
    for rows in (prose, prompts):
        assert (
            heldout_loss(base, rows, LETTERS.pad_id)
            < heldout_loss(before, rows, LETTERS.pad_id) - 1
        )
    printed = capsys.readouterr().out
    assert "copying" in printed and "reading" in printed


def test_something_that_is_no_post_is_named():
    with pytest.raises(Unusable, match="prompt is no Reddit post"):
        stand_ins([Demonstration("hello", " you")], seed=0)


def test_every_post_comes_twice_with_its_summary_and_its_title():
    items = [
        post("A title", "One thing happened to me."),
        post("x" * 400, "Another thing happened."),
    ]
    rows = [
        (LETTERS.encode(item.prompt + item.completion) + [0], len(item.prompt)) for item in items
    ]
    both = with_titles(items, rows, LETTERS, context=600)
    assert both[:2] == rows and len(both) == 3  # the second title does not fit
    ids, length = both[2]
    assert (
        LETTERS.decode(ids[:length]) == items[0].prompt
        and LETTERS.decode(ids[length:]) == " A title"
    )
    assert ids[-1] == LETTERS.eos_id
