"""Responses of a run's policies to one prompt, token by token, with all that is known of them.

Shapes: N samples, R response, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.worlds import Judged, highest_gold
from helpers.config import PPOConfig
from helpers.demo.models import Models
from helpers.evaluation import judge
from helpers.generation import KVCache, keep_top_k, keep_top_p, next_token
from helpers.losses import kl_best_of_n, kl_full, missing_eos_scores
from helpers.model import GPT
from helpers.records import Prompt
from helpers.reward import Text, score_texts
from helpers.rollouts import Batch, response_logits
from helpers.tokenizer import Tokenizer

BEST = "best of n"
ALTERNATIVES = 5  # tokens that are shown for each place
COOLEST = 0.001  # dividing by less would make infinite logits
MOST = {"temperature": 5, "top_k": 1000, "top_p": 1, "n": 32, "tokens": 256, "seed": 2**32 - 2}


@dataclass(frozen=True)
class Sampling:
    """How to sample. Raises ValueError for a value out of bounds."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    n: int = 8  # of best of n
    tokens: int = 64  # of the longest response
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value, least = getattr(self, name), 1 if name in ("n", "tokens") else 0
            if not (isinstance(value, (int, float)) and least <= value <= most):
                raise ValueError(f"{name} must be from {least} to {most}, not {value!r:.40}")
        if 0 < self.temperature < COOLEST:
            raise ValueError(f"temperature must be 0 or at least {COOLEST}")
        if self.top_p == 0:
            raise ValueError("top_p must be above 0")

    def shape(self, logits: Tensor) -> Tensor:
        """Logits (R, V) of the distribution that is sampled from: -inf at what can't be drawn."""
        if self.temperature == 0:
            return keep_top_k(logits, 1)
        return keep_top_p(keep_top_k(logits / self.temperature, self.top_k), self.top_p)


@dataclass(frozen=True)
class Token:
    """A token of a response, and what its policy might have written there."""

    text: str
    probability: float  # by the policy at temperature 1
    sampled: float  # with the sampling's temperature, top-k and top-p
    alternatives: list[tuple[str, float]]  # the likeliest tokens at temperature 1
    kl: float | None  # of the distribution that was sampled from, from the SFT model's, in nats


@dataclass(frozen=True)
class Answer:
    """One policy's response; while it is written only its text, without tokens."""

    policy: str
    text: str
    ids: tuple[int, ...] = ()
    stopped: bool = False
    tokens: tuple[Token, ...] = ()
    score: float | None = None
    kl: float | None = None  # nats; for best of n an upper bound
    judged: Judged | None = None  # the gold reward, where it is known
    highest: float | None = None  # that any response can have
    rejected: tuple[tuple[float, str], ...] = ()  # the others of best of n, from the best on
    drafts: tuple[str, ...] = ()  # the samples of best of n while they are written


@torch.no_grad()
def stream(
    model: GPT, prompt: list[int], n: int, sampling: Sampling, tokenizer: Tokenizer
) -> Iterator[Tensor]:
    """n responses to a prompt as `helpers.generation.sample` draws them, but after every token:
    ids (n, t), which may go on behind an EOS.
    """
    device, P, R = model.wte.weight.device, len(prompt), sampling.tokens
    generator = torch.Generator(device).manual_seed(sampling.seed)
    uniforms = torch.rand(R, n, generator=generator, device=device)
    ids = torch.tensor([prompt], device=device).expand(n, P)
    cache, knobs = KVCache(model, n, P + R), (sampling.temperature, sampling.top_k, sampling.top_p)
    for t in range(R):
        hidden = model.hidden(ids[:, cache.length :], cache=cache, last_only=True)
        logits = model.logits(hidden[:, 0])  # (n, V)
        logits[:, tokenizer.pad_id] = -torch.inf
        ids = torch.cat([ids, next_token(logits, uniforms[t], *knobs)[:, None]], 1)
        response = ids[:, P:]
        yield response
        if (response == tokenizer.eos_id).any(1).all():
            return


def upto_eos(response: Tensor, eos_id: int) -> list[list[int]]:
    """The rows of ids (n, t), each with its EOS and without what comes after it."""
    rows = response.tolist()
    return [row[: row.index(eos_id) + 1] if eos_id in row else row for row in rows]


def text_of(row: list[int] | tuple[int, ...], tokenizer: Tokenizer) -> str:
    """The text of a response, without its EOS."""
    return tokenizer.decode([id_ for id_ in row if id_ != tokenizer.eos_id]).strip()


def answer(models: Models, prompt: Prompt, sampling: Sampling) -> Iterator[dict[str, Answer]]:
    """{policy: response so far} after every token, all policies in turn; last with everything that
    is known of them.

    The first sample of BEST is the SFT model's response.
    """
    tokenizer, ids, n = models.tokenizer, models.tokenizer.encode(prompt.prompt), sampling.n
    several = models.reward is not None and models.reference is not None and n > 1
    rows = {name: n if several and name == "SFT" else 1 for name in models.policies}
    streams = {
        name: stream(model, ids, rows[name], sampling, tokenizer)
        for name, model in models.policies.items()
    }
    written: dict[str, Tensor] = {}
    while streams:
        for name in list(streams):
            try:
                written[name] = next(streams[name])
            except StopIteration:
                del streams[name]
        if streams:
            yield so_far(written, tokenizer)
    answers = {}
    for name, response in written.items():
        samples = upto_eos(response, tokenizer.eos_id)
        scores = scored(models, ids, samples)
        answers[name] = known(models, prompt, ids, name, samples[0], scores[0], sampling)
        if len(samples) > 1:
            order = sorted(range(n), key=lambda i: -scores[i])
            first, *others = order
            chosen = known(models, prompt, ids, "SFT", samples[first], scores[first], sampling)
            rejected = tuple((scores[i], text_of(samples[i], tokenizer)) for i in others)
            bounded = {"policy": f"best of {n}", "kl": kl_best_of_n(n)}
            answers[BEST] = replace(chosen, **bounded, rejected=rejected)
    yield answers


