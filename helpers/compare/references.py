"""Responses against what people wrote to the same held-out prompts, and against the first words of
the text there.
"""

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
ROUGE_L = ("rougeL",)


@dataclass(frozen=True)
class References:
    """N held-out prompts, each once, with what a person wrote and what two baselines write."""

    prompts: list[Prompt]
    texts: list[str]  # completions by people
    leads: list[str]  # the first k words of each prompt's text
    copies: list[str]
    k: int
    dtype: torch.dtype | None = None  # that the models sample in

    @cached_property
    def lead_rouge(self) -> Tensor:
        """ROUGE-L (N,) of the leads."""
        return rouge(self.leads, self.texts, ROUGE_L)["ROUGE-L"]

    def metrics(self, texts: Sequence[str]) -> dict:
        """ROUGE and BLEU of texts, one for each prompt, and ROUGE-L above the lead's (paired), with
        intervals.
        """
        gain = rouge(texts, self.texts, ROUGE_L)["ROUGE-L"] - self.lead_rouge
        gains = {
            "ROUGE-L_over_lead": gain.mean().item(),
            "ROUGE-L_over_lead_ci95": bootstrap_ci95(gain),
        }
        return text_metrics(texts, self.texts) | gains

    def baselines(self) -> dict[str, dict]:
        """A row of the table for each baseline."""
        rows = {f"lead-{self.k}": self.leads, "copy": self.copies}
        return {name: self.metrics(texts) | text_shape(texts) for name, texts in rows.items()}

    def greedy(self, model: GPT, tokenizer: Tokenizer, max_new_tokens: int) -> dict:
        """The metrics of the likeliest token at every place (temperature 0), as papers report
        ROUGE.
        """
        sampling = {"max_new_tokens": max_new_tokens, "temperature": 0, "dtype": self.dtype}
        responses = respond(model, tokenizer, self.prompts, **sampling)
        stopped = torch.tensor(responses.stopped).float()
        stops = {"stop_rate": responses.stop_rate, "stop_rate_ci95": bootstrap_ci95(stopped)}
        return self.metrics(responses.texts) | stops | {"words": responses.words}

    def responses(self, tokenizer: Tokenizer) -> Responses:
        """What people wrote, as if it were sampled: tokens with their end of text."""
        ids = [tokenizer.encode(text) + [tokenizer.eos_id] for text in self.texts]
        return Responses(self.prompts, ids, self.texts, [True] * len(ids))


def heldout_references(course: Course) -> References | None:
    """References for the first `eval_prompts` held-out prompts, or None where there are none to
    compare with.

    The embedded worlds have a gold reward instead, and a film review may go on in a hundred ways. k
    is the number of words with the best ROUGE-L on training rows: as strong as this baseline can be
    without seeing held-out references.
    """
    if course.source == "embedded" or course.track == "sentiment":
        return None
    config, track = course.config, course.track
    rows = course.rows("demonstrations", "heldout")
    first = {
        row.prompt: row for row in reversed(rows)
    }  # of several answers to one prompt, the first
    kept = [row for row in rows if first[row.prompt] is row][: config.eval_prompts]
    prompts, texts = [row.prompt for row in kept], [row.completion for row in kept]
    training = course.rows("demonstrations", "train", CHOSEN_ON)
    k = best_k(
        [source_text(row.prompt, track) for row in training], [row.completion for row in training]
    )
    leads = [lead(source_text(prompt, track), k) for prompt in prompts]
    return References(
        [Prompt(prompt) for prompt in prompts], texts, leads, copies(prompts, texts, track), k
    )


def heldout_prompts(course: Course, references: References | None) -> list[Prompt]:
    """The held-out prompts that policies are measured on: those with references, where there are
    any.
    """
    config = course.config
    if references is not None:
        return references.prompts
    return course.rows("prompts", "heldout", config.eval_prompts)
