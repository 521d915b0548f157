"""The reward model: where the score is read, what is kept, how values are normalised."""

import math

import pytest
import torch

from helpers.batching import left_pad, right_pad
from helpers.model import GPT, GPTConfig, RewardModel, last_real_token
from tests.support.tiny_models import ROWS, tiny


def tiny_reward(seed: int = 0) -> RewardModel:
    return RewardModel(tiny(seed=seed))


@pytest.mark.parametrize("pad", [left_pad, right_pad])
def test_the_score_is_the_value_at_the_last_real_token(pad):
    model = tiny_reward()
    ids, mask = pad(ROWS, 1)
    alone = torch.stack([model.values(torch.tensor([row]))[0, -1] for row in ROWS])
    torch.testing.assert_close(model(ids, mask), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(ids, mask.long()), alone, atol=1e-5, rtol=1e-5)
    assert model(ids, mask).dtype == torch.float32


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


def test_a_shared_prompt_gives_the_scores_of_separate_rows():
    """One row holds prompt, chosen and rejected; the mask hides the chosen tokens from the rejected
    ones.
    """
    prompt, chosen, rejected = [3, 4, 5, 6], [7, 8, 9], [10, 11]
    P, C, R = len(prompt), len(chosen), len(rejected)
    shown = torch.ones(1, P + C + R, P + C + R, dtype=torch.bool)
    shown[:, P + C :, P : P + C] = False
    positions = torch.tensor([[*range(P + C), *range(P, P + R)]])
    for attention in ("explicit", "sdpa"):
        model = tiny_reward()
        model.gpt.attention = attention
        values = model.values(torch.tensor([prompt + chosen + rejected]), shown, positions)[0]
        both = torch.stack([values[P + C - 1], values[-1]])
        apart = model(*right_pad([prompt + chosen, prompt + rejected], 1))
        torch.testing.assert_close(both, apart, atol=1e-5, rtol=1e-5)


def test_normalise_changes_every_value_and_nothing_else():
    model = tiny_reward()
    ids = torch.randint(0, 97, (4, 20))
    before, state = model.values(ids), set(model.state_dict())
    mean, std = before.mean().item() + 3, before.std().item() * 2
    model.normalise(mean, std)
    torch.testing.assert_close(model.values(ids), (before - mean) / std, atol=1e-5, rtol=1e-5)
    assert set(model.state_dict()) == state
    for std in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="std"):
            model.normalise(0.0, std)
