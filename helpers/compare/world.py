"""The policies side by side in an embedded world, by its gold reward."""

from helpers.compare.perplexity import response_nats
from helpers.compare.samples import GREEDY, Sampler
from helpers.evaluation import Responses, bootstrap_ci95
from helpers.losses import kl_best_of_n
from helpers.model import GPT
from helpers.rollouts import Models, mean_kl
from helpers.run.course import Course

FEW = 64  # prompts that the base model and best of n are measured on


def evaluate_in_world(
    course: Course, models: Models, base: GPT, n: int
) -> tuple[dict, dict[str, Responses]]:
    """PPO against SFT, both also greedy, the base model and best of n on fewer prompts: metrics and
    responses.

    The KL of a greedy policy, which gives one response to a prompt, is - log p_SFT of that.
    """
    tokenizer, best = course.tokenizer, f"best of {n}"

    def sampler(limit: int) -> Sampler:
        prompts = course.rows("prompts", "heldout", limit)
        return Sampler(models, tokenizer, prompts, course.config, course.sampling_dtype)

    few = sampler(16 if course.preset == "smoke" else FEW)
    many = sampler(course.config.eval_prompts)
    policies = {"base": (few, base), "SFT": (many, models.reference), "PPO": (many, models.policy)}
    responses = {name: one.sample(model) for name, (one, model) in policies.items()}
    kls = {
        name: mean_kl(model, models.reference, tokenizer, responses[name])
        for name, (_, model) in policies.items()
    }
    responses[best], kls[best] = few.best_of(n), kl_best_of_n(n)
    for name in ("SFT", "PPO"):
        written = many.sample(policies[name][1], temperature=0)
        nats, _ = response_nats(models.reference, tokenizer, written.prompts, written.ids)
        responses[name + GREEDY], kls[name + GREEDY] = written, nats.mean().item()
    rows = {
        name: {"score": many.scores(written).mean().item(), "kl": kls[name], **written.report()}
        for name, written in responses.items()
    }
    table = {}
    for name in ("base", "SFT", f"SFT{GREEDY}", best, "PPO", f"PPO{GREEDY}"):
        gold = responses[name].gold
        table[name] = rows[name] | {"gold_ci95": bootstrap_ci95(gold), "prompts": len(gold)}
    sft, ppo = responses["SFT"], responses["PPO"]
    metrics = {
        **rows["PPO"],
        "table": table,
        "sft_gold_reward": rows["SFT"]["gold_reward"],
        "gold_gain_ci95": bootstrap_ci95(ppo.gold - sft.gold),
        "sft_flaws": rows["SFT"]["flaws"],
    }
    for name in ppo.flaws():
        metrics[f"{name}_drop_ci95"] = bootstrap_ci95(sft.flaw(name) - ppo.flaw(name))
    return metrics, responses
