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
from data.tldr.summaries import draw_one_flaw, draw_summary
from data.tldr.threads import draw_document

ROWS = {
    "documents": {"train": 10000, "heldout": 500},
    "demonstrations": {"train": 8000, "heldout": 500},
    "comparisons": {"train": 10000, "heldout": 2000},
    "prompts": {"train": 4000, "heldout": 500},
}
VOCAB_SIZE = 1024
# Kinds of pairs -> the flaw in which the two summaries differ, in "mixed" pairs anything.
PAIR_FLAWS = {
    "mixed": "",
    "hallucinating": "hallucination",
    "copying": "copying",
    "questionless": "missing_question",
    "verbose": "padding",
    "incomplete": "dropped_details",
    "bare": "missing_problem",
}
PAIR_KINDS = tuple(PAIR_FLAWS)
PAIR_SHARES = (0.16, 0.40, 0.08, 0.08, 0.08, 0.16, 0.04)


def document(draws: Draws, post: Post) -> dict:
    """A pretraining text and its log-probability in nats."""
    text = draw_document(draws, post)
    return {"text": text, "logprob": round(draws.logprob, 4)}


def demonstration(draws: Draws, post: Post) -> dict:
    """A prompt, a summary by a random writer with its flaws, and its log-probability given the
    post, in nats.
    """
    before = draws.logprob
    completion = draw_summary(draws, post)
    return {
        "prompt": post.prompt,
        "completion": completion,
        "flaws": gold(post.facts, completion).flaw_names,
        "logprob": round(draws.logprob - before, 4),
    }


def draw_pair(draws: Draws, post: Post) -> tuple[str, str, str]:
    """Two different summaries of a post, and the kind of the pair."""
    kind = draws.pick(PAIR_KINDS, PAIR_SHARES)
    if kind == "hallucinating" and not post.facts.confusable():
        kind = "mixed"
    while True:
        if kind == "mixed":
            a, b = (draw_summary(draws, post) for _ in range(2))
        else:
            a, b = (plan.text(post) for plan in draw_one_flaw(draws, post, PAIR_FLAWS[kind]))
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
