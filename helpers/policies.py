"""The policies side by side on real rows: base, SFT, best of n and PPO, on the same held-out prompts."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from helpers.base import load_base
from helpers.baselines import copies, lead_k, source_text
from helpers.classifier import fit
from helpers.datasets import Prompt
from helpers.environment import Course
from helpers.evaluation import Responses, bootstrap_ci95, respond
from helpers.losses import missing_eos_scores
from helpers.model import GPT
from helpers.perplexity import perplexity, perplexity_ci95, response_nats
from helpers.ppo import Models, mean_kl
from helpers.reward import score_responses
from helpers.text_metrics import distinct, text_metrics
from helpers.tokenizer import Tokenizer

Judge = Callable[[Sequence[str]], Tensor]  # whole texts -> how good each is (N,), by something that PPO never saw


def best_of(models: Models, tokenizer: Tokenizer, prompts: list[Prompt], n: int, **sampling) -> Responses:
    """The response with the highest score among n samples of the SFT model, for each prompt."""
    repeated = [prompt for prompt in prompts for _ in range(n)]
    samples = respond(models.reference, tokenizer, repeated, **sampling)
    best = score_responses(models.reward, tokenizer, samples).view(len(prompts), n).argmax(1).tolist()
    chosen = [row * n + place for row, place in enumerate(best)]
    columns = (samples.ids, samples.texts, samples.stopped)
    return Responses(prompts, *([column[i] for i in chosen] for column in columns))


def measure_policy(
    responses: Responses, models: Models, tokenizer: Tokenizer, missing_eos_score: float,
    judge: Judge | None = None, references: Sequence[str] | None = None,
) -> dict:  # fmt: skip
    """One row of the table, means with 95% intervals under NAME_ci95.

    The score is in standard deviations of the SFT model's samples, perplexity under the SFT model; ROUGE and BLEU where
    there are references, the judge's mean where there is one.
    """
    scores = score_responses(models.reward, tokenizer, responses)
    scores = missing_eos_scores(scores, torch.tensor(responses.stopped), missing_eos_score)
    nats, tokens = response_nats(models.reference, tokenizer, responses.prompts, responses.ids)
    row = {
        "responses": len(responses.texts),
        "score": scores.mean().item(), "score_ci95": bootstrap_ci95(scores),
        "perplexity": perplexity(nats, tokens), "perplexity_ci95": perplexity_ci95(nats, tokens),
        "distinct-2": distinct(responses.texts, 2), "words": responses.words, "stop_rate": responses.stop_rate,
    }  # fmt: skip
    if judge is not None:
        said = judge(whole_texts(responses))
        row |= {"judge": said.mean().item(), "judge_ci95": bootstrap_ci95(said)}
    if references is not None:
        row |= text_metrics(responses.texts, references)
    return row


def whole_texts(responses: Responses) -> list[str]:
    """Each prompt with its response."""
    return [prompt.prompt + text for prompt, text in zip(responses.prompts, responses.texts, strict=True)]


def compare_policies(
    models: Models, base: GPT, tokenizer: Tokenizer, prompts: list[Prompt], *, response_tokens: int, seed: int, n: int,
    missing_eos_score: float, judge: Judge | None = None, references: Sequence[str] | None = None,
) -> dict:  # fmt: skip
    """{"table": {policy: row}} and, with a judge, the gain of PPO over SFT by it with a paired 95% interval.

    KL is in nats per response, from the SFT model: estimated on samples, and for best of n the bound
    log n - (n - 1) / n (Stiennon et al. 2020, 3.3; an upper bound by Beirami et al. 2024).
    """
    sampling = {"max_new_tokens": response_tokens, "seed": seed}
    named = {"base": base, "SFT": models.reference, "PPO": models.policy}
    responses = {name: respond(model, tokenizer, prompts, **sampling) for name, model in named.items()}
    responses[f"best of {n}"] = best_of(models, tokenizer, prompts, n, **sampling)
    table = {}
    for name in ("base", "SFT", f"best of {n}", "PPO"):
        row = measure_policy(responses[name], models, tokenizer, missing_eos_score, judge, references)
        kl = mean_kl(named[name], models.reference, tokenizer, responses[name]) if name in named else None
        table[name] = {**row, "kl": math.log(n) - (n - 1) / n if kl is None else kl}
    result = {"table": table}
    if judge is not None:
        gain = judge(whole_texts(responses["PPO"])) - judge(whole_texts(responses["SFT"]))
        result |= {"judge_gain": gain.mean().item(), "judge_gain_ci95": bootstrap_ci95(gain)}
    return result


def independent_judge(course: Course) -> tuple[Judge, dict]:
    """For track sentiment: P(positive) by a bag-of-words classifier, fitted on the training labels, and its accuracy.

    It shares rows with the reward model, but neither the model nor the order of words.
    """
    train, heldout = course.rows("labels", "train"), course.rows("labels", "heldout")
    texts, labels = ([[row.prompt + row.completion for row in part], [row.label for row in part]]
                     for part in (train, heldout))  # fmt: skip
    classifier = fit(*texts, seed=course.seed)
    share, interval = classifier.accuracy(*labels)
    return classifier.probability, {"judge_accuracy": share, "judge_accuracy_ci95": interval}


def on_real_rows(course: Course, models: Models, n: int = 8) -> dict:
    """What 3-PPO records where no gold reward is known: the table of policies, with a judge or references."""
    config, tokenizer = course.config, course.tokenizer
    base, _ = load_base(course)
    judge, references, metrics = None, None, {}
    if course.track == "sentiment":
        judge, metrics = independent_judge(course)
        prompts = course.rows("prompts", "heldout", config.eval_prompts, room=config.response_tokens)
    else:
        demonstrations = course.rows("demonstrations", "heldout", config.eval_prompts, room=config.response_tokens)
        prompts = [Prompt(demonstration.prompt) for demonstration in demonstrations]
        references = [demonstration.completion for demonstration in demonstrations]
    found = compare_policies(
        models, base, tokenizer, prompts, response_tokens=config.response_tokens, seed=config.seed, n=n,
        missing_eos_score=config.missing_eos_score, judge=judge, references=references,
    )  # fmt: skip
    if references is not None:
        found["baselines"] = baselines(course.track, [prompt.prompt for prompt in prompts], references)
    ppo = found["table"]["PPO"]
    return {**metrics, **found, **{name: ppo[name] for name in ("score", "kl", "stop_rate", "words")}}


def baselines(track: str, prompts: Sequence[str], references: Sequence[str]) -> dict:
    """The text metrics of the first words of each text, and of a copy."""
    lead, k = lead_k([source_text(prompt, track) for prompt in prompts], references)
    found = {f"lead-{k}": lead, "copy": copies(prompts, references, track)}
    return {name: text_metrics(texts, references) for name, texts in found.items()}
