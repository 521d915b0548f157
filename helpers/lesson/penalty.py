"""Two reward models and the KL penalty: what 3-PPO's last experiment trains, and what
`python -m benchmarks.penalty` has recorded of it.
"""

import copy
import json
from dataclasses import replace

from helpers import reward
from helpers.config import PPOConfig, RewardConfig
from helpers.engine.files import ROOT
from helpers.engine.loop import Loop
from helpers.lesson import policies as lesson
from helpers.model import GPT, RewardModel
from helpers.records import Prompt
from helpers.run.course import Course

RECORDED = ROOT / "docs" / "penalty.json"


def hasty_settings(config: RewardConfig) -> RewardConfig:
    """The settings of the weak reward model."""
    return replace(config, comparisons=400, batch_size=16, lr=1e-3, muon_lr=0.0)


def weak_reward_model(course: Course, sft: GPT, prompts: list[Prompt]) -> RewardModel:
    """A hasty reward model: a head without the surprise weight, all weights trained with AdamW on a
    few hundred pairs that differ in one thing. It is normalised like the good one.
    """
    hasty = hasty_settings(course.config_of("reward"))
    pairs = [
        reward.encode_comparison(row, course.tokenizer, sft.config.context)
        for row in lesson.narrow_comparisons(course, hasty.comparisons)
    ]
    weak = RewardModel(copy.deepcopy(sft).requires_grad_(True), 0.0).to(course.device)
    batches = reward.comparison_batches(pairs, hasty, course.tokenizer.pad_id)
    reward.train(weak, batches, hasty, Loop("weak reward model", course.dtype, lines=1))
    reward.normalise_on(weak.requires_grad_(False), sft, course.tokenizer, prompts[:200], hasty)
    return weak


def fast_settings(config: PPOConfig, kl_coef: float, smoke: bool = False) -> PPOConfig:
    """The settings of one run of the experiment: small rollouts, four passes over each, and twice
    the learning rates, so that few samples move the policy far.
    """
    rates = {name: 2 * getattr(config, name) for name in ("lr", "muon_lr", "adapter_lr")}
    sizes = {"rollout_size": 32, "minibatch_size": min(16, config.minibatch_size), "epochs": 4}
    sizes["iterations"] = 2 if smoke else 20
    return replace(config, kl_coef=kl_coef, kl_target=0.0, **sizes, **rates)


def recorded() -> dict:
    """What `python -m benchmarks.penalty` has recorded."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def coefficients_of(record: dict) -> list[float]:
    """The coefficients of the recorded runs, the smallest first."""
    return sorted({run["kl_coef"] for run in record["runs"]})


def runs_of(record: dict, reward_model: str, kl_coef: float) -> list[dict]:
    """The recorded runs with a reward model ("good" or "weak") and a coefficient, one a seed."""
    asked = {"reward_model": reward_model, "kl_coef": kl_coef}
    return [run for run in record["runs"] if asked.items() <= run.items()]


def mean_gold(runs: list[dict], when: str = "policy") -> float:
    """The mean gold reward of some runs' policies; when="sft": of what they started from."""
    return sum(run[when]["gold"] for run in runs) / len(runs)


def mean_flaws(runs: list[dict], when: str = "policy") -> dict[str, float]:
    """The mean share of each flaw."""
    names = runs[0][when]["flaws"]
    return {name: sum(run[when]["flaws"][name] for run in runs) / len(runs) for name in names}


def gold_differences(runs: list[dict], others: list[dict]) -> list[float]:
    """Gold reward of `runs` minus that of `others`, seed by seed."""
    pairs = zip(runs, others, strict=True)
    return [run["policy"]["gold"] - other["policy"]["gold"] for run, other in pairs]
