"""What `python -m benchmarks.overoptimisation` has recorded, as 5-Clinic shows it: PPO's path of
score and gold reward over the distance from the SFT model, Gao's fits, tables.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from helpers.engine.files import ROOT
from helpers.run.policy_table import aligned

RECORDED = ROOT / "docs" / "overoptimisation.json"
KINDS = {False: "scalar head", True: "with surprise"}
PANELS = (  # of the figure: title, with the surprise weight, best of n
    ("PPO, scalar head", False, False),
    ("PPO, with the surprise weight", True, False),
    ("best of n, scalar head", False, True),
)
Path = dict[str, list[float]]


@dataclass(frozen=True)
class Fit:
    """gold(d) - gold(0) = d (alpha - beta f(d)), d the square root of the KL."""

    alpha: float
    beta: float
    explained: float  # R^2
    peak: float  # d where the gold reward is highest; inf if it only rises


def fit(kls: Sequence[float], gains: Sequence[float], best_of_n: bool) -> Fit:
    """The least-squares fit of gold gains over the KL: f(d) = d for best of n, ln d for RL.

    Source: Gao et al. 2022, "Scaling laws for reward model overoptimization".
    """
    points = [(math.sqrt(kl), gain) for kl, gain in zip(kls, gains, strict=True) if kl > 1e-3]
    d, gain = (torch.tensor(column, dtype=torch.float64) for column in zip(*points, strict=True))
    columns = torch.stack([d, -d * (d if best_of_n else d.log())], 1)  # (N, 2)
    alpha, beta = torch.linalg.lstsq(columns, gain[:, None]).solution[:, 0].tolist()
    left = gain - columns @ torch.tensor([alpha, beta], dtype=torch.float64)
    explained = 1 - (left.square().sum() / (gain - gain.mean()).square().sum()).item()
    # A beta of nearly 0, as of a curve that only rises, has its peak beyond all numbers.
    peak = math.inf
    if beta > 0:
        peak = alpha / (2 * beta) if best_of_n else math.exp(min(alpha / beta - 1, 700.0))
    return Fit(alpha, beta, explained, peak)


def recorded() -> dict:
    """What `python -m benchmarks.overoptimisation` has recorded."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def runs_of(record: dict, surprise: bool, size: int, cure: str = "") -> list[dict]:
    """The recorded runs against one kind of reward model, one a seed."""
    asked = {"surprise": surprise, "size": size, "cure": cure}
    return [run for run in record["runs"] if asked.items() <= run.items()]


def path_of(run: dict) -> Path:
    """PPO's log, {"kl", "score", "gold", ...}: means of three iterations, as each has few
    responses.
    """
    return {key: of_three(values) for key, values in run["curves"].items()}


def of_three(values: Sequence[float]) -> list[float]:
    """The mean of each value and its two neighbours."""
    return [mean(values[max(0, i - 1) : i + 2]) for i in range(len(values))]


def mean_path(paths: Sequence[Path]) -> Path:
    """The mean of several paths, point by point."""
    return {
        key: [mean(values) for values in zip(*(path[key] for path in paths), strict=True)]
        for key in ("kl", "score", "gold")
    }


def panels(record: dict) -> tuple[dict, dict]:
    """The arguments of `plots.overoptimisation_figure`: PPO against each kind of reward model, and
    best of n by the scalar heads.
    """
    paths, fits = {}, {}
    for panel, surprise, best_of_n in PANELS:
        paths[panel], fits[panel] = {}, {}
        for size in sizes(record):
            runs = runs_of(record, surprise, size)
            paths[panel][size] = [run["best_of_n"] if best_of_n else path_of(run) for run in runs]
            if surprise:
                continue  # no fall to describe
            mean_of_runs = mean_path(points_of(runs, best_of_n))
            found, far = fit_of(runs, best_of_n), max(mean_of_runs["kl"]) ** 0.5
            places = [far * i / 50 for i in range(1, 51)]
            golds = [mean_of_runs["gold"][0] + gain_at(d, found, best_of_n) for d in places]
            fits[panel][size] = places, golds
    return paths, fits


def points_of(runs: Sequence[dict], best_of_n: bool) -> list[Path]:
    """What is fitted, of each run: the best of each n, or PPO's iterations as they are."""
    return [run["best_of_n" if best_of_n else "curves"] for run in runs]


def sizes(record: dict) -> list[int]:
    """How many comparisons the recorded reward models learned from."""
    return sorted({run["size"] for run in record["runs"]})


