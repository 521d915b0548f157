"""A small problem whose best policy is known exactly, for PPO and its alternatives."""

import copy
from dataclasses import asdict
from itertools import product

import torch
from torch import Tensor, nn

from data.tldr.posts import Facts
from helpers.batching import left_pad, right_pad
from helpers.config import PPOConfig
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Prompt
from helpers.rollouts import Models
from tests.support.tensors import shaken

# Eight tokens, responses of at most three: every response can be listed, so the best policy under
# the KL penalty is known: pi*(y) = ref(y) exp(score(y) / kl_coef) / Z, with objective kl_coef * log
# Z (Ziegler et al. 2019, section 2.1).

EOS, PAD, LETTERS, LONGEST = 0, 1, (2, 3, 4, 5, 6, 7), 3
TOY_FACTS = asdict(Facts("sister", "hiding", "piano", "May", "Boston", "note", "away", "police"))
QUESTIONS = {"one": [2], "two": [5, 6]}  # of two lengths, so that one is padded


class ToyTokenizer:
    eos_id, pad_id = EOS, PAD

    def encode(self, text: str) -> list[int]:
        return QUESTIONS[text]

    def decode(self, ids: list[int]) -> str:
        return ""


class ToyGPT(GPT):
    """Never predicts a pad, so that its probabilities are those of the sampler."""

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden).clone()
        logits[..., PAD] = -50.0
        return logits


class ToyReward(nn.Module):
    """A score for each token at each place, depending on the question; it reads the end of text
    too.
    """

    def __init__(self):
        super().__init__()
        table = torch.randn(2, LONGEST, 8, generator=torch.Generator().manual_seed(0))
        self.table = table

    def by_token(self, ids: Tensor, mask: Tensor, _: Tensor | None) -> Tensor:
        question = (ids[:, 1] == QUESTIONS["two"][-1]).long()  # prompts are two tokens wide
        response, real = ids[:, 2:], mask[:, 2:]
        place = torch.arange(response.size(1))
        added = self.table[question[:, None], place, response] * real
        return torch.cat([torch.zeros_like(ids[:, :2]), added], dim=1)


def every_response() -> list[list[int]]:
    ended = [[*letters, EOS] for n in range(LONGEST) for letters in product(LETTERS, repeat=n)]
    return ended + [list(letters) for letters in product(LETTERS, repeat=LONGEST)]


class Exact:
    """All responses to a question, with their scores and reference log-probabilities."""

    def __init__(self, question: str, models: Models, config: PPOConfig):
        self.prompt, self.kl_coef = QUESTIONS[question], config.kl_coef
        self.responses = every_response()
        prompts, mask = left_pad([QUESTIONS["two"], self.prompt], PAD)
        responses, real = right_pad(self.responses, PAD)
        ids = torch.cat([prompts[1:].expand(len(responses), -1), responses], 1)
        scores = models.reward.by_token(
            ids, torch.cat([mask[1:].expand(len(real), -1), real], 1), None
        ).sum(1)
        stopped = torch.tensor([response[-1] == EOS for response in self.responses])
        self.scores = torch.where(stopped, scores, config.missing_eos_score).double()
        self.ref = self.logprobs(models.reference)

    @torch.no_grad()
    def logprobs(self, model: GPT) -> Tensor:
        """Of each whole response, (responses,): a plain forward over each, without padding."""
        found = []
        for response in self.responses:
            logprobs = model(torch.tensor([self.prompt + response]))[0].double().log_softmax(-1)
            before = len(self.prompt) - 1
            found.append(sum(logprobs[before + t, token] for t, token in enumerate(response)))
        return torch.stack(found)

    def objective(self, logprobs: Tensor) -> float:
        """E[score - kl_coef log(pi / ref)], the sum over all responses."""
        return (logprobs.exp() * (self.scores - self.kl_coef * (logprobs - self.ref))).sum().item()

    def optimum(self) -> Tensor:
        """log pi*."""
        return (self.ref + self.scores / self.kl_coef).log_softmax(0)

    def best(self) -> float:
        return self.kl_coef * (self.ref + self.scores / self.kl_coef).logsumexp(0).item()


def toy_models() -> Models:
    """An untrained policy, its reference, the toy's scores and a value model."""
    torch.manual_seed(0)
    gpt = GPTConfig(vocab_size=8, context=8, layers=1, heads=2, channels=32)
    reference = shaken(ToyGPT(gpt), 0.1).requires_grad_(False)
    policy, value = copy.deepcopy(reference).requires_grad_(), RewardModel(GPT(gpt))
    return Models(policy, reference, ToyReward(), value)


def toy_prompts() -> list[Prompt]:
    """Both questions, many times."""
    return [Prompt(question, TOY_FACTS) for question in QUESTIONS] * 128
