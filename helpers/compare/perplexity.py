"""How surprised a reference model is by responses: nats and perplexity per response token."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.batching import batch_plan, right_pad
from helpers.evaluation import ratio_ci95
from helpers.model import GPT
from helpers.records import Prompt
from helpers.tokenizer import Tokenizer


def response_nats(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    ids: list[list[int]],
    batch_size: int = 16,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """- log p(response | prompt) in nats under the model at a temperature above 0, and the number
    of tokens, for each response: (N,) and (N,).

    ids: the tokens of each response, its end of text included where it has one (`Responses.ids`).
    Prompt tokens are read but not counted. Raises ValueError for lists of different lengths, an
    empty prompt, or a response without a token.
    """
    if len(prompts) != len(ids):
        raise ValueError(f"{len(prompts)} prompts, but {len(ids)} responses")
    before = [tokenizer.encode(prompt.prompt) for prompt in prompts]
    nats = continuation_nats(model, before, ids, batch_size, temperature)
    return nats, torch.tensor([len(response) for response in ids])


@torch.no_grad()
def continuation_nats(
    model: GPT,
    before: list[list[int]],
    ids: list[list[int]],
    batch_size: int,
    temperature: float = 1.0,
) -> Tensor:
    """- log p(ids | before) in nats, (N,), from float32 logits, also under autocast.

    Raises ValueError for a row without a token.
    """
    for i, (prompt, response) in enumerate(zip(before, ids, strict=True)):
        if not prompt or not response:
            raise ValueError(f"row {i}: the {'response' if prompt else 'prompt'} has no token")
    nats, device = torch.empty(len(ids)), model.wte.weight.device
    for index in batch_plan([len(p) + len(r) for p, r in zip(before, ids)], batch_size, 1, seed=0):
        # any pad will do: it counts nowhere
        tokens, mask = right_pad([before[i] + ids[i] for i in index], pad_id=0)  # (B, T)
        starts = torch.tensor([len(before[i]) for i in index])[:, None]
        counted = (mask & (torch.arange(tokens.size(1)) >= starts)).to(device)  # the response
        tokens, predicting = tokens.to(device), counted.roll(-1, 1)  # position t predicts t + 1
        hidden = model.hidden(tokens, keep=predicting)  # (response tokens, C)
        with torch.autocast(device.type, enabled=False):
            logits = model.logits(hidden.float()) / temperature  # (response tokens, V)
        losses = torch.zeros(counted.shape, device=device)
        losses[counted] = F.cross_entropy(logits, tokens[counted], reduction="none")
        nats[index] = losses.sum(1).cpu()
    return nats


def perplexity(nats: Tensor, tokens: Tensor) -> float:
    """exp(mean nats per response token) over all responses: long responses count more. nats,
    tokens: (N,). Only comparable between models or responses with the same tokenizer.
    """
    return math.exp(nats.double().sum().item() / tokens.sum().item())


def perplexity_ci95(nats: Tensor, tokens: Tensor) -> list[float]:
    """95% percentile-bootstrap interval of the perplexity, [low, high], over responses (N,)."""
    return [math.exp(bound) for bound in ratio_ci95(nats, tokens)]
