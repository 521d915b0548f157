"""What 2-RM-Training shows of its comparisons. The annotators of an embedded world are simulated:
their probabilities, the kinds of pairs and the gold reward are known. Real rows have the texts and
the choices only; unknown numbers are NaN.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.tldr.gold import SLOT_OF  # key word -> what it is about
from data.tldr.vocabulary import OPTION  # key word -> its phrase
from helpers.compare.facts import fact_pairs
from helpers.compare.second_judge import word_judge
from helpers.evaluation import Responses, judge
from helpers.lesson.completions import score_by_token, starts_of
from helpers.lesson.plots.reward import kinds_in
from helpers.model import RewardModel
from helpers.records import Comparison, Prompt
from helpers.reward import bayes_accuracy
from helpers.run.course import Course
from helpers.tokenizer import Tokenizer


def longer_by(c: Comparison) -> int:
    """How many words the chosen text is longer than the rejected one."""
    return len(c.chosen.split()) - len(c.rejected.split())


def with_kinds(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons, where a pair without a kind gets one by its lengths in words."""

    def kind_of(c: Comparison) -> str:
        gap = longer_by(c)
        return "chosen longer" if gap > 0 else "chosen shorter" if gap < 0 else "same length"

    return [c if c.kind else replace(c, kind=kind_of(c)) for c in comparisons]


def clear_pair(comparisons: Sequence[Comparison], tokenizer: Tokenizer, room: int) -> Comparison:
    """A pair to look at: of the first kind, with a label that most annotators share, and so short
    that prompt and two completions fit in `room` tokens.
    """
    first = kinds_in(c.kind for c in comparisons)[0]
    short = [
        c
        for c in comparisons
        if (c.probability is None or c.probability > 0.5)
        and len(tokenizer.encode(c.prompt + c.chosen + c.chosen)) < room
    ]
    return next((c for c in short if c.kind == first), short[0])


# ---------------------------------------------------------------- the ceiling


@dataclass(frozen=True)
class Ceiling:
    """The best that any reward model can do on N comparisons; NaN where it is not known."""

    agreement: Tensor  # (N,) probability that an annotator agrees with the label
    bayes: float  # accuracy of a model that knows the probabilities
    floor: float  # its pairwise loss, in nats
    bayes_of: dict[str, float]  # its accuracy on each kind of pair

    @property
    def known(self) -> bool:
        return not math.isnan(self.bayes)

    def progress(self, accuracy: float) -> str:
        """How far a model has come."""
        if not self.known:
            return "nobody knows how accurate a model could become on these rows"
        way = (accuracy - 0.5) / (self.bayes - 0.5)
        return f"{way:.0%} of the way from chance to the Bayes accuracy"


def ceiling_of(comparisons: Sequence[Comparison]) -> Ceiling:
    """The ceiling of these comparisons, with a line about it."""
    kinds = kinds_in(c.kind for c in comparisons)
    if any(c.probability is None for c in comparisons):
        print("These rows do not say how sure their annotators were: the ceiling is not known.")
        unknown = torch.full((len(comparisons),), math.nan)
        return Ceiling(unknown, math.nan, math.nan, dict.fromkeys(kinds, math.nan))
    agreement = torch.tensor([c.probability for c in comparisons])
    floor, bayes = -agreement.log().mean().item(), bayes_accuracy(comparisons)
    bayes_of = {kind: bayes_accuracy([c for c in comparisons if c.kind == kind]) for kind in kinds}
    ceiling = Ceiling(agreement, bayes, floor, bayes_of)
    listed = ", ".join(f"{kind} {value:.2f}" for kind, value in bayes_of.items())
    print(f"Bayes accuracy {ceiling.bayes:.3f}", listed, sep="\n")
    return ceiling


# ---------------------------------------------------------------- mistakes


def doubtful_labels(margin: Tensor, ceiling: Ceiling) -> float:
    """The share of annotators' mistakes among the 100 labels that the model contradicts most, NaN
    where mistakes are not known; with a line about it.
    """
    if not ceiling.known:
        print("Whether the label or the model is wrong is not known here: read and judge.")
        return math.nan
    mistakes = (ceiling.agreement < 0.5).float()
    share = mistakes[margin.argsort()[:100]].mean().item()
    print(f"annotators' mistakes among these: {share:.0%}, among all pairs: {mistakes.mean():.0%}")
    return share


def worst_pairs(margin: Tensor, ceiling: Ceiling) -> list[int]:
    """The four pairs that the model gets most wrong; if known, of those with a clear label."""
    order = margin.argsort().tolist()
    clear = [i for i in order if ceiling.agreement[i] > 0.8] if ceiling.known else order
    return clear[:4]


def caption(c: Comparison, margin: float) -> str:
    """What is known of a pair, in a line; for real rows with the end of the prompt."""
    if c.probability is None:
        return f"...{c.prompt[-200:]}\n   {c.kind}: margin {margin:+.2f}"
    return f"{c.kind}: margin {margin:+.2f}, {c.probability:.0%} of annotators prefer the chosen"


def gaps_of(comparisons: Sequence[Comparison], ceiling: Ceiling) -> tuple[Tensor, str]:
    """What to compare the margins with, (N,), and its name: the gap in gold reward or in length."""
    if ceiling.known:
        return ceiling.agreement.clamp(1e-4, 1 - 1e-4).logit(), "gold gap: chosen - rejected"
    gaps = [longer_by(c) for c in comparisons]
    return torch.tensor(gaps).float(), "words: chosen - rejected"


# ---------------------------------------------------------------- does it read the prompt?


