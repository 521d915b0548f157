"""Completions to score with a reward model: where to start from, and the score after each token."""

import re
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from data.tldr.gold import SMALL_TALK_WORDS
from data.tldr.posts import Facts
from data.tldr.summaries import BEST, FILLERS
from helpers.model import RewardModel
from helpers.records import Comparison, Prompt
from helpers.tokenizer import Tokenizer


def starts_of(item: Prompt | Comparison) -> dict[str, str]:
    """Completions to start from: versions of a known post's summary, or the two of a comparison."""
    if isinstance(item, Comparison):
        return {"chosen": item.chosen, "rejected": item.rejected}
    return summary_versions(item)


def summary_versions(prompt: Prompt) -> dict[str, str]:
    """Summaries of a post to start from: a good one, and the same one with each flaw."""
    facts = Facts(**prompt.facts)
    sentences = re.split(r"(?<=[.?]) ", prompt.prompt.split("POST: ")[1].split("\n")[0])
    small_talk = next(s for s in sentences if SMALL_TALK_WORDS & set(re.findall(r"[A-Za-z]+", s)))
    plans = {
        "small talk copied": replace(BEST, copied=f" {small_talk}"),
        "question left out": replace(BEST, question=""),
        "padded out": replace(BEST, filler=FILLERS[0]),
        "details dropped": replace(BEST, details=()),
    }
    versions = {"good": BEST.fill(facts)}
    if mixed_up := facts.confusable()[:1]:
        versions["a fact mixed up"] = BEST.fill(facts.misread(mixed_up))
    return versions | {name: plan.fill(facts) for name, plan in plans.items()}


@torch.no_grad()
def score_by_token(
    model: RewardModel, tokenizer: Tokenizer, prompt: str, completion: str
) -> tuple[list[str], Tensor]:
    """Pieces of the completion with its end of text (R,), and the score after each of them (R +
    1,): what the model would give if the text ended there.

    The first score is that at the end of the prompt. Raises ValueError when the text does not fit
    the context.
    """
    start, response = tokenizer.encode(prompt), tokenizer.encode(completion) + [tokenizer.eos_id]
    ids = torch.tensor([start + response], device=model.score.weight.device)
    hidden = model.gpt.hidden(ids)[0, len(start) - 1 :]  # (R + 1, C)
    logprobs = model.gpt.logprobs(hidden[:-1], ids[0, len(start) :])  # (R,)
    so_far = F.pad(logprobs.cumsum(0), (1, 0))  # (R + 1,)
    scores = model.combine(model.head(hidden), so_far)
    return [*tokenizer.pieces(completion), "END"], scores.cpu()
