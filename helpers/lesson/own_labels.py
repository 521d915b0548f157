"""Your own preferences: questions to answer, the file that keeps the answers, and a reward model
that learns from them.

Where nobody has answered yet, a simulated person does, whose taste is known: she agrees with the
annotators, but each word that a text is longer counts against it.
"""

import copy
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from helpers import reward
from helpers.config import RewardConfig
from helpers.engine.files import write_text
from helpers.engine.loop import Loop
from helpers.evaluation import bootstrap_ci95
from helpers.model import RewardModel
from helpers.records import Comparison
from helpers.run.course import Course

CHOICES = {"a": "A is better", "b": "B is better", "t": "equally good", "s": "skip"}
ENOUGH = 16  # decided questions from which a reward model can learn something
PER_WORD = 0.5  # what a word costs in the simulated person's taste, in logits


class LabelError(ValueError):
    """A file of answers that can't be read: what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Question:
    """Two completions of a prompt, in the order in which they are shown."""

    prompt: str
    a: str
    b: str


@dataclass(frozen=True)
class Answer(Question):
    """A question and what was chosen: a key of CHOICES."""

    choice: str

    @property
    def comparison(self) -> Comparison | None:
        """What a reward model can learn from it; None for a tie or a skipped question."""
        sides = {"a": (self.a, self.b), "b": (self.b, self.a)}.get(self.choice)
        return sides and Comparison(self.prompt, *sides)


def questions(
    comparisons: Sequence[Comparison], count: int, repeats: int, seed: int
) -> list[Question]:
    """`count` pairs, A and B in random order; then `repeats` of them with A and B exchanged, which
    show how consistent the answers are.
    """
    rng = random.Random(seed)
    pairs = rng.sample(list(comparisons), min(count, len(comparisons)))
    first = [Question(c.prompt, *rng.sample([c.chosen, c.rejected], 2)) for c in pairs]
    again = rng.sample(first, min(repeats, len(first)))
    return first + [Question(q.prompt, q.b, q.a) for q in again]


class LabelFile:
    """The answers of a track, in a file that is written anew, atomically, with every answer."""

    def __init__(self, path: Path, track: str):
        self.path, self.track = path, track

    def read(self) -> list[Answer]:
        """The answers so far. Raises LabelError for a damaged file or one of another track."""
        try:
            if not self.path.exists():
                return []
            lines = self.path.read_bytes().decode("utf-8-sig", "replace").splitlines()
        except OSError as error:
            why = f"can't be read ({error.strerror}): mend that, or rename it to begin anew"
            raise LabelError(f"{self.path.name} {why}") from None
        return [self.parse(line, number) for number, line in enumerate(lines, 1) if line.strip()]

    def parse(self, line: str, number: int) -> Answer:
        """The answer in a line."""
        place = f"{self.path.name}, line {number}"
        try:
            row = json.loads(line)
            track = row.pop("track")
            answer = Answer(**row)
            if not all(isinstance(x, str) for x in row.values()) or answer.choice not in CHOICES:
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise LabelError(
                f"{place} is no answer: mend or delete that line, or rename the file to begin anew"
            ) from None
        if track != self.track:
            raise LabelError(
                f"{place} is an answer on the track {track!r}, this run is on {self.track!r}: "
                "rename the file to begin anew"
            )
        return answer

    def write(self, answers: Sequence[Answer]) -> None:
        """Replace the file. Raises OSError, with the old file kept, if it can't be written."""
        rows = (json.dumps({"track": self.track, **asdict(answer)}) for answer in answers)
        write_text(self.path, "".join(f"{row}\n" for row in rows))


def simulated_answers(
    asked: Sequence[Question], comparisons: Sequence[Comparison], seed: int
) -> list[Answer]:
    """What the simulated person answers, with the noise of an annotator."""
    rng, taste = random.Random(seed), taste_for(comparisons)

    def answer(question: Question) -> Answer:
        leaning = taste[question.prompt, question.a, question.b]
        return Answer(**asdict(question), choice="a" if rng.random() < sigmoid(leaning) else "b")

    return [answer(question) for question in asked]


def taste_for(comparisons: Sequence[Comparison]) -> dict[tuple[str, str, str], float]:
    """{(prompt, a, b): how much the simulated person prefers a to b, as a logit}."""
    taste = {}
    for c in comparisons:
        p = 0.75 if c.probability is None else min(max(c.probability, 0.01), 0.99)
        words = len(c.rejected.split()) - len(c.chosen.split())
        taste[c.prompt, c.chosen, c.rejected] = math.log(p / (1 - p)) + PER_WORD * words
        taste[c.prompt, c.rejected, c.chosen] = -taste[c.prompt, c.chosen, c.rejected]
    return taste


