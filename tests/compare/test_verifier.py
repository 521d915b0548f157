"""The verifiable reward: which summaries it takes for right."""

import pytest
import torch

from helpers.batching import left_pad, right_pad
from helpers.compare.ceiling import best_of_each_n
from helpers.compare.verifier import Verifier, names_fact
from helpers.evaluation import Responses
from helpers.rows.embedded import load_rows


@pytest.fixture
def prompts():
    return load_rows("prompts", "heldout", limit=2)


def test_right_is_the_true_value_and_no_other(prompts):
    facts = prompts[0].facts
    place, other = facts["place"], "Boston" if facts["place"] != "Boston" else "Omaha"
    assert names_fact(facts, f" It happens in {place}.", "place")
    assert not names_fact(facts, f" In {place}, or in {other}.", "place")
    assert not names_fact(facts, f" In {other}.", "place")
    assert not names_fact(facts, " My sister is fine.", "place")
    assert not names_fact(facts, f" {place}ville", "place")
    assert names_fact(facts, f" Should I {facts['option']} or {facts['other']}?", "option")
    with pytest.raises(ValueError, match="no fact 'city': choose from who, deed"):
        names_fact(facts, "", "city")


def test_the_verifier_pays_with_the_last_token(prompts, tokenizer):
    texts = [f" In {prompts[0].facts['place']}.", " No."]
    ids, mask = right_pad(
        [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts], tokenizer.pad_id
    )
    before, before_mask = left_pad(
        [tokenizer.encode(prompt.prompt) for prompt in prompts], tokenizer.pad_id
    )
    rows = torch.cat([before, ids], 1), torch.cat([before_mask, mask], 1)
    completion = torch.cat([torch.zeros_like(before_mask), mask], 1)
    added = Verifier(prompts, tokenizer, "place").by_token(*rows, completion)
    assert added.sum(1).tolist() == [1.0, 0.0]
    last = completion[0].nonzero().max()
    assert added[0, last] == 1 and rows[0][0, last] == tokenizer.eos_id
    with pytest.raises(KeyError):
        Verifier(prompts[1:], tokenizer, "place").by_token(*rows, completion)


def test_best_of_n_by_other_scores(prompts, tokenizer):
    """The best by the scores, not by the gold reward; of one sample both are the mean."""
    facts = prompts[0].facts
    texts = [" No.", f" My {facts['who']} in {facts['place']}."]
    written = Responses([prompts[0]] * 2, [[], []], texts, [True] * 2)
    assert written.gold[1] > written.gold[0]
    curve = best_of_each_n(written, torch.tensor([1.0, 0.0]), 2)
    assert curve["gold"] == pytest.approx([written.gold.mean().item(), written.gold[0].item()])
