"""Held-out measurements: entropy floor, sampled responses judged by the gold reward, bootstrap
intervals.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from data.worlds import Judged, gold
from helpers.batching import left_pad
from helpers.generation import sample
from helpers.model import GPT
from helpers.records import Prompt
from helpers.tokenizer import Tokenizer

RESAMPLED_TOGETHER = 100  # resamples in memory at once


def entropy_floor(logprobs: Sequence[float], tokens: int) -> float:
    """Nats per token that no model can go below on average: minus the true log-probability over the
    tokens.

    `logprobs` are the texts' own, in nats, by the world that wrote them; `tokens` counts the
    predicted tokens.
    """
    return -sum(logprobs) / tokens


@dataclass(frozen=True)
class Responses:
    """One response to each of N prompts: token ids without padding, texts, and what the gold reward
    says of them.
    """

    prompts: list[Prompt]
    ids: list[list[int]]
    texts: list[str]
    stopped: list[bool]

    @cached_property
    def judged(self) -> list[Judged]:
        """The gold reward of each response."""
        return [judge(prompt, text) for prompt, text in zip(self.prompts, self.texts, strict=True)]

    @property
    def known(self) -> bool:
        """Whether the facts behind the prompts are known, and with them the gold reward."""
        return all(prompt.facts is not None for prompt in self.prompts)

    @property
    def gold(self) -> Tensor:
        """Gold rewards (N,)."""
        return torch.tensor([judged.reward for judged in self.judged])

    @property
    def stop_rate(self) -> float:
        """Share of the responses that came to their end of text."""
        return sum(self.stopped) / len(self.stopped)

    @property
    def words(self) -> float:
        """Mean length in words."""
        return sum(len(text.split()) for text in self.texts) / len(self.texts)

    def flaws(self) -> dict[str, float]:
        """Share of the responses with each flaw."""
        names = self.judged[0].flaws
        return {
            name: sum(judged.flaws[name] for judged in self.judged) / len(self.judged)
            for name in names
        }

    def subset(self, rows: Sequence[int]) -> "Responses":
        """Some of the responses, with their prompts."""
        columns = (self.prompts, self.ids, self.texts, self.stopped)
        return Responses(*([column[i] for i in rows] for column in columns))

    def report(self) -> dict:
        """What can be said of them: stop rate and length, and the gold reward and flaws where it is
        known.
        """
        report = {"stop_rate": self.stop_rate, "words": self.words}
        if self.known:
            report |= {"gold_reward": self.gold.mean().item(), "flaws": self.flaws()}
        return report

    def flaw(self, name: str) -> Tensor:
        """1 where a response has the flaw, else 0: (N,) floats."""
        return torch.tensor([float(judged.flaws[name]) for judged in self.judged])


def judge(prompt: Prompt, text: str) -> Judged:
    """The gold reward of a text as a response to a prompt. Raises ValueError for a prompt whose
    facts are unknown.
    """
    if prompt.facts is None:
        raise ValueError(
            "the gold reward needs the facts behind a prompt, and this prompt has none"
        )
    return gold(prompt.world, prompt.facts, text)


def respond(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 128,
    dtype: torch.dtype | None = None,
) -> Responses:
    """Sample one response to each prompt (at temperature 1 with nothing cut off, unless told
    otherwise). dtype: that of weights and cache meanwhile, by default the weights'.
    """
    generator = torch.Generator(model.wte.weight.device).manual_seed(seed)
    ids, stopped = [], []
    for start in range(0, len(prompts), batch_size):
        encoded = [
            tokenizer.encode(prompt.prompt) for prompt in prompts[start : start + batch_size]
        ]
        batch, mask = (
            tensor.to(generator.device) for tensor in left_pad(encoded, tokenizer.pad_id)
        )
        samples = sample(
            model,
            batch,
            mask,
            max_new_tokens=max_new_tokens,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            temperature=temperature,
            generator=generator,
            dtype=dtype,
        )
        ids += [row[keep].tolist() for row, keep in zip(samples.ids, samples.mask, strict=True)]
        stopped += samples.stopped.tolist()
    texts = [tokenizer.decode([id_ for id_ in row if id_ != tokenizer.eos_id]) for row in ids]
    return Responses(prompts, ids, texts, stopped)


def bootstrap_ci95(values: Tensor, seed: int = 0, resamples: int = 2000) -> list[float]:
    """95% percentile-bootstrap interval of the mean of N independent values: [low, high]."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(values), (resamples, len(values)), generator=generator)
    means = values.float()[draws].mean(1)
    return torch.quantile(means, torch.tensor([0.025, 0.975])).tolist()


def ratio_ci95(
    totals: Tensor,
    counts: Tensor,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> list[float]:
    """95% percentile-bootstrap interval, [low, high], of sum(totals) / sum(counts); both (N,), of N
    rows.

    Such as nats over tokens. Rows of one group, such as the pairs of one prompt, are drawn
    together, because they are not independent; without groups each row stands for itself.
    """
    places = {
        name: i
        for i, name in enumerate(dict.fromkeys(range(len(totals)) if groups is None else groups))
    }
    index = torch.tensor(
        [places[name] for name in (range(len(totals)) if groups is None else groups)]
    )
    sums = torch.zeros(len(places), 2, dtype=torch.float64)
    # a row for each group
    sums.index_add_(0, index, torch.stack([totals.double(), counts.double()], 1))
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(0, resamples, RESAMPLED_TOGETHER):
        draws = torch.randint(len(sums), (RESAMPLED_TOGETHER, len(sums)), generator=generator)
        total, count = sums[draws].sum(1).unbind(1)
        found.append(total / count)
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return torch.quantile(torch.cat(found)[:resamples], quantiles).tolist()
