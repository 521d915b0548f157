"""Pairs that differ in one fact, and what a reward model makes of them."""

import re
from types import SimpleNamespace

import pytest
import torch

from data.tldr.gold import HIGHEST, SLOT_OF
from data.tldr.posts import Facts, slot_of
from data.tldr.vocabulary import TWINS
from helpers.compare import facts
from helpers.compare.facts import accuracy_by_fact, fact_pairs


def test_the_rejected_summary_mixes_up_one_fact_and_is_right_in_all_others():
    pairs = fact_pairs(4)
    assert list(pairs) == list(Facts.__dataclass_fields__)
    assert {len(some) for some in pairs.values()} == {4}
    for fact, some in pairs.items():
        assert len({pair.prompt for pair in some}) == 4
        for pair in some:
            chosen, rejected, post = (
                [word for word in re.findall(r"\w+", text) if word in SLOT_OF]
                for text in (pair.chosen, pair.rejected, pair.prompt)
            )
            assert set(chosen) == set(post) and len(chosen) == len(rejected) == 8
            # the best summary names the eight facts in their order
            sides = zip(pairs, chosen, rejected, strict=True)
            ((field, true, false),) = (side for side in sides if side[1] != side[2])
            assert field == fact and SLOT_OF[true] == slot_of(fact)
            assert false == TWINS[true] and false not in post
    assert HIGHEST == 12


def test_the_accuracy_of_each_fact_is_that_of_its_pairs(monkeypatch, tokenizer):
    def margins(model, pairs, pad_id):
        assert pad_id == tokenizer.pad_id
        return torch.tensor([1.0] * len(model.knows & {len(pairs)}) + [-1.0] * 3)[: len(pairs)]

    monkeypatch.setattr(facts, "margins", margins)
    gpt = SimpleNamespace(config=SimpleNamespace(context=256))
    model, pairs = SimpleNamespace(gpt=gpt, knows={2}), fact_pairs(2)
    some = {"who": pairs["who"], "deed": pairs["deed"][:1]}
    assert accuracy_by_fact(model, tokenizer, some) == pytest.approx({"who": 0.5, "deed": 0.0})
