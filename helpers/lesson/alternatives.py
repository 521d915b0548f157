"""What bonus/4-Alternatives trains and measures, and what `python -m benchmarks.alternatives` has
recorded of it.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean

import torch
from torch import Tensor, nn

from data.worlds import highest_gold
from helpers.alternatives import METHODS, NoValues, labelled_responses, sampled_responses
from helpers.compare.samples import TEMPERATURES, Sampler, name_at
from helpers.config import PPOConfig
from helpers.engine.files import ROOT
from helpers.evaluation import Responses, bootstrap_ci95
from helpers.model import GPT, RewardModel, last_real_token
from helpers.records import Prompt
from helpers.rollouts import Models, Rollout, mean_kl
from helpers.run.course import Course
from helpers.run.policy_table import aligned, number_text

RECORDED = ROOT / "docs" / "alternatives.json"
OFFLINE = "DPO on comparisons"  # the method that samples nothing
AT_THE_END = "PPO, paid at the end"  # the whole score with the last token, as the others have it


def quick_settings(course: Course) -> PPOConfig:
    """PPO's settings with about a third of its iterations; for `smoke` as little as runs at all."""
    if course.preset == "smoke":
        return replace(course.config, iterations=2, rollout_size=16, minibatch_size=8)
    return replace(course.config, iterations=12)


def rollouts_of(
    name: str, course: Course, models: Models, prompts: list[Prompt]
) -> Iterator[Rollout]:
    """Where a method's responses come from: the policy, or the comparisons."""
    if name == OFFLINE:
        comparisons = course.rows("comparisons", "train", course.config_of("reward").comparisons)
        return labelled_responses(models, comparisons, course.config, course.tokenizer)
    group = METHODS[name].group
    return sampled_responses(models, prompts, group, course.config, course.tokenizer)


class PaidAtTheEnd(nn.Module):
    """A reward model whose whole score comes with a response's last token."""

    def __init__(self, model: RewardModel):
        super().__init__()
        self.model = model

    def by_token(self, ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Tensor:
        """What each token adds to the score, (B, T), as `RewardModel.by_token`."""
        scores = self.model.by_token(ids, attention_mask, completion_mask).sum(1)  # (B,)
        added = torch.zeros(ids.shape, device=ids.device)
        added[torch.arange(len(ids)), last_real_token(completion_mask)] = scores
        return added


def without_value_model(models: Models, policy: GPT) -> Models:
    """The models around this policy, with zeros for values."""
    return replace(models, policy=policy, value=NoValues(policy))


def measure(course: Course, models: Models, prompts: list[Prompt]) -> tuple[dict, Responses]:
    """Gold reward, score, KL and flaws of the policy on held-out prompts, and its responses."""
    sampler = Sampler(models, course.tokenizer, prompts, course.config, course.sampling_dtype)
    responses = sampler.sample(models.policy)
    kl = mean_kl(models.policy, models.reference, course.tokenizer, responses)
    scores = sampler.scores(responses)
    about = {"score": scores.mean().item(), "kl": kl, "gold_ci95": bootstrap_ci95(responses.gold)}
    return {**responses.report(), **about}, responses


def recorded() -> dict:
    """What `python -m benchmarks.alternatives` has recorded."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def differences(record: dict, name: str, other: str, key: str = "gold_reward") -> Tensor:
    """A number of one method minus that of another, for each seed that has both."""
    first, second = (
        {run["seed"]: run[key] for run in runs_of(record, method)} for method in (name, other)
    )
    return torch.tensor([first[seed] - second[seed] for seed in first if seed in second])


def require_known_world(course: Course) -> None:
    """Raise ValueError, in one line, unless the run is on the embedded tldr world."""
    if course.source != "embedded" or course.track != "tldr":
        raise ValueError(
            "4-Alternatives compares by the gold reward of the embedded track tldr, and this run "
            f"is on {course.track} with {course.source} rows: run it without RLHF_TRACK, "
            "RLHF_SOURCE and RLHF_DATA_DIR"
        )


def result_line(name: str, result: dict) -> str:
    """A policy's measurements in one line."""
    low, high = result["gold_ci95"]
    gold = f"gold {result['gold_reward']:5.2f} [{low:.2f}, {high:.2f}]"
    return f"{name:19} {gold:24} KL {result['kl']:5.2f}  score {result['score']:+.2f}"


def flaw_line(result: dict) -> str:
    """The share of a policy's responses with each flaw, in one line."""
    flaws = (f"{name.replace('_', ' ')} {share:.0%}" for name, share in result["flaws"].items())
    return f"{'':19} {', '.join(flaws)}"


def results_table(results: dict[str, dict]) -> str:
    """The measurements of several policies, the highest gold reward first."""
    order = sorted(results, key=lambda name: -results[name]["gold_reward"])
    flaws = [flaw.replace("_", " ") for flaw in results[order[0]]["flaws"]]
    rows = []
    for name in order:
        result = results[name]
        gold = number_text(result["gold_reward"], result["gold_ci95"], ".2f")
        shares = (f"{share:.0%}" for share in result["flaws"].values())
        rows.append([name, gold, f"{result['kl']:.2f}", f"{result['score']:.2f}", *shares])
    return aligned(["method", "gold [95% interval]", "KL", "score", *flaws], rows)


def runs_of(record: dict, name: str) -> list[dict]:
    """A method's recorded runs, one a seed."""
    return [run for run in record["runs"] if run["method"] == name]


def figure_data(record: dict) -> tuple[dict, dict, list, float]:
    """The arguments of `plots.methods_figure` from what is recorded."""
    points = {
        name: [(run["kl"], run["gold_reward"]) for run in runs_of(record, name)]
        for name in ("PPO", AT_THE_END, *METHODS)
        if runs_of(record, name)
    }
    curves = {
        "best of n by gold": mean_curve(runs_of(record, "frontier")),
        "best of n by score": mean_curve(runs_of(record, "best of n")),
    }
    cooled = []
    for temperature in TEMPERATURES:
        runs = runs_of(record, name_at("SFT", temperature))
        cooled.append(tuple(mean(run[key] for run in runs) for key in ("kl", "gold_reward")))
    return points, curves, cooled, highest_gold("tldr")


def mean_curve(runs: list[dict]) -> dict[str, list[float]]:
    """The mean over seeds of recorded curves of best of n."""
    return {
        key: [mean(values) for values in zip(*(run["curve"][key] for run in runs), strict=True)]
        for key in ("n", "kl", "gold")
    }


def comparison_table(record: dict) -> str:
    """Each recorded method's gold reward and KL, and by how much PPO is above it: the mean of the
    seeds' differences, with its 95% interval.
    """
    rows = []
    for name in ("PPO", AT_THE_END, *METHODS):
        runs = runs_of(record, name)
        if not runs:
            continue
        gold, kl = (mean(run[key] for run in runs) for key in ("gold_reward", "kl"))
        above = differences(record, "PPO", name)
        low, high = bootstrap_ci95(above)
        difference = "" if name == "PPO" else f"{above.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
        rows.append([name, str(len(runs)), f"{gold:.2f}", f"{kl:.1f}", difference])
    return aligned(["method", "seeds", "gold", "KL", "PPO is above it by"], rows)