def fit_of(runs: Sequence[dict], best_of_n: bool) -> Fit:
    """The fit of the mean gold reward over the seeds, as a gain over its first point, where the KL
    is 0.
    """
    path = mean_path(points_of(runs, best_of_n))
    return fit(path["kl"], [gold - path["gold"][0] for gold in path["gold"]], best_of_n)


def gain_at(d: float, found: Fit, best_of_n: bool) -> float:
    """The fitted gain in gold reward at the distance d = sqrt(KL)."""
    return d * (found.alpha - found.beta * (d if best_of_n else math.log(d)))


def peaks_table(record: dict) -> str:
    """Each reward model: how good it is, where PPO's gold reward and score were highest (mean over
    the seeds), how each seed ended on held-out posts, and the fit.
    """
    heads = ["reward model", "comparisons", "accuracy", "highest gold", "at KL", "iteration"]
    heads += ["highest score", "gold at the end", "alpha", "beta", "R^2", "peak at KL"]
    rows = []
    for surprise in KINDS:
        for size in sizes(record):
            runs = runs_of(record, surprise, size)
            path = mean_path([path_of(run) for run in runs])
            top = argmax(path["gold"])
            row = [KINDS[surprise], f"{size:,}", f"{mean(run['accuracy'] for run in runs):.3f}"]
            row += [f"{path['gold'][top]:.1f}", f"{path['kl'][top]:.0f}", str(top + 1)]
            row += [f"iteration {argmax(path['score']) + 1}"]
            row += [" ".join(f"{run['gold']:.1f}" for run in runs)]
            found = fit_of(runs, best_of_n=False)
            fitted = [f"{x:.1f}" for x in (found.alpha, found.beta)] + [f"{found.explained:.2f}"]
            rows.append(row + (["", "", "", ""] if surprise else [*fitted, f"{found.peak**2:.0f}"]))
    return aligned(heads, rows)


def argmax(values: Sequence[float]) -> int:
    """The place of the highest value."""
    return max(range(len(values)), key=values.__getitem__)


def cures_table(record: dict) -> str:
    """Remedies for the over-optimisation of the scalar head from 2,000 comparisons, after all
    iterations.
    """
    bare = runs_of(record, False, 2_000)
    rows = []
    for cure in dict.fromkeys(run["cure"] for run in record["runs"]):
        runs = runs_of(record, False, 2_000, cure)
        gold, kl, words = (mean(run[key] for run in runs) for key in ("gold", "kl", "words"))
        mixed_up = mean(run["flaws"]["hallucination"] for run in runs)
        pairs = zip(runs, bare, strict=True)
        more = " ".join(f"{run['gold'] - other['gold']:+.1f}" for run, other in pairs)
        row = [cure or "none", f"{gold:.1f}", more if cure else "", f"{kl:.0f}", f"{words:.0f}"]
        rows.append([*row, f"{mixed_up:.0%}"])
    return aligned(["remedy", "gold", "seed by seed", "KL", "words", "mixes up a fact"], rows)


def bought(record: dict) -> tuple[dict, float]:
    """The arguments of `plots.accuracy_figure`: (accuracy, gold reward, comparisons) of each reward
    model and seed, for the best of the largest n and for PPO without a penalty; the gold reward of
    SFT.
    """
    n = record["runs"][0]["best_of_n"]["n"][-1]
    panels: dict = {f"best of {n}": {}, "PPO without a penalty": {}}
    for surprise, kind in KINDS.items():
        runs = [run for size in sizes(record) for run in runs_of(record, surprise, size)]
        ends = [[run["best_of_n"]["gold"][-1] for run in runs], [run["gold"] for run in runs]]
        for panel, golds in zip(panels.values(), ends, strict=True):
            panel[kind] = [(run["accuracy"], gold, run["size"]) for run, gold in zip(runs, golds)]
    return panels, mean(run["sft"]["gold"] for run in record["runs"])


def slopes_table(record: dict) -> str:
    """The slope of each reward model's score over the length, within posts, seed by seed."""
    rows = []
    for surprise in KINDS:
        for size in sizes(record):
            slopes = [run["slope"] for run in runs_of(record, surprise, size)]
            row = [KINDS[surprise], f"{size:,}", f"{mean(slopes):+.3f}"]
            rows.append([*row, " ".join(f"{slope:+.3f}" for slope in slopes)])
    return aligned(["reward model", "comparisons", "slope", "seed by seed"], rows)
