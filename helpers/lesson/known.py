"""What is known about the rows of a run, shown by one call in a cell.

In an embedded world the probability of the texts, their writers and the quality of a response are
known. For rows that people wrote a function shows what can be counted instead.
"""

import re
from collections.abc import Mapping, Sequence

import torch

from data.advice import answers
from data.draws import Draws
from data.sentiment import writers
from data.tldr import summaries
from data.tldr.gold import SLOT_OF
from data.tldr.posts import Facts, draw_split_post
from data.tldr.vocabulary import TWINS
from helpers.compare.text_metrics import distinct, mean_words, rouge
from helpers.evaluation import Responses, entropy_floor, judge
from helpers.lesson.text import wrap
from helpers.records import Demonstration, Document, Prompt

# ---------------------------------------------------------------- losses and what limits them


def floor_of(texts: Sequence[Document | Demonstration], tokens: int) -> float | None:
    """The entropy floor in nats per token, or None where the texts' probabilities are unknown."""
    if any(text.logprob is None for text in texts):
        return None
    return entropy_floor([text.logprob for text in texts], tokens)


def frequency_loss(seen: Sequence[int], heldout: Sequence[int], vocab_size: int) -> float:
    """Loss, in nats per token, of a model that knows only how often each token was seen."""
    counts = 1 + torch.bincount(torch.tensor(seen), minlength=vocab_size)  # no probability is 0
    logprobs = (counts / counts.sum()).log()  # (V,)
    return -logprobs[torch.tensor(heldout)].mean().item()


def value_losses(completions: Sequence[Sequence[tuple[str, float]]]) -> dict[str, float]:
    """Mean loss of the words for facts in summaries of the world of posts, given as (token, loss):
    of words that have no twin, of each summary's first word that has one, and of later ones.
    """
    losses: dict[str, list[float]] = {"no twin": [], "first with a twin": [], "later ones": []}
    for completion in completions:
        met_twin = False
        for token, loss in completion:
            word = token.strip()
            if word in TWINS:
                losses["later ones" if met_twin else "first with a twin"].append(loss)
                met_twin = True
            elif word in SLOT_OF:
                losses["no twin"].append(loss)
    return {kind: sum(part) / max(1, len(part)) for kind, part in losses.items()}


def show_ladder(losses: Mapping[str, float | None]) -> None:
    """Print losses in nats per token, the largest first; None for one that is not known."""
    known = {name: loss for name, loss in losses.items() if loss is not None}
    for name, loss in sorted(known.items(), key=lambda item: -item[1]):
        print(f"{name:18} {loss:.3f} nats per token")
    for name in losses.keys() - known.keys():
        print(f"{name:18} not known: people wrote these texts")


# ---------------------------------------------------------------- demonstrations


def flaws_note(item: Demonstration) -> str:
    """What is known of a demonstration: its flaws."""
    return f"flaws: {'not known' if item.flaws is None else ', '.join(item.flaws) or 'none'}"


