"""Responses of policies to the same held-out prompts, with the reward model's scores."""

from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.config import PPOConfig
from helpers.evaluation import Responses, respond
from helpers.losses import missing_eos_scores
from helpers.model import GPT
from helpers.records import Prompt
from helpers.reward import score_responses
from helpers.rollouts import Models
from helpers.tokenizer import Tokenizer

GREEDY = ", greedy"  # behind a policy's name: at temperature 0, the cheapest rival of training
TEMPERATURES = (1.0, 0.7, 0.5, 0.0)


def name_at(policy: str, temperature: float) -> str:
    """A policy's name in tables, when it samples at a temperature."""
    cooled = GREEDY if temperature == 0 else f", T = {temperature}"
    return policy if temperature == 1 else policy + cooled


@dataclass(frozen=True)
class Sampler:
    """Samples and scores responses of any policy to its prompts."""

    models: Models
    tokenizer: Tokenizer
    prompts: list[Prompt]
    config: PPOConfig  # of it: response_tokens, missing_eos_score, seed
    dtype: torch.dtype | None = None  # that the policies sample in

    def sample(self, model: GPT, times: int = 1, temperature: float = 1.0) -> Responses:
        """`times` responses of a model to each prompt; temperature 0 is greedy."""
        tokens, seed = self.config.response_tokens, self.config.seed
        prompts = [prompt for prompt in self.prompts for _ in range(times)]
        sampling = {"max_new_tokens": tokens, "seed": seed, "dtype": self.dtype}
        return respond(model, self.tokenizer, prompts, temperature=temperature, **sampling)

    def scores(self, responses: Responses) -> Tensor:
        """The reward model's score of each response (N,), with missing ends replaced."""
        scores = score_responses(self.models.reward, self.tokenizer, responses)
        stopped = torch.tensor(responses.stopped)
        return missing_eos_scores(scores, stopped, self.config.missing_eos_score)

    def best_of(self, n: int) -> Responses:
        """The response with the highest score among n samples of the SFT model, per prompt."""
        samples = self.sample(self.models.reference, n)
        best = self.scores(samples).view(-1, n).argmax(1).tolist()
        return samples.subset([row * n + place for row, place in enumerate(best)])
