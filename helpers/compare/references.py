"""Responses against what people wrote to the same held-out prompts, and against two baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from helpers.compare.baselines import best_k, copies, lead, source_text
from helpers.compare.text_metrics import rouge, text_metrics, text_shape
from helpers.evaluation import Responses, bootstrap_ci95, respond
from helpers.model import GPT
from helpers.records import Prompt
from helpers.run.course import Course
from helpers.tokenizer import Tokenizer

CHOSEN_ON = 200  # training rows that the length of the lead is chosen on


@dataclass(frozen=True)
class References:
    """N held-out prompts, each once, with a person's completion and those of two baselines."""

    prompts: list[Prompt]
    texts: list[str]  # completions by people
    leads: list[str]  # the first k words of each prompt's text
    copies: list[str]
    k: int

    def rouge_l(self, texts: Sequence[str]) -> Tensor:
        """ROUGE-L (N,) of texts, one for each prompt."""
        return rouge(texts, self.texts, ("rougeL",))["ROUGE-L"]

    @cached_property
    def lead_rouge(self) -> Tensor:
        """ROUGE-L (N,) of the leads."""
        return self.rouge_l(self.leads)

    def metrics(self, texts: Sequence[str]) -> dict:
        """ROUGE and BLEU of texts, one per prompt, and ROUGE-L over the lead's, with intervals."""
        gain = self.rouge_l(texts) - self.lead_rouge
        gains = {"ROUGE-L_over_lead": gain.mean().item()}
        gains["ROUGE-L_over_lead_ci95"] = bootstrap_ci95(gain)
        return text_metrics(texts, self.texts) | gains

    def baselines(self) -> dict[str, dict]:
        """A row of the table for each baseline."""
        rows = {f"lead-{self.k}": self.leads, "copy": self.copies}
        return {name: self.metrics(texts) | text_shape(texts) for name, texts in rows.items()}

    def greedy(self, model: GPT, tokenizer: Tokenizer, max_new_tokens: int) -> dict:
        """The metrics of greedy samples (temperature 0), as papers report ROUGE."""
        sampling = {"max_new_tokens": max_new_tokens, "temperature": 0}
        responses = respond(model, tokenizer, self.prompts, **sampling)
        stopped = torch.tensor(responses.stopped).float()
        stops = {"stop_rate": responses.stop_rate, "stop_rate_ci95": bootstrap_ci95(stopped)}
        return self.metrics(responses.texts) | stops | {"words": responses.words}

    def responses(self, tokenizer: Tokenizer) -> Responses:
        """What people wrote, as if it were sampled: tokens with their end of text."""
        ids = [tokenizer.encode(text) + [tokenizer.eos_id] for text in self.texts]
        return Responses(self.prompts, ids, self.texts, [True] * len(ids))


def has_references(course: Course) -> bool:
    """Whether people have written to the held-out prompts."""
    return course.source != "embedded" and course.track != "sentiment"


def read_heldout(course: Course) -> None:
    """Read the rows that the two functions below need: what is missing is noticed now, before the
    training. Raises SourceError or ValueError as `Course.rows`.
    """
    if has_references(course):
        course.rows("demonstrations", "heldout")
        course.rows("demonstrations", "train", CHOSEN_ON)
    else:
        heldout_prompts(course, None)


def heldout_references(course: Course) -> References | None:
    """References for the first `eval_prompts` held-out prompts, or None where there are none.

    The embedded worlds have a gold reward instead, and a film review may go on in a hundred ways. k
    is the number of words with the best ROUGE-L on training rows: as strong as this baseline can be
    without seeing held-out references.
    """
    if not has_references(course):
        return None
    track = course.track
    first: dict[str, str] = {}  # prompt: the first of its completions
    for row in course.rows("demonstrations", "heldout"):
        first.setdefault(row.prompt, row.completion)
    prompts = list(first)[: course.config.eval_prompts]
    texts = [first[prompt] for prompt in prompts]
    training = course.rows("demonstrations", "train", CHOSEN_ON)
    sources = [source_text(row.prompt, track) for row in training]
    k = best_k(sources, [row.completion for row in training])
    leads = [lead(source_text(prompt, track), k) for prompt in prompts]
    copied = copies(prompts, texts, track)
    return References([Prompt(prompt) for prompt in prompts], texts, leads, copied, k)


def heldout_prompts(course: Course, references: References | None) -> list[Prompt]:
    """The held-out prompts that policies are measured on: those of the references, if any."""
    if references is not None:
        return references.prompts
    return course.rows("prompts", "heldout", course.config.eval_prompts)
