"""A verifiable reward in the tldr world: does a summary name one fact of its post, and name it
right?
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data.tldr.posts import Facts
from data.tldr.vocabulary import VALUES
from helpers.records import Prompt
from helpers.tokenizer import Tokenizer


def names_fact(facts: dict, text: str, fact: str) -> bool:
    """Whether a text names this fact's true value, and no other value of it.

    Raises ValueError for a fact that the world does not have.
    """
    if fact not in VALUES:
        raise ValueError(f"no fact {fact!r}: choose from {', '.join(VALUES)}")
    named = {word for word in re.findall(r"[A-Za-z]+", text) if word in VALUES[fact]}
    return bool(named) and named <= Facts(**facts).values(fact)


class Verifier(nn.Module):
    """1 for a response that names the fact right, else 0; called like a `RewardModel`.

    The response earns it with its last token: a checker does not say which word was right.
    """

    def __init__(self, prompts: Sequence[Prompt], tokenizer: Tokenizer, fact: str):
        super().__init__()
        self.tokenizer, self.fact = tokenizer, fact
        self.prompts = {tuple(tokenizer.encode(prompt.prompt)): prompt for prompt in prompts}

    def by_token(self, ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Tensor:
        """What each token adds to the score, (B, T); arguments as in `RewardModel.by_token`. Raises
        KeyError for a prompt that is not known.
        """
        added = torch.zeros(ids.shape)
        rows = zip(ids, attention_mask.bool(), completion_mask.bool(), strict=True)
        for i, (row, real, of_completion) in enumerate(rows):
            prompt = self.prompts[tuple(row[real & ~of_completion].tolist())]
            text = self.tokenizer.decode(
                [id_ for id_ in row[of_completion].tolist() if id_ != self.tokenizer.eos_id]
            )
            last = of_completion.nonzero().max()
            added[i, last] = float(names_fact(prompt.facts, text, self.fact))
        return added.to(ids.device)