def show_demonstrations(demonstrations: Sequence[Demonstration]) -> None:
    """Three examples, and the lengths of all."""
    for item in demonstrations[1:4]:
        print(wrap(f"... {item.prompt[-60:]!r} ->{item.completion}\n({flaws_note(item)})\n"))
    lengths = sorted(len(item.completion.split()) for item in demonstrations)
    low, middle, high = (lengths[len(lengths) * share // 100] for share in (5, 50, 95))
    print(
        f"{len(lengths):,} completions; 5% have at most {low} words, half at most {middle}, 95% at "
        f"most {high}"
    )


# ---------------------------------------------------------------- responses


def quality(responses: Responses) -> tuple[str, float]:
    """Responses as one number and its name: the mean gold reward, else their length."""
    if responses.known:
        return "gold reward", responses.gold.mean().item()
    return "words", responses.words


def gold_note(prompt: Prompt, text: str) -> str:
    """The gold reward of a text in brackets, or nothing where none is known."""
    return "" if prompt.facts is None else f"   (gold reward {judge(prompt, text).reward:+.2f})"


def show_judged(prompt: Prompt, texts: Sequence[str]) -> None:
    """The gold reward of some responses, with what it counts, where one is known."""
    for text in texts:
        print(verdict(prompt, text) if prompt.facts else f"no gold reward is known: {text[:60]!r}")


def verdict(prompt: Prompt, text: str) -> str:
    """The gold reward of a response, and what it counts."""
    counts = dict(vars(judge(prompt, text)))
    reward, yes_or_no = counts.pop("reward"), {True: "yes", False: "no"}
    of_each = ", ".join(
        f"{name} {yes_or_no[value] if isinstance(value, bool) else value}"
        for name, value in counts.items()
    )
    return f"gold reward {reward:+.2f} ({of_each})"


def show_responses(named: Mapping[str, Responses], people: Sequence[Demonstration]) -> None:
    """Stop rate and length of each, with gold reward and flaws where these are known, else with
    their overlap with what people wrote to the same prompts.
    """
    written = {item.prompt: item.completion for item in people}
    for name, responses in named.items():
        print(
            f"{name:10}  stop rate {responses.stop_rate:.2f}, {responses.words:.1f} words, "
            f"{evidence(responses, written)}"
        )


def evidence(responses: Responses, written: Mapping[str, str]) -> str:
    """Gold reward and flaws in words; where they are not known, overlap with references."""
    if responses.known:
        flaws = ", ".join(f"{name} {rate:.2f}" for name, rate in responses.flaws().items())
        return f"gold reward {responses.gold.mean():+.2f}\n  flaws: {flaws}"
    pairs = [
        (text, written[prompt.prompt])
        for prompt, text in zip(responses.prompts, responses.texts, strict=True)
        if prompt.prompt in written
    ]
    if not pairs:
        return "no references to the same prompts"
    texts, references = zip(*pairs, strict=True)
    overlap = rouge(texts, references)["ROUGE-L"].mean()
    return (
        f"ROUGE-L {overlap:.3f}, distinct-2 {distinct(texts, 2):.2f} (people: "
        f"{mean_words(references):.1f} words, distinct-2 {distinct(references, 2):.2f})"
    )


# ---------------------------------------------------------------- the writers: flaws, gold reward


# world -> how often its writers have each flaw
WRITERS = {
    "tldr": summaries.flaw_rates(),
    "sentiment": writers.FLAW_SHARES,
    "advice": answers.flaw_rates(),
}


def flaw_rates(responses: Responses) -> dict[str, tuple[dict[str, float], int]]:
    """How often each flaw comes, {who: ({flaw: share}, number of responses; 0 if it is exact)}:
    the writers of the world, then the SFT model. Empty where flaws are not known.
    """
    if not responses.known:
        return {}
    rates = responses.flaws()
    teachers = {name: WRITERS[responses.prompts[0].world][name] for name in rates}
    return {"writers": (teachers, 0), "SFT model": (rates, len(responses.texts))}


def false_values(responses: Responses) -> dict[str, float]:
    """Shares of responses to posts of the embedded world with a value that writers take for the
    true one, and with another false one, which no writer would take. {} in other worlds.
    """
    if not responses.known or responses.prompts[0].world != "tldr":
        return {}
    mixed_up = other = 0
    for prompt, text in zip(responses.prompts, responses.texts, strict=True):
        facts = Facts(**prompt.facts)
        named = SLOT_OF.keys() & set(re.findall(r"[A-Za-z]+", text))
        false = {value for value in named if value not in facts.values(SLOT_OF[value])}
        twins = {TWINS[getattr(facts, field)] for field in facts.confusable()}
        mixed_up += bool(false & twins)
        other += bool(false - twins)
    number = len(responses.texts)
    return {"mixed up": mixed_up / number, "another": other / number}


def writers_gold(prompts: Sequence[Prompt]) -> tuple[dict[str, float], float | None]:
    """The mean gold reward on these posts of the best summary and of the same one with each flaw;
    and that of the writers. ({}, None) unless these are the held-out posts of the embedded
    world, whose writers can be simulated.
    """
    if prompts[0].facts is None or prompts[0].world != "tldr":
        return {}, None
    posts = [draw_split_post(f"prompts/heldout/{i}", held_out=True)[1] for i in range(len(prompts))]
    if [post.prompt for post in posts] != [prompt.prompt for prompt in prompts]:
        raise ValueError("these are not the first held-out posts of the embedded world")
    draws = Draws("writers of 1-SFT")

    def mean(texts: list[str]) -> float:
        judged = [judge(prompt, text).reward for prompt, text in zip(prompts, texts, strict=True)]
        return sum(judged) / len(judged)

    alone = {"no flaw": mean([summaries.best_summary(post.facts) for post in posts])}
    for flaw in summaries.flaw_rates():
        plans = [summaries.with_flaw(summaries.BEST, flaw, post, draws) for post in posts]
        texts = [plan.text(post) for plan, post in zip(plans, posts, strict=True)]
        alone[flaw.replace("_", " ")] = mean(texts)
    return alone, mean([summaries.draw_summary(draws, post) for post in posts])
