"""What 3-PPO shows of its policies: in an embedded world their gold reward and flaws, on real rows
the scores of a second judge and how far the texts have moved.
"""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from helpers.compare.policies import Evaluation, measure_responses, row_of
from helpers.compare.samples import TEMPERATURES, name_at
from helpers.compare.second_judge import load_judge
from helpers.evaluation import Responses, bootstrap_ci95
from helpers.lesson.plots.policies import comparison_figure, policies_figure
from helpers.lesson.plots.ppo_run import ceiling_figure
from helpers.model import GPT
from helpers.records import Comparison, Prompt
from helpers.reward import score_responses
from helpers.rollouts import Models
from helpers.run.course import Course
from helpers.run.policy_table import aligned, number_text

# Pairs of an embedded world that differ in one thing only, and in nothing else that matters.
ONE_THING = {"tldr": "verbose", "sentiment": "sentiment"}
COLUMNS = ("score", "judge", "kl", "perplexity", "distinct-2", "words", "stop_rate")


def show_policies(metrics: Mapping) -> None:
    """Print the tables of policies of an embedded world, and what PPO gained over SFT. Those of
    real rows were printed while they were measured.
    """
    if "gold_reward" not in metrics:
        return
    table, (low, high) = metrics["table"], metrics["gold_gain_ci95"]
    measures, shares = [], []
    for name, row in table.items():
        gold = number_text(row["gold_reward"], row["gold_ci95"], ".2f")
        numbers = [f"{row['score']:.2f}", f"{row['kl']:.2f}", f"{row['stop_rate']:.1%}"]
        measures.append([name, str(row["prompts"]), gold, *numbers, f"{row['words']:.1f}"])
        shares.append([name, *(f"{share:.1%}" for share in row["flaws"].values())])
    flaws = [flaw.replace("_", " ") for flaw in table["SFT"]["flaws"]]
    heads = ["prompts", "gold [95% interval]", "score", "KL", "stop rate", "words"]
    print(aligned(["policy", *heads], measures), end="\n\n")
    print(aligned(["share of responses", *flaws], shares))
    gain = metrics["gold_reward"] - metrics["sft_gold_reward"]
    print(f"\ngold reward gained by PPO over SFT: {gain:+.2f} [{low:+.2f}, {high:+.2f}]")


def figure_of_policies(metrics: Mapping) -> Figure:
    """The table of policies as a figure, without the temperatures between 0 and 1."""
    if "gold_reward" not in metrics:
        return policies_figure(metrics)
    table = {name: row for name, row in metrics["table"].items() if ", T = " not in name}
    gold = {name: (row["gold_reward"], *row["gold_ci95"]) for name, row in table.items()}
    return comparison_figure(gold, {name: row["flaws"] for name, row in table.items()})


def figure_of_ceiling(
    metrics: Mapping, history: Sequence[dict], oracle: Sequence[dict]
) -> Figure | None:
    """Gold reward against KL, for all that is known in an embedded world; None on real rows."""
    if "frontier" not in metrics:
        return None
    table = metrics["table"]

    def place(name: str, label: str) -> tuple[str, float, float]:
        return label, table[name]["kl"], table[name]["gold_reward"]

    def cooled(name: str) -> list[tuple[str, float, float]]:
        ends = max(TEMPERATURES), min(TEMPERATURES)
        labels = [f"T = {one:g}" if one in ends else "" for one in TEMPERATURES]
        names = [name_at(name, one) for one in TEMPERATURES]
        return [place(*named) for named in zip(names, labels, strict=True)]

    points = {"SFT, cooled": cooled("SFT"), "PPO, cooled": cooled("PPO")}
    points["oracle PPO"] = [place("oracle PPO", "")]
    best = next(name for name in table if name.startswith("best of"))
    points[f"{best}, by the reward model"] = [place(best, "")]
    runs = {"PPO": history, "oracle PPO": oracle}
    return ceiling_figure(metrics["frontier"], runs, points, metrics["maximum_gold_reward"])


def show_shares(metrics: Mapping) -> None:
    """Print how near PPO has come to the best that is known; nothing on real rows."""
    if "share_of_oracle" not in metrics:
        return
    sft, ppo = metrics["sft_gold_reward"], metrics["gold_reward"]
    oracle, highest = metrics["oracle_gold_reward"], metrics["maximum_gold_reward"]
    print(
        f"gold reward: SFT {sft:.2f}, PPO {ppo:.2f}, oracle PPO {oracle:.2f}, highest {highest:g}"
    )
    print(f"PPO has gone {metrics['share_of_maximum']:.0%} of the way from SFT to the highest")
    print(f"and has {metrics['share_of_oracle']:.0%} of what oracle PPO gains")


def narrow_comparisons(course: Course, most: int) -> list[Comparison]:
    """Comparisons that differ in one thing only, where the rows say which do; else the first."""
    rows = course.rows("comparisons", "train")
    kind = ONE_THING.get(course.track) if course.source == "embedded" else None
    return [row for row in rows if kind is None or row.kind == kind][:most]


def compare_runs(
    course: Course, runs: Mapping[str, tuple[Models, GPT]], prompts: list[Prompt]
) -> dict[str, Responses]:
    """Sample every policy on the same prompts ("SFT" among them) and print what is known of its
    responses. runs: {name: (the models that it was trained with, the policy)}, each scored by its
    reward model.
    """
    judge = None if prompts[0].facts is not None else load_judge(course)[0]
    dtype = course.sampling_dtype
    evaluations = {
        name: Evaluation(models, course.tokenizer, prompts, course.config, dtype, judge)
        for name, (models, _) in runs.items()
    }
    responses = {name: evaluations[name].sample(policy) for name, (_, policy) in runs.items()}
    if responses["SFT"].known:
        for name, (models, _) in runs.items():
            print_gold(name, models, course, responses[name])
        return responses
    measured = {
        name: measure_responses(evaluations[name], responses[name], policy)
        for name, (_, policy) in runs.items()
    }
    rows = {
        name: row_of(evaluations[name], one, measured["SFT"], 1) for name, one in measured.items()
    }
    columns = [name for name in COLUMNS if name in rows["SFT"]]
    print(f"{'':18}" + "".join(f"{name:>12}" for name in columns))
    for name, row in rows.items():
        print(f"{name:18}" + "".join(f"{row[column]:12.2f}" for column in columns))
    return responses


def print_gold(name: str, models: Models, course: Course, responses: Responses) -> None:
    """Two lines: the score by a run's reward model and the gold reward; the flaws."""
    score = score_responses(models.reward, course.tokenizer, responses).mean()
    low, high = bootstrap_ci95(responses.gold)
    flaws = "  ".join(f"{flaw.replace('_', ' ')} {x:.0%}" for flaw, x in responses.flaws().items())
    gold = f"gold {responses.gold.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
    print(f"{name:<17} score {score:+.2f}   {gold}\n    {flaws}")
