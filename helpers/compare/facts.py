"""Does a reward model read the facts of a post? Pairs of the tldr world that differ in one fact."""

from itertools import count

from data.tldr.posts import Facts, draw_split_post
from data.tldr.summaries import BEST, best_summary
from helpers.model import RewardModel
from helpers.records import Comparison
from helpers.reward import accuracy, encode_comparison, margins
from helpers.tokenizer import Tokenizer


def fact_pairs(number: int) -> dict[str, list[Comparison]]:
    """{fact: so many pairs}: the best summary of a held-out post, and the same one with this fact
    mixed up, as hasty writers do.
    """
    pairs: dict[str, list[Comparison]] = {field: [] for field in Facts.__dataclass_fields__}
    for i in count():
        _, post = draw_split_post(f"pair of facts {i}", held_out=True)
        wanted = [field for field in post.facts.confusable() if len(pairs[field]) < number]
        if wanted:
            wrong = BEST.fill(post.facts.misread(wanted[:1]))
            pairs[wanted[0]].append(Comparison(post.prompt, best_summary(post.facts), wrong))
        elif all(len(some) == number for some in pairs.values()):
            return pairs


def accuracy_by_fact(
    model: RewardModel, tokenizer: Tokenizer, pairs: dict[str, list[Comparison]]
) -> dict[str, float]:
    """How often the true summary scores higher, of each fact's pairs."""
    context = model.gpt.config.context
    encoded = {
        fact: [encode_comparison(pair, tokenizer, context) for pair in some]
        for fact, some in pairs.items()
    }
    return {
        fact: accuracy(margins(model, some, tokenizer.pad_id)) for fact, some in encoded.items()
    }
