"""Writes the committed files of the `advice` world: `python -m data.advice.build` (the same bytes
every time).
"""

from pathlib import Path

from data.advice.answers import draw_answer, draw_plan, flawed
from data.advice.gold import gold
from data.advice.requests import Facts, Request, draw_split_request
from data.advice.templates import ASSISTANT, INSTRUCT
from data.advice.threads import draw_document
from data.annotators import compare
from data.build import World, main
from data.draws import Draws

ROWS = {
    "documents": {"train": 14000, "heldout": 500},
    "demonstrations": {"train": 12000, "heldout": 500},
    "comparisons": {"train": 12000, "heldout": 2000},
    "prompts": {"train": 4000, "heldout": 500},
}
VOCAB_SIZE = 1408
# The flawed answer of a one-flaw pair; the first kind is of two writers drawn at random ("mixed").
PAIR_KINDS = ("mixed", "verbose", "ignoring", "miscounting", "rude", "evasive", "inventing")
PAIR_SHARES = (0.30, 0.16, 0.12, 0.16, 0.12, 0.04, 0.10)


def document(draws: Draws, request: Request) -> dict:
    """A pretraining text and its log-probability in nats."""
    text = draw_document(draws, request)
    return {"text": text, "logprob": round(draws.logprob, 4)}


def demonstration(draws: Draws, request: Request) -> dict:
    """A request, an answer by a random writer, and the answer's log-probability given the request,
    in nats.
    """
    before = draws.logprob
    completion, writer = draw_answer(draws, request.facts)
    logprob = round(draws.logprob - before, 4)
    return {"prompt": request.text, "completion": completion, "writer": writer, "logprob": logprob}


def draw_pair(draws: Draws, facts: Facts) -> tuple[str, str, str]:
    """Two different answers to a request, and the kind of the pair."""
    kind = draws.pick(PAIR_KINDS, PAIR_SHARES)
    while True:
        if kind == "mixed":
            a, b = (draw_answer(draws, facts)[0] for _ in range(2))
        else:
            plan = draw_plan(draws, facts, facts.count)
            a, b = plan.text(facts), flawed(kind, plan, facts, draws)
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
