"""The reward model: where the score is read, what is kept, how values are normalised."""

import math

import pytest
import torch

from helpers.batching import left_pad, right_pad
from helpers.model import GPT, GPTConfig, RewardModel, last_real_token
from tests.support.tiny_models import ROWS, tiny


def tiny_reward(seed: int = 0) -> RewardModel:
    return RewardModel(tiny(seed=seed))


def plain_score(model: RewardModel, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """The score of one completion, from the definition."""
    hidden = model.gpt.hidden(torch.tensor([prompt + completion]))[0]  # (T, C)
    logprobs = model.gpt.logits(hidden).log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt + completion) - 1)
    total = sum(logprobs[t, token] for t, token in zip(places, completion, strict=True))
    head = model.score(hidden[-1])[0] - model.head_mean
    return head + model.surprise_weight * (total - model.logprob_mean)


@pytest.mark.parametrize("pad", [left_pad, right_pad])
def test_the_score_is_the_head_and_the_weighted_log_probability(pad):
    model = tiny_reward()
    model.head_mean.fill_(0.7)
    model.logprob_mean.fill_(-9.0)
    lengths = torch.tensor([len(row) // 3 + 1 for row in ROWS])[:, None]
    ids, mask = pad(ROWS, 1)
    completion = mask & (mask.cumsum(1) > lengths)
    with torch.no_grad():
        alone = [plain_score(model, row[:n], row[n:]) for row, n in zip(ROWS, lengths[:, 0])]
    for of in (mask, mask.long()):
        scores = model(ids, of, completion)
        torch.testing.assert_close(scores, torch.stack(alone), atol=1e-4, rtol=1e-5)
    assert scores.dtype == torch.float32


def test_a_surprise_weight_of_0_is_a_scalar_head_and_stays_one():
    model = RewardModel(tiny(), 0.0)
    ids, mask = right_pad(ROWS, 1)
    scores = model(ids, mask, mask)
    scores.sum().backward()
    alone = torch.stack([model.values(torch.tensor([row]))[0, -1] for row in ROWS])
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=1e-5)
    assert model.surprise_weight == 0 and model.surprise_weight.grad is None


def test_last_real_token_on_either_side():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 1]])
    assert last_real_token(mask).tolist() == [1, 3, 3, 0, 3]
    assert last_real_token(mask.bool()).tolist() == [1, 3, 3, 0, 3]


def test_values_are_the_score_head_on_the_hidden_vectors():
    model = tiny_reward()
    ids = torch.randint(0, 97, (2, 9))
    torch.testing.assert_close(model.values(ids), model.score(model.gpt.hidden(ids)).squeeze(-1))
    with torch.autocast("cpu", torch.bfloat16):
        assert model.values(ids).dtype == torch.float32


@pytest.mark.parametrize(
    "keep", [torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0]]).bool(), (slice(None), slice(1, -1))]
)
def test_kept_vectors_are_those_of_the_whole_pass(keep):
    model = RewardModel(GPT(GPTConfig(50, 16, 2, 2, 16)))
    ids = torch.randint(50, (2, 4))
    torch.testing.assert_close(model.gpt.hidden(ids, keep=keep), model.gpt.hidden(ids)[keep])
    torch.testing.assert_close(model.values(ids, keep=keep), model.values(ids)[keep])


def test_score_head_starts_at_one_over_root_of_channels_plus_one():
    torch.manual_seed(0)
    weight = RewardModel(GPT(GPTConfig(50, 8, 1, 4, 2048))).score.weight
    assert weight.std().item() == pytest.approx(1 / math.sqrt(2049), rel=0.05)


def test_normalise_changes_every_score_and_nothing_else():
    model = tiny_reward()
    ids, mask = right_pad(ROWS, 1)
    before, state = model(ids, mask, mask), set(model.state_dict())
    heads, logprobs = model.head_and_logprobs(ids, mask, mask)
    logprobs = logprobs.sum(1)
    mean, std = model.normalise(heads[1:], logprobs[1:])
    assert (mean, std) == pytest.approx((before[1:].mean().item(), before[1:].std().item()))
    after = model(ids, mask, mask)
    torch.testing.assert_close(after, (before - mean) / std, atol=1e-5, rtol=1e-5)
    assert set(model.state_dict()) == state
    heads, logprobs = model.head_and_logprobs(ids, mask, mask)
    logprobs = logprobs.sum(1)
    assert heads[1:].mean().item() == pytest.approx(0, abs=1e-5)  # where the value model starts
    model.normalise(heads, logprobs)  # again, on others
    assert model(ids, mask, mask).std().item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="standard deviation"):
        model.normalise(heads[:1].expand(3), logprobs[:1].expand(3))
