"""Writes the committed files of the `sentiment` world: `python -m data.sentiment.build` (the same
bytes every time).
"""

from dataclasses import asdict
from pathlib import Path

from data.annotators import compare
from data.build import World, main
from data.draws import Draws, draw_until
from data.sentiment.documents import draw_document
from data.sentiment.gold import gold, positive_probability
from data.sentiment.sentences import Beginning, draw_split_beginning
from data.sentiment.writers import CAREFUL, damage, draw_alternative, draw_completion, draw_one_flaw

ROWS = {
    "documents": {"train": 16000, "heldout": 500},
    "demonstrations": {"train": 12000, "heldout": 500},
    "labels": {"train": 8000, "heldout": 2000},
    "comparisons": {"train": 12000, "heldout": 2000},
    "prompts": {"train": 4000, "heldout": 500},
}
VOCAB_SIZE = 736  # every word is one token
# Kinds of pairs -> the flaw in which the two completions differ; in those without one, anything,
# opinions alone, or a damaged sentence.
PAIR_FLAWS = {
    "mixed": "",
    "sentiment": "",
    "repeating": "repeats",
    "contradicting": "contradicts",
    "unfinished": "broken",
    "damaged": "",
}
PAIR_KINDS = tuple(PAIR_FLAWS)
PAIR_SHARES = (0.2, 0.35, 0.15, 0.15, 0.1, 0.05)


def document(name: str, held_out: bool) -> dict:
    """A pretraining text and its log-probability in nats.

    No sentence of a training text is made from a held-out beginning, and the first one of a
    held-out text always is.
    """

    def fits(drawn: tuple[str, list[Beginning]]) -> bool:
        there = [beginning.facts.held_out() for beginning in drawn[1]]
        return there[0] if held_out else not any(there)

    draws, (text, _) = draw_until(name, draw_document, fits)
    return {"text": text, "logprob": round(draws.logprob, 4)}


def demonstration(draws: Draws, beginning: Beginning) -> dict:
    """A prompt, its completion by a random writer with its flaws, and the completion's
    log-probability given the prompt, in nats.
    """
    before = draws.logprob
    completion = draw_completion(draws, beginning)
    return {
        "prompt": beginning.facts.beginning,
        "completion": completion,
        "flaws": gold(beginning.facts, completion).flaw_names,
        "logprob": round(draws.logprob - before, 4),
    }


def label(draws: Draws, beginning: Beginning) -> dict:
    """A sentence as a noisy reader labels it; `probability` is how likely readers are to agree with
    the label.
    """
    prompt, completion = beginning.facts.beginning, draw_completion(draws, beginning)
    p = positive_probability(prompt + completion)
    positive = draws.flip(p)
    probability = round(p if positive else 1 - p, 4)
    return {
        "prompt": prompt,
        "completion": completion,
        "label": int(positive),
        "probability": probability,
    }


def draw_pair(draws: Draws, beginning: Beginning) -> tuple[str, str, str]:
    """Two different completions of a beginning, and the kind of the pair."""
    kind = draws.pick(PAIR_KINDS, PAIR_SHARES)
    while True:
        a, b = _draw_two(draws, beginning, kind)
        if a != b:
            return a, b, kind


def _draw_two(draws: Draws, beginning: Beginning, kind: str) -> tuple[str, str]:
    if kind == "mixed":
        return draw_completion(draws, beginning), draw_completion(draws, beginning)
    if kind == "sentiment":
        return _draw_careful(draws, beginning), _draw_careful(draws, beginning)
    if kind == "damaged":
        whole = draw_alternative(draws, beginning, broken=False).text()
        return whole, damage(draws, beginning.facts.beginning, whole)
    good, flawed = draw_one_flaw(draws, beginning, PAIR_FLAWS[kind])
    return good.text(), flawed.text()


def _draw_careful(draws: Draws, beginning: Beginning) -> str:
    """A completion that is as often positive as negative and has no other flaw."""
    return draw_alternative(draws, beginning, negative=draws.flip(0.5), **CAREFUL).text()


def comparison(draws: Draws, beginning: Beginning) -> dict:
    """A pair as a noisy annotator labels it; `probability` is how likely annotators are to agree
    with the label.
    """
    a, b, kind = draw_pair(draws, beginning)
    chosen, rejected, p = compare(
        draws, (a, b), [gold(beginning.facts, text).reward for text in (a, b)]
    )
    prompt = beginning.facts.beginning
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "kind": kind,
        "probability": p,
    }


def prompt(draws: Draws, beginning: Beginning) -> dict:
    """A prompt with the facts behind it, for the gold reward."""
    return {"prompt": beginning.facts.beginning, "facts": asdict(beginning.facts)}


MAKERS = {
    "demonstrations": demonstration,
    "labels": label,
    "comparisons": comparison,
    "prompts": prompt,
}


def row(kind: str, split: str, number: int) -> dict:
    """A row of a file."""
    name, held_out = f"{kind}/{split}/{number}", split == "heldout"
    if kind == "documents":
        return document(name, held_out)
    return MAKERS[kind](*draw_split_beginning(name, held_out))


def learned(row: dict, number: int) -> str:
    """What the tokenizer learns from a document or a demonstration."""
    return row.get("text") or row["prompt"] + row["completion"]


WORLD = World(Path(__file__).parent, ROWS, row, VOCAB_SIZE, learned)

if __name__ == "__main__":
    main(WORLD, __doc__)
