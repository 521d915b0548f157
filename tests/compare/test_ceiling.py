"""The best that is known: the gold reward as a reward model, and best of n by it."""

import itertools

import pytest
import torch

from helpers.batching import left_pad, right_pad
from helpers.compare.ceiling import GoldReward, best_by_gold, best_of_each_n
from helpers.evaluation import Responses
from helpers.losses import kl_best_of_n
from helpers.rows.embedded import load_rows

TEXTS = (" My sister is fine?", " No.", "", " Should I get a dog or move away?", " No.", " Hm")


def samples(tokenizer, each: int = 1) -> Responses:
    prompts = [prompt for prompt in load_rows("prompts", "heldout", limit=6 // each)]
    prompts = [prompt for prompt in prompts for _ in range(each)]
    ids = [[*tokenizer.encode(text), tokenizer.eos_id] for text in TEXTS]
    return Responses(prompts, ids, list(TEXTS), [True] * 6)


def test_the_gold_reward_scores_in_the_reward_models_place(tokenizer):
    """Its mean is 0 and its standard deviation 1 on the samples; pads may be on either side."""
    written = samples(tokenizer)
    model = GoldReward(written.prompts, tokenizer, written)
    prompts, prompt_mask = left_pad(
        [tokenizer.encode(prompt.prompt) for prompt in written.prompts], tokenizer.pad_id
    )
    ids, mask = right_pad(written.ids, tokenizer.pad_id)
    rows = torch.cat([prompts, ids], 1), torch.cat([prompt_mask, mask], 1)
    completion = torch.cat([torch.zeros_like(prompt_mask), mask], 1)
    scores = model(*rows, completion)
    assert scores.mean().item() == pytest.approx(0, abs=1e-6)
    assert scores.std().item() == pytest.approx(1)
    gold = written.gold
    torch.testing.assert_close(scores, (gold - gold.mean()) / gold.std())
    with pytest.raises(KeyError):
        GoldReward(written.prompts[1:], tokenizer, written)(*rows, completion)


def test_the_frontier_is_the_mean_over_all_groups(tokenizer):
    written = samples(tokenizer, each=3)
    curve = best_by_gold(written, 3)
    assert curve["n"] == [1, 2] and curve["kl"] == [kl_best_of_n(1), kl_best_of_n(2)]
    for n, gold, (low, high) in zip(curve["n"], curve["gold"], curve["gold_ci95"]):
        groups = [
            max(group)
            for row in written.gold.view(2, 3).tolist()
            for group in itertools.combinations(row, n)
        ]
        assert gold == pytest.approx(sum(groups) / len(groups), abs=1e-6)
        assert low <= gold <= high


def test_the_best_by_some_scores(tokenizer):
    written, scores = samples(tokenizer, each=3), torch.tensor([0.5, 2.0, -1.0, 0.0, -3.0, 1.0])
    curve = best_of_each_n(written, scores, 3)
    pairs = list(zip(scores.tolist(), written.gold.tolist()))
    for n, score, gold in zip(curve["n"], curve["score"], curve["gold"]):
        best = [max(g) for row in (pairs[:3], pairs[3:]) for g in itertools.combinations(row, n)]
        assert score == pytest.approx(sum(score for score, _ in best) / len(best), abs=1e-6)
        assert gold == pytest.approx(sum(gold for _, gold in best) / len(best), abs=1e-6)
