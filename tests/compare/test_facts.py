"""Pairs that differ in one fact, and what a reward model makes of them."""

import re
from types import SimpleNamespace

import pytest
import torch

from data.tldr.gold import HIGHEST, SLOT_OF
from data.tldr.posts import MENTIONS, slot_of
from helpers.compare import facts
from helpers.compare.facts import accuracy_by_fact, fact_pairs


def test_the_rejected_summary_says_what_the_post_mentions_in_passing():
    pairs = fact_pairs(4)
    assert list(pairs) == list(MENTIONS) and {len(some) for some in pairs.values()} == {4}
    for fact, some in pairs.items():
        for pair in some:
            chosen, rejected = (set(re.findall(r"\w+", t)) for t in (pair.chosen, pair.rejected))
            false = [word for word in rejected - chosen if word in SLOT_OF]
            assert [SLOT_OF[word] for word in false] == [slot_of(fact)] and false[0] in pair.prompt
    assert HIGHEST == 5


def test_the_accuracy_of_each_fact_is_that_of_its_pairs(monkeypatch, tokenizer):
    def margins(model, pairs, pad_id):
        assert pad_id == tokenizer.pad_id
        return torch.tensor([1.0] * len(model.knows & {len(pairs)}) + [-1.0] * 3)[: len(pairs)]

    monkeypatch.setattr(facts, "margins", margins)
    gpt = SimpleNamespace(config=SimpleNamespace(context=256))
    model, pairs = SimpleNamespace(gpt=gpt, knows={2}), fact_pairs(2)
    some = {"who": pairs["who"], "deed": pairs["deed"][:1]}
    assert accuracy_by_fact(model, tokenizer, some) == pytest.approx({"who": 0.5, "deed": 0.0})