def probe_pairs(course: Course, heldout: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """{fact: pairs that differ in it} in the tldr world; elsewhere held-out pairs by their kind."""
    smoke = course.preset == "smoke"
    if (course.track, course.source) == ("tldr", "embedded"):
        return fact_pairs(30 if smoke else 150)
    pairs: dict[str, list[Comparison]] = {}
    for c in heldout[: 200 if smoke else 1000]:
        pairs.setdefault(c.kind, []).append(c)
    return pairs


def print_by_fact(accuracies: dict[str, dict[str, float]]) -> None:
    """A table of {model: {fact: accuracy}}: a column for each fact."""
    facts = next(iter(accuracies.values()))
    print(f"{'':16}" + "".join(f"{fact:>{max(7, len(fact) + 2)}}" for fact in facts))
    for name, row in accuracies.items():
        cells = (f"{value:{max(7, len(fact) + 2)}.2f}" for fact, value in row.items())
        print(f"{name:16}" + "".join(cells))


def by_fact(comparisons: Sequence[Comparison]) -> dict[str, list[int]]:
    """{what the two summaries disagree about: rows}, of the hallucinating pairs of the tldr world;
    {} for other rows. The most frequent comes first.
    """
    rows: dict[str, list[int]] = {}
    for i, c in enumerate(comparisons):
        if c.kind == "hallucinating":
            chosen, rejected = (set(re.findall(r"\w+", text)) for text in (c.chosen, c.rejected))
            slots = [SLOT_OF[word] for word in sorted(chosen ^ rejected) if word in SLOT_OF]
            rows.setdefault(slots[0], []).append(i)
    return dict(sorted(rows.items(), key=lambda item: -len(item[1])))


def options_of(text: str) -> list[str]:
    """The key words of the options that a summary of the tldr world names, in order."""
    return [word for word in re.findall(r"\w+", text) if SLOT_OF.get(word) == "option"]


def with_swapped_options(c: Comparison) -> Comparison:
    """The same summaries under a post in which the options of the rejected one are true."""
    other = {}
    for true, false in zip(options_of(c.chosen), options_of(c.rejected)):
        other |= {OPTION[true]: OPTION[false], OPTION[false]: OPTION[true]}
    phrases = "|".join(map(re.escape, other))
    return replace(c, prompt=re.sub(phrases, lambda found: other[found[0]], c.prompt))


def with_changed_prompts(
    comparisons: Sequence[Comparison], tokenizer: Tokenizer, most: int
) -> tuple[list[int], list[Comparison]]:
    """Rows, and the same pairs under another prompt: in the tldr world one that makes the rejected
    summary true; elsewhere the prompt of another pair, which is no longer.
    """
    facts = by_fact(comparisons)
    if facts:
        rows = [i for i in facts["option"] if comparisons[i].probability > 0.5][:most]
        return rows, [with_swapped_options(comparisons[i]) for i in rows]
    lengths = [len(tokenizer.encode(c.prompt)) for c in comparisons[:most]]
    rows = sorted(range(len(lengths)), key=lengths.__getitem__)
    others = [comparisons[i].prompt for i in rows]
    return rows[1:], [
        replace(comparisons[i], prompt=other) for i, other in zip(rows[1:], others, strict=False)
    ]


# ---------------------------------------------------------------- responses


def second_opinion(course: Course, samples: Responses) -> tuple[Tensor, str, Tensor, str]:
    """A measure of responses that is not the reward model, to compare its scores with: values (N,)
    and their unit; then 1 for each response with a flaw, else 0, and the flaw's name.

    In an embedded world the gold reward and the world's first flaw. On real rows the probability of
    praise by a bag of words (film reviews) or the length, and a missing end of text.
    """
    if samples.known:
        flaw = next(iter(samples.flaws()))
        return samples.gold, "gold reward", samples.flaw(flaw), flaw
    unfinished = 1 - torch.tensor(samples.stopped).float()
    if course.track == "sentiment":
        values = word_judge(course)[0].score(samples).float()
        return values, "P(praise) by a bag of words", unfinished, "a missing end of text"
    words = torch.tensor([float(len(text.split())) for text in samples.texts])
    return words, "length in words", unfinished, "a missing end of text"


def scored_items(
    prompts: Sequence[Prompt], comparisons: Sequence[Comparison], tokenizer: Tokenizer
) -> list[Prompt] | list[Comparison]:
    """What to score token by token: posts of the tldr world, whose facts give summaries with known
    flaws; elsewhere pairs, those of about 20 tokens first.
    """
    if prompts[0].facts is not None and prompts[0].world == "tldr":
        return list(prompts)

    def distance(c: Comparison) -> int:
        return abs(max(len(tokenizer.encode(text)) for text in (c.chosen, c.rejected)) - 20)

    return sorted(comparisons, key=distance)


def ending(text: str, most: int = 60) -> str:
    """The last words of a text, in at most so many characters."""
    return text if len(text) <= most else "..." + text[-most:].partition(" ")[2]


def score_versions(
    model: RewardModel, tokenizer: Tokenizer, item: Prompt | Comparison
) -> dict[str, tuple[list[str], Tensor]]:
    """{name: pieces and scores} of each completion of an item, printed with the last score and, if
    known, the gold reward.
    """
    versions = {}
    for name, text in starts_of(item).items():
        pieces, scores = score_by_token(model, tokenizer, item.prompt, text)
        known = isinstance(item, Prompt)
        gold = f"   gold {judge(item, text).reward:+.2f}" if known else ""
        print(f"{name:18} score {scores[-1].item():+.2f}{gold}   {ending(text)}")
        versions[name] = pieces, scores
    return versions
