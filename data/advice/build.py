"""Writes the committed files of the `advice` world: `python -m data.advice.build` (the same bytes
every time).
"""

from pathlib import Path

from data.advice.answers import draw_answer, draw_one_flaw
from data.advice.gold import gold
from data.advice.requests import Facts, Request, draw_split_request
from data.advice.templates import ASSISTANT, INSTRUCT
from data.advice.threads import draw_document
from data.annotators import compare
from data.build import World, main
from data.draws import Draws

ROWS = {
    "documents": {"train": 12000, "heldout": 500},
    "demonstrations": {"train": 8000, "heldout": 500},
    "comparisons": {"train": 8000, "heldout": 2000},
    "prompts": {"train": 4000, "heldout": 500},
}
VOCAB_SIZE = 956
# Kinds of pairs: the flaw in which the two answers differ, in "mixed" pairs anything.
PAIR_KINDS = ("mixed", "inventing", "miscounting", "ignoring", "verbose", "rude")
PAIR_SHARES = (0.11, 0.45, 0.16, 0.12, 0.08, 0.08)


def document(draws: Draws, request: Request) -> dict:
    """A pretraining text and its log-probability in nats."""
    text = draw_document(draws, request)
    return {"text": text, "logprob": round(draws.logprob, 4)}


def demonstration(draws: Draws, request: Request) -> dict:
    """A request, an answer by a random writer with its flaws, and the answer's log-probability
    given the request, in nats.
    """
    before = draws.logprob
    completion = draw_answer(draws, request.facts)
    return {
        "prompt": request.text,
        "completion": completion,
        "flaws": gold(request.facts, completion).flaw_names,
        "logprob": round(draws.logprob - before, 4),
    }


def draw_pair(draws: Draws, facts: Facts) -> tuple[str, str, str]:
    """Two different answers to a request, and the kind of the pair."""
    kind = draws.pick(PAIR_KINDS, PAIR_SHARES)
    if kind == "inventing" and not facts.confusable():
        kind = "mixed"
    while True:
        if kind == "mixed":
            a, b = (draw_answer(draws, facts) for _ in range(2))
        else:
            a, b = (plan.text(facts) for plan in draw_one_flaw(draws, facts, kind))
        if a != b:
            return a, b, kind


def comparison(draws: Draws, request: Request) -> dict:
    """A pair as a noisy annotator labels it; `probability` is how likely annotators are to agree
    with the label.
    """
    a, b, kind = draw_pair(draws, request.facts)
    chosen, rejected, p = compare(
        draws, (a, b), [gold(request.facts, text).reward for text in (a, b)]
    )
    return {
        "prompt": request.text,
        "chosen": chosen,
        "rejected": rejected,
        "kind": kind,
        "probability": p,
    }


def prompt(draws: Draws, request: Request) -> dict:
    """A request with the facts behind it, for the gold reward."""
    return {"prompt": request.text, "facts": request.facts.row()}


MAKERS = {
    "documents": document,
    "demonstrations": demonstration,
    "comparisons": comparison,
    "prompts": prompt,
}


def row(kind: str, split: str, number: int) -> dict:
    """A row of a file."""
    return MAKERS[kind](
        *draw_split_request(f"{kind}/{split}/{number}", held_out=split == "heldout")
    )


def learned(row: dict, number: int) -> str:
    """What the tokenizer learns from a document, or from a demonstration in the templates of both
    tracks in turn.
    """
    template = (ASSISTANT, INSTRUCT)[number % 2]
    return row.get("text") or template.format(request=row["prompt"]) + row["completion"]


WORLD = World(Path(__file__).parent, ROWS, row, VOCAB_SIZE, learned)

if __name__ == "__main__":
    main(WORLD, __doc__)
