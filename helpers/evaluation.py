"""Held-out evaluation: entropy floor, gold reward of sampled responses, bootstrap intervals."""

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

RESAMPLES_AT_ONCE = 100  # in memory
MAX_CACHE = 2**32  # bytes of keys and values in memory at once, in float32


def entropy_floor(logprobs: Sequence[float], tokens: int) -> float:
    """The loss, in nats per token, that no model can beat on average.

    logprobs: the true log-probability of each text, in nats, under the world that generated it;
    tokens: the total number of predicted tokens.
    """
    return -sum(logprobs) / tokens


@dataclass(frozen=True)
class Responses:
    """One response to each of N prompts: token ids without padding, and texts."""

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
        """Whether the facts behind the prompts are known, so that there is a gold reward."""
        return all(prompt.facts is not None for prompt in self.prompts)

    @property
    def gold(self) -> Tensor:
        """Gold rewards (N,)."""
        return torch.tensor([judged.reward for judged in self.judged])

    @property
    def stop_rate(self) -> float:
        """Share of the responses that have an EOS."""
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
        """Stop rate and length, and where facts are known the mean gold reward and flaws."""
        report = {"stop_rate": self.stop_rate, "words": self.words}
        if self.known:
            report |= {"gold_reward": self.gold.mean().item(), "flaws": self.flaws()}
        return report

    def flaw(self, name: str) -> Tensor:
        """1 where a response has the flaw, else 0: (N,) floats."""
        return torch.tensor([float(judged.flaws[name]) for judged in self.judged])


def judge(prompt: Prompt, text: str) -> Judged:
    """The gold reward of a response to a prompt. Raises ValueError if its facts are unknown."""
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
    """Sample one response to each prompt, by default at temperature 1, without top-k or top-p.

    batch_size: prompts at once, or fewer, whose keys and values take MAX_CACHE bytes. dtype: of
    weights and cache during sampling, by default the weights'.
    """
    generator = torch.Generator(model.wte.weight.device).manual_seed(seed)
    encoded = [tokenizer.encode(prompt.prompt) for prompt in prompts]
    longest = max(map(len, encoded), default=0) + max_new_tokens
    row = 2 * 4 * model.config.layers * model.config.channels * longest  # bytes
    at_once = max(1, min(batch_size, MAX_CACHE // row))
    ids, stopped = [], []
    for start in range(0, len(prompts), at_once):
        prompt_ids, prompt_mask = left_pad(encoded[start : start + at_once], tokenizer.pad_id)
        samples = sample(
            model,
            prompt_ids.to(generator.device),
            prompt_mask.to(generator.device),
            max_new_tokens=max_new_tokens,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            temperature=temperature,
            generator=generator,
            dtype=dtype,
        )
        ids += [row[mask].tolist() for row, mask in zip(samples.ids, samples.mask, strict=True)]
        stopped += samples.stopped.tolist()
    texts = [tokenizer.decode([id_ for id_ in row if id_ != tokenizer.eos_id]) for row in ids]
    return Responses(prompts, ids, texts, stopped)


def bootstrap_ci95(values: Tensor, seed: int = 0, resamples: int = 2000) -> list[float]:
    """95% percentile-bootstrap interval of the mean of N independent values: [low, high]; of NaNs
    for a single value, which doesn't say how far another may be.
    """
    if len(values) < 2:
        return [torch.nan, torch.nan]
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
    """95% percentile-bootstrap interval of sum(totals) / sum(counts): [low, high].

    totals, counts: (N,), such as the nats and tokens of N texts. Rows of one group, such as the
    pairs of one prompt, are resampled together because they are not independent; without groups,
    every row is its own group. A single group gives NaNs, as `bootstrap_ci95` does.
    """
    groups = range(len(totals)) if groups is None else groups
    group_index = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    if len(group_index) < 2:
        return [torch.nan, torch.nan]
    index = torch.tensor([group_index[name] for name in groups])  # (N,)
    sums = torch.zeros(len(group_index), 2, dtype=torch.float64)  # total and count of each group
    sums.index_add_(0, index, torch.stack([totals.double(), counts.double()], 1))
    generator, ratios = torch.Generator().manual_seed(seed), []
    for _ in range(0, resamples, RESAMPLES_AT_ONCE):
        draws = torch.randint(len(sums), (RESAMPLES_AT_ONCE, len(sums)), generator=generator)
        total, count = sums[draws].sum(1).unbind(1)
        ratios.append(total / count)
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return torch.quantile(torch.cat(ratios)[:resamples], quantiles).tolist()
