"""The policies side by side in an embedded world, by its gold reward."""

import math

from data.worlds import highest_gold
from helpers.compare.ceiling import best_by_gold
from helpers.compare.perplexity import response_nats
from helpers.compare.samples import TEMPERATURES, Sampler, name_at
from helpers.evaluation import Responses, bootstrap_ci95
from helpers.losses import kl_best_of_n
from helpers.model import GPT
from helpers.rollouts import Models
from helpers.run.course import Course
from helpers.tokenizer import Tokenizer

FEW = 64  # prompts that the base model and best of n are measured on
N_MAX = 64  # samples to each of FRONTIER prompts, for best of n by the gold reward
FRONTIER = 32


def evaluate_in_world(
    course: Course, models: Models, base: GPT, n: int, oracle: GPT | None = None
) -> tuple[dict, dict[str, Responses]]:
    """SFT and PPO at several temperatures, the base model, best of n and oracle PPO: metrics and
    responses.

    oracle: the policy of a PPO that had the gold reward in the reward model's place. What is shown
    against it is measured at temperature 1.
    """
    tokenizer, best = course.tokenizer, f"best of {n}"
    smoke = course.preset == "smoke"

    def sampler(limit: int) -> Sampler:
        prompts = course.rows("prompts", "heldout", limit)
        return Sampler(models, tokenizer, prompts, course.config, course.sampling_dtype)

    few, many = sampler(16 if smoke else FEW), sampler(course.config.eval_prompts)
    rows: dict[str, dict] = {}
    responses: dict[str, Responses] = {}

    def add(name: str, written: Responses, kl: float) -> None:
        responses[name] = written
        rows[name] = {"score": many.scores(written).mean().item(), "kl": kl, **written.report()}
        rows[name] |= {"gold_ci95": bootstrap_ci95(written.gold), "prompts": len(written.gold)}

    def add_policy(name: str, one: Sampler, model: GPT, temperature: float = 1.0) -> None:
        written = one.sample(model, temperature=temperature)
        kl = kl_of(model, models.reference, tokenizer, written, temperature)
        add(name_at(name, temperature), written, kl)

    add_policy("base", few, base)
    for temperature in TEMPERATURES:
        add_policy("SFT", many, models.reference, temperature)
    add(best, few.best_of(n), kl_best_of_n(n))
    for temperature in TEMPERATURES:
        add_policy("PPO", many, models.policy, temperature)
    if oracle is not None:
        add_policy("oracle PPO", many, oracle)
    n_max, resampled = (n, few) if smoke else (N_MAX, sampler(FRONTIER))
    frontier = best_by_gold(resampled.sample(models.reference, n_max), n_max)
    return {**known_metrics(rows, responses), "table": rows, "frontier": frontier}, responses


def kl_of(
    model: GPT, reference: GPT, tokenizer: Tokenizer, written: Responses, temperature: float
) -> float:
    """KL of a policy at a temperature from the reference at temperature 1, in nats per response,
    from the policy's responses. Where it gives one response to a prompt, that is - log p_SFT.
    """
    rows = tokenizer, written.prompts, written.ids
    nats, _ = response_nats(reference, *rows)
    if temperature:
        nats = nats - response_nats(model, *rows, temperature=temperature)[0]
    return nats.mean().item()


def known_metrics(rows: dict[str, dict], responses: dict[str, Responses]) -> dict:
    """What the report says of PPO: its own row, against SFT, against the highest gold reward that
    is possible, and against oracle PPO.
    """
    sft, ppo = responses["SFT"], responses["PPO"]
    gold, before = ppo.gold.mean().item(), sft.gold.mean().item()
    highest = highest_gold(ppo.prompts[0].world)
    metrics = {name: rows["PPO"][name] for name in ("score", "kl", *ppo.report())} | {
        "sft_gold_reward": before,
        "gold_gain_ci95": bootstrap_ci95(ppo.gold - sft.gold),
        "sft_flaws": sft.flaws(),
        "maximum_gold_reward": highest,
        "share_of_maximum": share(gold, before, highest),
    }
    for name in ("SFT", "PPO"):
        metrics[f"{name.lower()}_gold_by_temperature"] = {
            str(temperature): rows[name_at(name, temperature)]["gold_reward"]
            for temperature in TEMPERATURES
        }
    cooled = max(TEMPERATURES, key=lambda t: rows[name_at("SFT", t)]["gold_reward"])
    best_sft = responses[name_at("SFT", cooled)]
    metrics["gain_over_cooled_sft_ci95"] = bootstrap_ci95(ppo.gold - best_sft.gold)
    if "oracle PPO" in responses:
        oracle = responses["oracle PPO"].gold.mean().item()
        metrics |= {"oracle_gold_reward": oracle, "share_of_oracle": share(gold, before, oracle)}
    for name in ppo.flaws():
        metrics[f"{name}_drop_ci95"] = bootstrap_ci95(sft.flaw(name) - ppo.flaw(name))
    return metrics


def share(gold: float, before: float, most: float) -> float:
    """How much of the way from `before` to `most` a gold reward has come; nan if that is none."""
    return (gold - before) / (most - before) if most != before else math.nan