def so_far(written: dict[str, Tensor], tokenizer: Tokenizer) -> dict[str, Answer]:
    """What has been written, as texts."""
    answers = {}
    for name, response in written.items():
        texts = [text_of(row, tokenizer) for row in upto_eos(response, tokenizer.eos_id)]
        answers[name] = Answer(name, texts[0])
        if len(texts) > 1:
            answers[BEST] = Answer(f"best of {len(texts)}", "", drafts=tuple(texts))
    return answers


def scored(models: Models, prompt: list[int], samples: list[list[int]]) -> list[float | None]:
    """The reward model's score of each sample, with missing ends replaced."""
    if models.reward is None:
        return [None] * len(samples)
    texts, pad_id = [Text(prompt, row) for row in samples], models.tokenizer.pad_id
    scores = score_texts(models.reward, texts, pad_id).cpu()
    stopped = torch.tensor([row[-1] == models.tokenizer.eos_id for row in samples])
    default = PPOConfig.missing_eos_score
    replacement = models.config.get("missing_eos_score", default)
    return missing_eos_scores(scores, stopped, replacement).tolist()


@torch.no_grad()
def known(
    models: Models,
    prompt: Prompt,
    ids: list[int],
    policy: str,
    row: list[int],
    score: float | None,
    sampling: Sampling,
) -> Answer:
    """Everything about a response: its tokens, its KL from the SFT model, its gold reward."""
    tokenizer = models.tokenizer
    batch = Batch(torch.tensor([ids + row]), torch.ones(1, len(ids + row)).bool(), len(ids))
    logits = drawn_by(models.policies[policy], batch, tokenizer)
    kl = None
    if models.reference is not None:
        reference = drawn_by(models.reference, batch, tokenizer)
        kl = kl_full(sampling.shape(logits), reference).tolist()
    text = text_of(row, tokenizer)
    return Answer(
        policy,
        text,
        tuple(row),
        stopped=row[-1] == tokenizer.eos_id,
        tokens=tokens_of(row, logits, sampling, kl, tokenizer),
        score=score,
        kl=None if kl is None else sum(kl),
        judged=judge(prompt, text) if prompt.facts else None,
        highest=highest_gold(prompt.world) if prompt.facts else None,
    )


def drawn_by(model: GPT, batch: Batch, tokenizer: Tokenizer) -> Tensor:
    """Logits (R, V) of a response's tokens, without the pad, which is never drawn."""
    logits = response_logits(model, batch.to_device_of(model))[0].cpu()
    logits[:, tokenizer.pad_id] = -torch.inf
    return logits


def remarks(answer: Answer) -> dict[str, str]:
    """What is known of a finished response, by name, as texts."""
    found = {}
    if answer.score is not None:
        found["score"] = f"{answer.score:+.2f}"
    if answer.kl is not None:
        found["KL"] = ("at most " if answer.rejected else "") + f"{answer.kl:.1f} nats"
    found["length"] = f"{len(answer.tokens)} tokens" + ("" if answer.stopped else ", unfinished")
    if answer.judged is not None:
        found["gold"] = f"{answer.judged.reward:.1f} of {answer.highest:g}"
        flaws = [name.replace("_", " ") for name, there in answer.judged.flaws.items() if there]
        found["flaws"] = ", ".join(flaws) or "none"
    return found


def tokens_of(
    row: list[int], logits: Tensor, sampling: Sampling, kl: list[float] | None, tokenizer: Tokenizer
) -> tuple[Token, ...]:
    """The tokens of a response from the logits (R, V) that they were drawn by."""
    probs, sampled = logits.softmax(-1), sampling.shape(logits).softmax(-1)
    top = probs.topk(min(ALTERNATIVES, probs.size(-1)))  # (R, 5)
    pieces, tokens = pieces_of(row, tokenizer), []
    for t, id_ in enumerate(row):
        names = [piece(index, tokenizer) for index in top.indices[t].tolist()]
        likely = list(zip(names, top.values[t].tolist(), strict=True))
        own = probs[t, id_].item(), sampled[t, id_].item()
        tokens.append(Token(pieces[t], *own, likely, None if kl is None else kl[t]))
    return tuple(tokens)


def piece(id_: int, tokenizer: Tokenizer) -> str:
    """The text of one token."""
    return "END" if id_ == tokenizer.eos_id else tokenizer.decode([id_])


def pieces_of(row: list[int], tokenizer: Tokenizer) -> list[str]:
    """The text that each token adds; a character of several tokens comes with its last one."""
    pieces, before = [], ""
    for t, id_ in enumerate(row):
        text = tokenizer.decode(row[: t + 1])
        whole = text.rstrip("\ufffd") if t + 1 < len(row) else text
        pieces.append("END" if id_ == tokenizer.eos_id else whole[len(before) :])
        before = whole if len(whole) > len(before) else before
    return pieces
