"""The best that is known of an embedded world: the gold reward itself in the reward model's place,
and best of n by it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from helpers.evaluation import Responses, bootstrap_ci95, judge
from helpers.losses import kl_best_of_n
from helpers.records import Prompt
from helpers.tokenizer import Tokenizer


class GoldReward(nn.Module):
    """The gold reward of responses to known prompts, called like a `RewardModel`: for an **oracle**
    PPO, which shows what PPO makes of a perfect reward model.

    samples: responses of the SFT model, whose scores get mean 0 and standard deviation 1.
    """

    def __init__(self, prompts: Sequence[Prompt], tokenizer: Tokenizer, samples: Responses):
        super().__init__()
        self.tokenizer = tokenizer
        self.prompts = {tuple(tokenizer.encode(prompt.prompt)): prompt for prompt in prompts}
        self.mean = samples.gold.mean().item()
        self.std = samples.gold.std().item() or 1.0  # all alike: scores keep the gold reward's unit

    def by_token(self, ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Tensor:
        """What each token adds to the score, (B, T); arguments as in `RewardModel.by_token`. Raises
        KeyError for a prompt that is not known.
        """
        added = torch.zeros(ids.shape)
        eos = self.tokenizer.eos_id
        for row, real, of_completion, to in zip(
            ids, attention_mask.bool(), completion_mask.bool(), added, strict=True
        ):
            prompt = self.prompts[tuple(row[real & ~of_completion].tolist())]
            text = row[of_completion].tolist()
            golds = [0.0]  # so that the sum is the score of the whole text
            for end in range(1, len(text) + 1):
                so_far = self.tokenizer.decode([id_ for id_ in text[:end] if id_ != eos])
                golds.append((judge(prompt, so_far).reward - self.mean) / self.std)
            to[of_completion.cpu()] = torch.tensor(golds).diff()
        return added.to(ids.device)

    def forward(self, ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Tensor:
        """Scores (B,); arguments as in `RewardModel.forward`."""
        return self.by_token(ids, attention_mask, completion_mask).sum(1)


def best_by_gold(samples: Responses, n_max: int) -> dict[str, list]:
    """The **frontier**: best of n by the gold reward itself. As `best_of_each_n`."""
    return best_of_each_n(samples, samples.gold, n_max)


def best_of_each_n(samples: Responses, scores: Tensor, n_max: int) -> dict[str, list]:
    """Score and gold reward of the best of n by some scores, n = 1, 2, 4, ... n_max, for samples
    with n_max responses to each prompt in a row.

    Returns {"n", "kl" (its upper bound, nats), "score", "gold", "gold_ci95"}, a list each. The mean
    is over every group of n of a prompt's samples.
    """
    scores, order = scores.cpu().view(-1, n_max).sort(dim=1)
    gold = samples.gold.view(-1, n_max).gather(1, order).double()  # (prompts, n_max)
    curve: dict[str, list] = {"n": [], "kl": [], "score": [], "gold": [], "gold_ci95": []}
    n = 1
    while n <= n_max:
        # the i-th in the order is the best of C(i, n - 1) of the C(n_max, n) groups
        weights = [math.comb(i, n - 1) / math.comb(n_max, n) for i in range(n_max)]
        share = torch.tensor(weights, dtype=torch.float64)
        score, best = scores.double() @ share, gold @ share  # (prompts,) each
        found = n, kl_best_of_n(n), score.mean().item(), best.mean().item(), bootstrap_ci95(best)
        for column, value in zip(curve.values(), found, strict=True):
            column.append(value)
        n *= 2
    return curve
