"""Writes the committed files of the `tldr` world: `python -m data.tldr.build` (the same bytes every
time).
"""

from dataclasses import asdict
from pathlib import Path

from data.annotators import compare
from data.build import World, main
from data.draws import Draws
from data.tldr.gold import gold
from data.tldr.posts import Post, draw_split_post
from data.tldr.summaries import draw_plan, draw_summary, flawed
from data.tldr.threads import draw_document

ROWS = {
    "documents": {"train": 16000, "heldout": 500},
    "demonstrations": {"train": 12000, "heldout": 500},
    "comparisons": {"train": 15000, "heldout": 2000},
    "prompts": {"train": 4000, "heldout": 500},
}
VOCAB_SIZE = 1536
# The flawed summary of a one-flaw pair; the first kind is of two writers drawn at random ("mixed").
PAIR_KINDS = ("mixed", "hallucinating", "copying", "questionless", "verbose")
PAIR_SHARES = (0.26, 0.38, 0.12, 0.12, 0.12)


def document(draws: Draws, post: Post) -> dict:
    """A pretraining text and its log-probability in nats."""
    text = draw_document(draws, post)
    return {"text": text, "logprob": round(draws.logprob, 4)}


def demonstration(draws: Draws, post: Post) -> dict:
    """A prompt, a summary by a random writer, and the summary's log-probability given the post, in
    nats.
    """
    before = draws.logprob
    completion, writer = draw_summary(draws, post)
    logprob = round(draws.logprob - before, 4)
    return {"prompt": post.prompt, "completion": completion, "writer": writer, "logprob": logprob}


def draw_pair(draws: Draws, post: Post) -> tuple[str, str, str]:
    """Two different summaries of a post, and the kind of the pair."""
    kind = draws.pick(PAIR_KINDS, PAIR_SHARES)
    while True:
        if kind == "mixed":
            a, b = (draw_summary(draws, post)[0] for _ in range(2))
        else:
            plan = draw_plan(draws)
            a, b = plan.text(post.facts), flawed(kind, plan, post, draws)
        if a != b:
            return a, b, kind


def comparison(draws: Draws, post: Post) -> dict:
    """A pair as a noisy annotator labels it; `probability` is how likely annotators are to agree
    with the label.
    """
    a, b, kind = draw_pair(draws, post)
    chosen, rejected, p = compare(draws, (a, b), [gold(post.facts, text).reward for text in (a, b)])
    return {
        "prompt": post.prompt,
        "chosen": chosen,
        "rejected": rejected,
        "kind": kind,
        "probability": p,
    }


def prompt(draws: Draws, post: Post) -> dict:
    """A prompt with the facts behind it, for the gold reward."""
    return {"prompt": post.prompt, "facts": asdict(post.facts)}


MAKERS = {
    "documents": document,
    "demonstrations": demonstration,
    "comparisons": comparison,
    "prompts": prompt,
}


def row(kind: str, split: str, number: int) -> dict:
    """A row of a file."""
    return MAKERS[kind](*draw_split_post(f"{kind}/{split}/{number}", held_out=split == "heldout"))


def learned(row: dict, number: int) -> str:
    """What the tokenizer learns from a document or a demonstration."""
    return row.get("text") or "TL;DR:" + row["completion"]


WORLD = World(Path(__file__).parent, ROWS, row, VOCAB_SIZE, learned)

if __name__ == "__main__":
    main(WORLD, __doc__)
