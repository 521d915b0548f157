"""The policies side by side on real rows: base, SFT, best of n and PPO, on the same held-out
prompts.

Everything is measured for each response first; intervals are then bootstrapped over prompts, and
what compares two policies is paired, prompt by prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from helpers.compare.endpoint_judge import JudgeError, judge_of
from helpers.compare.perplexity import perplexity, perplexity_ci95, response_nats
from helpers.compare.references import References, heldout_prompts, heldout_references
from helpers.compare.second_judge import Judge, load_judge
from helpers.compare.text_metrics import text_shape
from helpers.compare.win_rate import win_rate, wins_by_judge, wins_by_score
from helpers.config import PPOConfig
from helpers.evaluation import Responses, bootstrap_ci95, respond
from helpers.losses import kl_best_of_n, missing_eos_scores
from helpers.model import GPT
from helpers.records import Prompt
from helpers.reward import score_responses
from helpers.rollouts import Models
from helpers.run.checkpoints import CheckpointError, load_stage
from helpers.run.course import Course
from helpers.run.policy_table import table_text
from helpers.tokenizer import Tokenizer

PEOPLE = "people"  # the name of what people wrote, in win rates
ASKED = 100  # pairs that an optional judge behind an endpoint is asked about, in both orders


@dataclass(frozen=True)
class Bench:
    """What policies are measured with: the same for all of them."""

    models: Models
    tokenizer: Tokenizer
    prompts: list[Prompt]
    config: PPOConfig  # of it: response_tokens, missing_eos_score, seed
    judge: Judge | None = None
    references: References | None = None
    dtype: torch.dtype | None = None  # that the policies sample in

    def sample(self, model: GPT, prompts: list[Prompt] | None = None) -> Responses:
        """A response of a model to each prompt, at temperature 1."""
        tokens, seed = self.config.response_tokens, self.config.seed
        sampling = {"max_new_tokens": tokens, "seed": seed, "dtype": self.dtype}
        return respond(model, self.tokenizer, prompts or self.prompts, **sampling)


@dataclass(frozen=True)
class Measured:
    """N responses of a policy and what was measured of each (N,)."""

    responses: Responses
    scores: Tensor  # of the reward model, with missing ends replaced
    nats: Tensor  # - log p(response) under the SFT model
    tokens: Tensor
    kl: Tensor | None = None  # log p(response) of the policy minus that of the SFT model, in nats
    judged: Tensor | None = None  # by the judge, as it comes

    @property
    def lengths(self) -> Tensor:
        """Words of each response."""
        return torch.tensor([float(len(text.split())) for text in self.responses.texts])


def best_of(bench: Bench, n: int) -> Responses:
    """The response with the highest score among n samples of the SFT model, for each prompt."""
    repeated = [prompt for prompt in bench.prompts for _ in range(n)]
    samples = bench.sample(bench.models.reference, repeated)
    scores = score_responses(bench.models.reward, bench.tokenizer, samples)
    scores = missing_eos_scores(
        scores, torch.tensor(samples.stopped), bench.config.missing_eos_score
    )
    best = scores.view(-1, n).argmax(1).tolist()
    chosen = [row * n + place for row, place in enumerate(best)]
    columns = (samples.ids, samples.texts, samples.stopped)
    return Responses(bench.prompts, *([column[i] for i in chosen] for column in columns))


def measure_responses(bench: Bench, responses: Responses, model: GPT | None = None) -> Measured:
    """Everything about responses, each once; the KL where the model that wrote them is given."""
    models, tokenizer = bench.models, bench.tokenizer
    scores = score_responses(models.reward, tokenizer, responses)
    scores = missing_eos_scores(
        scores, torch.tensor(responses.stopped), bench.config.missing_eos_score
    )
    nats, tokens = response_nats(models.reference, tokenizer, responses.prompts, responses.ids)
    kl = None
    if model is not None:
        same = model is models.reference  # then its numbers are there already
        own = nats if same else response_nats(model, tokenizer, responses.prompts, responses.ids)[0]
        kl = nats - own  # k1: its mean is KL(policy || SFT)
    return Measured(
        responses, scores, nats, tokens, kl, bench.judge and bench.judge.says(responses)
    )


def with_interval(name: str, values: Tensor) -> dict:
    """{name: mean, name_ci95: interval} of values (N,), one a prompt."""
    return {name: values.double().mean().item(), f"{name}_ci95": bootstrap_ci95(values)}


def row_of(bench: Bench, found: Measured, sft: Measured, n: int) -> dict:
    """One row of the table: means with 95% intervals under NAME_ci95.

    The score is in standard deviations of the SFT model's samples, and so is the judge's unless it
    gives probabilities; perplexity is under the SFT model, the end of text counted. KL is in nats
    per response; for best of n it is an upper bound.
    """
    responses = found.responses
    row = {"responses": len(responses.texts), **with_interval("score", found.scores)}
    row |= {"kl": kl_best_of_n(n)} if found.kl is None else with_interval("kl", found.kl)
    if found.judged is not None:
        row |= with_interval("judge", bench.judge.in_units(found.judged, sft.judged))
    row |= with_interval("stop_rate", torch.tensor(responses.stopped).float()) | text_shape(
        responses.texts
    )
    row["perplexity"] = perplexity(found.nats, found.tokens)
    row["perplexity_ci95"] = perplexity_ci95(found.nats, found.tokens)
    if bench.references is not None:
        row |= bench.references.metrics(responses.texts)
    return row


def compare_policies(
    bench: Bench, policies: Mapping[str, GPT], n: int
) -> tuple[dict, dict[str, Measured]]:
    """The table of named policies ("SFT" and "PPO" among them) and best of n, and what it was made
    from.

    The first holds {"table": {policy: row}, "score_gain"}, with a judge also win rates and
    "judge_gain" of PPO over SFT, with references also the rows of "baselines" and "people", and
    what greedy samples give.
    """
    best, references = f"best of {n}", bench.references
    measured = {
        name: measure_responses(bench, bench.sample(model), model)
        for name, model in policies.items()
    }
    measured[best] = measure_responses(bench, best_of(bench, n))
    order = [*(name for name in policies if name != "PPO"), best, "PPO"]
    table = {name: row_of(bench, measured[name], measured["SFT"], n) for name in order}
    result = {"table": table, **gains(bench, measured)}
    if references is not None:
        for name, model in policies.items():
            table[name]["greedy"] = references.greedy(
                model, bench.tokenizer, bench.config.response_tokens
            )
        measured[PEOPLE] = measure_responses(bench, references.responses(bench.tokenizer))
        people = row_of(bench, measured[PEOPLE], measured["SFT"], 1)
        people = {
            key: value
            for key, value in people.items()
            if not key.startswith(("kl", "ROUGE", "BLEU"))
        }
        result |= {"baselines": references.baselines(), PEOPLE: people}
    if bench.judge is not None:
        result["win_rates"] = judged_wins(measured, order, best)
    return result, measured


def gains(bench: Bench, measured: Mapping[str, Measured]) -> dict:
    """What PPO gains over SFT on the same prompts, by its own reward model and by the judge."""
    ppo, sft = measured["PPO"], measured["SFT"]
    found = with_interval("score_gain", ppo.scores - sft.scores)
    if bench.judge is not None:
        ours, theirs = (bench.judge.in_units(one.judged, sft.judged) for one in (ppo, sft))
        found |= with_interval("judge_gain", ours - theirs)
    return found


def judged_wins(
    measured: Mapping[str, Measured], order: Sequence[str], best: str
) -> dict[str, dict]:
    """{"A over B": win rate} by the judge: each policy over SFT and people, PPO over best of n."""
    pairs = [(name, "SFT") for name in order if name != "SFT"] + [("PPO", best)]
    pairs += [(name, PEOPLE) for name in order if PEOPLE in measured]
    found = {}
    for a, b in pairs:
        wins = wins_by_score(measured[a].judged, measured[b].judged)
        found[f"{a} over {b}"] = asdict(win_rate(wins, measured[a].lengths, measured[b].lengths))
    return found


def asked_wins(settings: Any, track: str, measured: Mapping[str, Measured]) -> dict[str, dict]:
    """{"PPO over SFT": win rate, ...} by the judge behind an endpoint, on the first ASKED prompts;
    {} without a key.

    Each pair is asked about in both orders. `unanswered` counts the pairs without a clear answer,
    `flipped` is the share whose verdict depended on the order. A judge that fails is said in one
    line, and what PPO learned is kept.
    """
    found: dict[str, dict] = {}
    try:
        judge = judge_of(settings, track)
        for name in (name for name in ("SFT", PEOPLE) if judge and name in measured):
            ppo, other = measured["PPO"], measured[name]
            prompts = [prompt.prompt for prompt in ppo.responses.prompts[:ASKED]]
            texts = ppo.responses.texts[:ASKED], other.responses.texts[:ASKED]
            judged = wins_by_judge(judge, prompts, *texts)
            rate = win_rate(judged.wins, ppo.lengths[:ASKED], other.lengths[:ASKED])
            found[f"PPO over {name}"] = asdict(rate) | {
                "flipped": judged.flipped.double().mean().item()
            }
    except (JudgeError, ValueError) as error:  # a wrong setting, or no verdict at all
        print(f"The judge behind --judge-url: {error}")
    return found


def other_sft(course: Course) -> dict[str, GPT]:
    """More SFT models to compare, from the folders checkpoints/sft-NAME of the run: {"SFT NAME":
    model}.
    """
    found = {}
    asked = {
        "stage": "sft",
        "track": course.track,
        "tokenizer": course.tokenizer,
        "device": course.device,
    }
    for folder in sorted(course.folder("sft").parent.glob("sft-*")):
        try:
            found[f"SFT {folder.name.removeprefix('sft-')}"], _ = load_stage(folder, **asked)
        except (
            CheckpointError
        ) as error:  # one that does not fit must not cost what PPO has just learned
            print(f"Not compared: {error}")
    return found


def on_real_rows(
    course: Course, models: Models, base: GPT, n: int = 8
) -> tuple[dict, dict[str, Responses]]:
    """What 3-PPO records where no gold reward is known: the table of policies, with what they are
    compared with; and the responses that it was made from.

    Beside "table": the judge's accuracy, gains, win rates and baselines of `compare_policies`;
    "asked", the win rates by a judge behind an endpoint; and PPO's score, kl, stop_rate and words,
    which every track records.
    """
    judge, metrics = load_judge(course)
    references = heldout_references(course)
    prompts, dtype = heldout_prompts(course, references), course.sampling_dtype
    bench = Bench(models, course.tokenizer, prompts, course.config, judge, references, dtype)
    policies = {"base": base, "SFT": models.reference, **other_sft(course), "PPO": models.policy}
    compared, measured = compare_policies(bench, policies, n)
    ppo = compared["table"]["PPO"]
    metrics |= {**compared, "asked": asked_wins(course.settings, course.track, measured)}
    metrics |= {name: ppo[name] for name in ("score", "kl", "stop_rate", "words")}
    print(table_text(metrics))
    return metrics, {name: one.responses for name, one in measured.items()}