def to_her_taste(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons as the simulated person would decide them without noise."""
    taste = taste_for(comparisons)
    return [
        c
        if taste[c.prompt, c.chosen, c.rejected] > 0
        else replace(c, chosen=c.rejected, rejected=c.chosen)
        for c in comparisons
    ]


def sigmoid(x: float) -> float:
    """The probability with the logit x."""
    return 1 / (1 + math.exp(-x))


def answers_of(
    file: LabelFile, asked: Sequence[Question], comparisons: Sequence[Comparison], seed: int
) -> tuple[list[Answer], bool]:
    """Your answers and True, if at least ENOUGH of them decide; else the simulated person's and
    False. A line says which.
    """
    try:
        yours = file.read()
    except LabelError as error:
        print(error)
        yours = []
    decided = sum(answer.comparison is not None for answer in yours)
    if decided >= ENOUGH:
        print(f"{len(yours)} answers of yours, {decided} of them decide")
        return yours, True
    more = f"{decided} of your answers decide; from {ENOUGH} on they are used. " if yours else ""
    print(f"{more}These are the answers of a simulated person, who likes it short.")
    return simulated_answers(asked, comparisons, seed), False


# ---------------------------------------------------------------- what the answers say


def describe(answers: Sequence[Answer], comparisons: Sequence[Comparison]) -> None:
    """Print how often the answers agree with the labels, with the better gold reward, and with
    themselves where a pair was shown twice.
    """
    label = {(c.prompt, frozenset((c.chosen, c.rejected))): c for c in comparisons}
    decided = [answer.comparison for answer in answers if answer.comparison]
    known = [(c, label.get((c.prompt, frozenset((c.chosen, c.rejected))))) for c in decided]
    known = [(c, theirs) for c, theirs in known if theirs]
    if known:
        show("with the annotators", [c.chosen == theirs.chosen for c, theirs in known])
    better = [
        (c.chosen == theirs.chosen) == (theirs.probability > 0.5)
        for c, theirs in known
        if theirs.probability not in (None, 0.5)
    ]
    if better:
        show("with the gold reward", better)
    if twice := repeated(answers):
        show("with themselves", [one.chosen == other.chosen for one, other in twice])
    if decided:
        left = sum(answer.choice == "a" for answer in answers)
        print(f"chose A in {left} of {len(decided)}; which text is A was drawn at random")


def show(what: str, hits: Sequence[bool]) -> None:
    """Print a share with its 95% interval."""
    print(f"agree {what:22} {share(torch.tensor(hits).float())}")


def share(hits: Tensor) -> str:
    """How many of the hits (N,), 1 or 0, are 1: the share with its 95% interval."""
    if hits.sum() in (0, len(hits)):  # no interval can be drawn from these
        return f"{hits.mean():.2f}: {'all' if hits.any() else 'none'} of {len(hits)}"
    low, high = bootstrap_ci95(hits)
    return f"{hits.mean():.2f} [{low:.2f}, {high:.2f}] of {len(hits)}"


def repeated(answers: Sequence[Answer]) -> list[tuple[Comparison, Comparison]]:
    """The pairs that were decided twice."""
    seen: dict[tuple, Comparison] = {}
    twice = []
    for c in filter(None, (answer.comparison for answer in answers)):
        key = c.prompt, frozenset((c.chosen, c.rejected))
        if key in seen:
            twice.append((seen[key], c))
        seen[key] = c
    return twice


# ---------------------------------------------------------------- a reward model of your own


def few_labels(config: RewardConfig) -> RewardConfig:
    """Settings for a few dozen pairs: small batches, several passes, AdamW alone."""
    return replace(config, epochs=4, batch_size=8, lr=1e-3, muon_lr=0.0)


def learn(course: Course, model: RewardModel, comparisons: Sequence[Comparison]) -> RewardModel:
    """A copy of a reward model that has gone on learning from these comparisons."""
    mine = copy.deepcopy(model).requires_grad_(True)
    config, tokenizer = few_labels(course.config_of("reward")), course.tokenizer
    pairs = encoded(course, model, comparisons)
    batches = reward.comparison_batches(pairs, config, tokenizer.pad_id)
    reward.train(mine, batches, config, Loop("own labels", course.dtype, lines=0))
    return mine.requires_grad_(False)


def encoded(
    course: Course, model: RewardModel, comparisons: Sequence[Comparison]
) -> list[reward.Pair]:
    """Comparisons as tokens."""
    context = model.gpt.config.context
    return [reward.encode_comparison(c, course.tokenizer, context) for c in comparisons]


def agrees(course: Course, model: RewardModel, comparisons: Sequence[Comparison]) -> Tensor:
    """1 where a reward model prefers the chosen text, else 0: (N,)."""
    pairs = encoded(course, model, comparisons)
    return (reward.margins(model, pairs, course.tokenizer.pad_id) > 0).float()


def agrees_on_fresh(
    course: Course, model: RewardModel, comparisons: Sequence[Comparison], folds: int = 4
) -> Tensor:
    """`agrees`, each comparison judged by a copy that has learned from the other folds only.

    A pair that was shown twice stays in one fold.
    """
    prompts = list(dict.fromkeys(c.prompt for c in comparisons))
    fold_of = {prompt: i % folds for i, prompt in enumerate(prompts)}
    hits = torch.empty(len(comparisons))
    for fold in range(folds):
        inside = torch.tensor([fold_of[c.prompt] == fold for c in comparisons])
        others = [c for c, held in zip(comparisons, inside.tolist()) if not held]
        held = [c for c, held in zip(comparisons, inside.tolist()) if held]
        if held:
            judge = learn(course, model, others) if others else model
            hits[inside] = agrees(course, judge, held)
    return hits
