"""The policies side by side on real rows: base, SFT, best of n and PPO, SFT and PPO also greedy, on
the same held-out prompts.

Everything is measured for each response first; intervals are then bootstrapped over prompts, and
what compares two policies is paired, prompt by prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from helpers.compare.endpoint_judge import JudgeError, judge_of
from helpers.compare.perplexity import perplexity, perplexity_ci95, response_nats
from helpers.compare.references import References, heldout_prompts, heldout_references
from helpers.compare.samples import GREEDY, Sampler
from helpers.compare.second_judge import Judge, load_judge
from helpers.compare.text_metrics import text_shape
from helpers.compare.win_rate import win_rate, wins_by_judge, wins_by_score
from helpers.evaluation import Responses, bootstrap_ci95
from helpers.losses import kl_best_of_n
from helpers.model import GPT
from helpers.rollouts import Models
from helpers.run.checkpoints import CheckpointError, load_stage
from helpers.run.course import Course
from helpers.run.policy_table import table_text

PEOPLE = "people"  # the name of what people wrote, in win rates
ASKED = 100  # pairs that an optional judge behind an endpoint is asked about, in both orders


@dataclass(frozen=True)
class Evaluation(Sampler):
    """What policies are measured with: the same for all of them."""

    judge: Judge | None = None
    references: References | None = None


@dataclass(frozen=True)
class Measured:
    """N responses of a policy and what was measured of each (N,)."""

    responses: Responses
    scores: Tensor  # of the reward model, with missing ends replaced
    nats: Tensor  # - log p(response) under the SFT model
    tokens: Tensor
    kl: Tensor | None = None  # log p(response) of the policy minus that of the SFT model, in nats
    judged: Tensor | None = None  # the judge's raw scores

    @property
    def lengths(self) -> Tensor:
        """Words of each response."""
        return torch.tensor([float(len(text.split())) for text in self.responses.texts])


def measure_responses(
    evaluation: Evaluation, responses: Responses, model: GPT | None = None
) -> Measured:
    """Everything about responses; the KL only where the model that wrote them is given."""
    reference, judge = evaluation.models.reference, evaluation.judge
    written = evaluation.tokenizer, responses.prompts, responses.ids
    nats, tokens = response_nats(reference, *written)
    kl = None
    if model is not None:
        policy_nats = nats if model is reference else response_nats(model, *written)[0]
        kl = nats - policy_nats  # k1: its mean is KL(policy || SFT)
    judged = None if judge is None else judge.score(responses)
    return Measured(responses, evaluation.scores(responses), nats, tokens, kl, judged)


def with_interval(name: str, values: Tensor) -> dict:
    """{name: mean, name_ci95: interval} of values (N,), one per prompt."""
    return {name: values.double().mean().item(), f"{name}_ci95": bootstrap_ci95(values)}


def row_of(evaluation: Evaluation, measured: Measured, sft: Measured, n: int) -> dict:
    """One row of the table: means with 95% intervals under NAME_ci95.

    The score is in standard deviations of the SFT model's samples, and so is the judge's unless it
    gives probabilities; perplexity is under the SFT model, the end of text counted. KL is in nats
    per response; for best of n it is an upper bound.
    """
    responses, kl = measured.responses, measured.kl
    row = {"responses": len(responses.texts), **with_interval("score", measured.scores)}
    row |= {"kl": kl_best_of_n(n)} if kl is None else with_interval("kl", kl)
    if measured.judged is not None:
        row |= with_interval("judge", evaluation.judge.standardise(measured.judged, sft.judged))
    row |= with_interval("stop_rate", torch.tensor(responses.stopped).float())
    row |= text_shape(responses.texts)
    row["perplexity"] = perplexity(measured.nats, measured.tokens)
    row["perplexity_ci95"] = perplexity_ci95(measured.nats, measured.tokens)
    if evaluation.references is not None:
        row |= evaluation.references.metrics(responses.texts)
    return row


def compare_policies(
    evaluation: Evaluation, policies: Mapping[str, GPT], n: int
) -> tuple[dict, dict[str, Measured]]:
    """The table of named policies ("SFT" and "PPO" among them, these also greedy) and best of n,
    and its data.

    The first holds {"table": {policy: row}, "score_gain"}, with a judge also win rates and
    "judge_gain" of PPO over SFT, with references also the rows of "baselines" and "people", and
    the metrics of greedy samples.
    """
    best, references = f"best of {n}", evaluation.references
    responses = {name: evaluation.sample(model) for name, model in policies.items()}
    responses[best] = evaluation.best_of(n)
    measured = {
        name: measure_responses(evaluation, written, policies.get(name))
        for name, written in responses.items()
    }
    for name in ("SFT", "PPO"):
        written = evaluation.sample(policies[name], temperature=0)
        one = measure_responses(evaluation, written)
        # of a policy that gives one response to a prompt, -log p_SFT is the KL
        measured[name + GREEDY] = replace(one, kl=one.nats)
    sft = measured["SFT"]
    sampled = [name for name in policies if name not in ("SFT", "PPO")]
    order = [*sampled, "SFT", f"SFT{GREEDY}", best, "PPO", f"PPO{GREEDY}"]
    table = {name: row_of(evaluation, measured[name], sft, n) for name in order}
    result = {"table": table, **gains(evaluation, measured["PPO"], sft)}
    if references is not None:
        sampling = evaluation.tokenizer, evaluation.config.response_tokens
        for name, model in policies.items():
            table[name]["greedy"] = references.greedy(model, *sampling)
        written = references.responses(evaluation.tokenizer)
        measured[PEOPLE] = measure_responses(evaluation, written)
        people = row_of(evaluation, measured[PEOPLE], sft, 1)
        trivial = ("kl", "ROUGE", "BLEU")  # of the references against themselves
        people = {key: value for key, value in people.items() if not key.startswith(trivial)}
        result |= {"baselines": references.baselines(), PEOPLE: people}
    if evaluation.judge is not None:
        result["win_rates"] = judged_win_rates(measured, order, best)
    return result, measured


def gains(evaluation: Evaluation, ppo: Measured, sft: Measured) -> dict:
    """What PPO gains over SFT on the same prompts, by its reward model and by the judge."""
    metrics = with_interval("score_gain", ppo.scores - sft.scores)
    if judge := evaluation.judge:
        a, b = (judge.standardise(one.judged, sft.judged) for one in (ppo, sft))
        metrics |= with_interval("judge_gain", a - b)
    return metrics


def judged_win_rates(
    measured: Mapping[str, Measured], order: Sequence[str], best: str
) -> dict[str, dict]:
    """{"A over B": win rate} by the judge: each policy over SFT and people, PPO over best of n."""
    pairs = [(name, "SFT") for name in order if name != "SFT"] + [("PPO", best)]
    pairs += [(name, PEOPLE) for name in order if PEOPLE in measured]
    rates = {}
    for name, other in pairs:
        a, b = measured[name], measured[other]
        wins = wins_by_score(a.judged, b.judged)
        rates[f"{name} over {other}"] = asdict(win_rate(wins, a.lengths, b.lengths))
    return rates


def endpoint_win_rates(
    settings: Any, track: str, measured: Mapping[str, Measured]
) -> dict[str, dict]:
    """{"PPO over SFT": win rate, ...} by the judge behind an endpoint, on the first ASKED prompts;
    {} without an address.

    Each pair is judged in both orders. `unanswered` counts the pairs without a clear answer,
    `flipped` is the share whose verdict depended on the order. A judge that fails costs a printed
    line, not the other metrics.
    """
    rates: dict[str, dict] = {}
    try:
        judge = judge_of(settings, track)
        for name in (name for name in ("SFT", PEOPLE) if judge and name in measured):
            ppo, other = measured["PPO"], measured[name]
            prompts = [prompt.prompt for prompt in ppo.responses.prompts[:ASKED]]
            texts = ppo.responses.texts[:ASKED], other.responses.texts[:ASKED]
            verdicts = wins_by_judge(judge, prompts, *texts)
            rate = win_rate(verdicts.wins, ppo.lengths[:ASKED], other.lengths[:ASKED])
            flipped = verdicts.flipped.double().mean().item()
            rates[f"PPO over {name}"] = asdict(rate) | {"flipped": flipped}
    except (JudgeError, ValueError) as error:  # a wrong setting, or no verdict at all
        print(f"The judge behind --judge-url: {error}")
    return rates


def other_sft(course: Course) -> dict[str, GPT]:
    """Further SFT models to compare, {"SFT NAME": model}, from the folders checkpoints/sft-NAME."""
    models = {}
    expected = {"stage": "sft", "track": course.track, "tokenizer": course.tokenizer}
    for folder in sorted(course.folder("sft").parent.glob("sft-*")):
        name = f"SFT {folder.name.removeprefix('sft-')}"
        try:
            models[name], _ = load_stage(folder, **expected, device=course.device)
        except CheckpointError as error:  # it must not cost what PPO has just learned
            print(f"Not compared: {error}")
    return models


def evaluate_policies(
    course: Course, models: Models, base: GPT, n: int
) -> tuple[dict, dict[str, Responses]]:
    """What 3-PPO records where no gold reward is known, and the responses behind it.

    Beside "table": the judge's accuracy, gains, win rates and baselines of `compare_policies`;
    "asked", the win rates by a judge behind an endpoint; and PPO's score, kl, stop_rate and words,
    which every track records.
    """
    judge, metrics = load_judge(course)
    references = heldout_references(course)
    prompts, dtype = heldout_prompts(course, references), course.sampling_dtype
    settings = course.tokenizer, prompts, course.config, dtype
    evaluation = Evaluation(models, *settings, judge, references)
    policies = {"base": base, "SFT": models.reference, **other_sft(course), "PPO": models.policy}
    compared, measured = compare_policies(evaluation, policies, n)
    ppo = compared["table"]["PPO"]
    metrics |= {**compared, "asked": endpoint_win_rates(course.settings, course.track, measured)}
    metrics |= {name: ppo[name] for name in ("score", "kl", "stop_rate", "words")}
    print(table_text(metrics))
    return metrics, {name: one.responses for name, one in measured.items()}
