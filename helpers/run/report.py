"""The report of a run and its final table, assembled from what the four notebooks recorded.

The notebooks call `course.record(...)` with the names in REQUIRED, and may record more. `table`
(ppo) has one row per policy, in the order to show them: {"base": {"gold_reward": ..., "flaws":
{...}, "kl": ..., "stop_rate": ...}, "SFT": {...}, "PPO": {...}}; on real rows it holds what
`helpers.compare.policies` measures. Losses are nats per token, KL nats per response, rates and
accuracies fractions, the gold reward is in its world's own unit.
"""

import json
import math
from pathlib import Path
from typing import Any

from helpers.run.folders import NOTEBOOKS
from helpers.run.policy_table import Table, aligned, number_text, tables as real_tables

NUMBER, PAIR, GROUP = "a finite number", "a pair of finite numbers", "a group of finite numbers"
ROWS = "a row of numbers for each policy"
REQUIRED: dict[str, dict[str, str]] = {  # on every source
    "pretrain": {"heldout_loss": NUMBER, "tokens": NUMBER},
    "sft": {"heldout_loss": NUMBER, "stop_rate": NUMBER},
    "reward": {"accuracy": NUMBER},
    "ppo": {"score": NUMBER, "kl": NUMBER, "stop_rate": NUMBER, "table": ROWS},
}
REQUIRED_EMBEDDED: dict[str, dict[str, str]] = {  # and where the world is known
    "pretrain": {"entropy_floor": NUMBER},
    "sft": {"entropy_floor": NUMBER, "gold_reward": NUMBER},
    "reward": {"bayes_accuracy": NUMBER, "comparisons": NUMBER},
    "ppo": {
        "gold_reward": NUMBER,
        "sft_gold_reward": NUMBER,
        "gold_gain_ci95": PAIR,
        "flaws": GROUP,
        "sft_flaws": GROUP,
    },
}
REQUIRED_REAL: dict[str, dict[str, str]] = {"reward": {"accuracy_ci95": PAIR}}
IDENTITY = ("preset", "track", "source", "seed")


class ReportError(ValueError):
    """Metrics are missing, or come from runs with different settings."""


def required(stage: str, source: str) -> dict[str, str]:
    """{name: kind} of the values that a stage must record on this source of rows."""
    more = REQUIRED_EMBEDDED if source == "embedded" else REQUIRED_REAL
    return REQUIRED[stage] | more.get(stage, {})


def assemble(out: Path) -> dict[str, Any]:
    """The report of the run folder `out`, from its metrics/*.json.

    Returns {"preset", "track", "source", "seed", "seconds": {stage: s}, "warnings": [...],
    "own_functions": [...], "pretrain": {...}, "sft": {...}, ...}. On one machine only `seconds`
    differs between two runs with the same settings and threads. Raises a ReportError that names all
    that is missing.
    """
    metrics = read_metrics(out)
    missing = [
        f"{stage} (run {NOTEBOOKS[stage]}.ipynb)" for stage in REQUIRED if stage not in metrics
    ]
    for stage, values in metrics.items():
        missing += [
            f"{stage}.{name} ({kind})"
            for name, kind in required(stage, values.get("source")).items()
            if not fits(values.get(name), kind)
        ]
    if missing:
        raise ReportError(f"the report lacks {', '.join(missing)}")

    settings = {tuple(values.get(key) for key in IDENTITY) for values in metrics.values()}
    if len(settings) > 1:
        listed = " and ".join("-".join(map(str, setting)) for setting in sorted(settings, key=str))
        raise ReportError(f"the stages were run with different settings: {listed}")
    report: dict[str, Any] = dict(zip(IDENTITY, settings.pop()))
    report["seconds"] = {stage: values.get("seconds") for stage, values in metrics.items()}
    report["warnings"] = [
        f"{NOTEBOOKS[stage]}: {text}"
        for stage, values in metrics.items()
        for text in values.get("warnings") or ()
    ]
    report["own_functions"] = [
        name for values in metrics.values() for name in values.get("own_functions") or ()
    ]
    elsewhere = {"stage", "seconds", "curves", "warnings", "own_functions", *IDENTITY}
    for stage, values in metrics.items():
        report[stage] = {name: value for name, value in values.items() if name not in elsewhere}
    return report


def read_metrics(out: Path) -> dict[str, dict[str, Any]]:
    """{stage: what it recorded} for the stages that have run, in order. Raises ReportError."""
    return {stage: read_json(out / "metrics" / f"{stage}.json") for stage in stages_done(out)}


def stages_done(out: Path) -> list[str]:
    """The stages that have recorded something in a run folder, in order."""
    return [stage for stage in REQUIRED if (out / "metrics" / f"{stage}.json").exists()]


def read_json(path: Path) -> dict[str, Any]:
    """What a stage has recorded in a file. Raises ReportError when it is damaged."""
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(recorded, dict):
            return recorded
        reason = "no JSON object"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    raise ReportError(f"{path} is damaged ({reason}): run {NOTEBOOKS[path.stem]}.ipynb again")


def fits(value: Any, kind: str) -> bool:
    """Whether a recorded value is of the kind that the report needs."""
    if kind == PAIR:
        pair = isinstance(value, list) and len(value) == 2
        return pair and (value == [None, None] or all(map(is_number, value)))  # None: too few rows
    if kind == GROUP:
        return isinstance(value, dict) and bool(value) and all(map(is_number, value.values()))
    if kind == ROWS:
        rows = value.values() if isinstance(value, dict) else []
        some = (isinstance(row, dict) and any(map(is_number, row.values())) for row in rows)
        return bool(rows) and all(some)
    return is_number(value)


def is_number(value: Any) -> bool:
    """Whether a value is one finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def tables(report: dict[str, Any]) -> list[Table]:
    """The tables of policies: one on an embedded world, on real rows one per block."""
    if report["source"] == "embedded":
        return [gold_table(report["ppo"]["table"])]
    return real_tables(report["ppo"])


def gold_table(rows: dict[str, dict[str, Any]]) -> Table:
    """Gold reward, flaws, KL and stop rate of the policies, a dash for what was not recorded."""
    flaws = list(dict.fromkeys(flaw for row in rows.values() for flaw in row.get("flaws") or {}))
    titles = [flaw.replace("_", " ") for flaw in flaws]
    body = [
        [
            policy,
            number_text(row.get("gold_reward")),
            *(number_text((row.get("flaws") or {}).get(flaw), form=".1%") for flaw in flaws),
            number_text(row.get("kl")),
            number_text(row.get("stop_rate"), form=".1%"),
        ]
        for policy, row in rows.items()
    ]
    return ["policy", "gold reward", *titles, "KL (nats)", "stop rate"], body


def excess(loss: float, floor: float) -> float:
    """How far a loss is above its floor, as a fraction of the floor."""
    return loss / floor - 1


def way_to_bayes(accuracy: float, bayes: float) -> float:
    """How far an accuracy has come from chance (one half) to the best possible, as a fraction."""
    return (accuracy - 0.5) / (bayes - 0.5)


def final_table(report: dict[str, Any]) -> str:
    """The text at the end of a course: the policies side by side, then a line for each stage."""
    return "\n".join([*(f"{aligned(*table)}\n" for table in tables(report)), summary(report)])


def summary(report: dict[str, Any]) -> str:
    """A line for each stage, the time, the learner's functions and the warnings."""
    seconds = report["seconds"]
    minutes = " + ".join(map(duration, seconds.values()))
    time = f"time          {minutes} = {total_duration(seconds)}, to the checkpoints"
    own = [f"trained with  {own_text(report)}"] if report["own_functions"] else []
    warnings = [f"WARNING in {text}" for text in report["warnings"]]
    return "\n".join([*stage_lines(report), time, *own, *warnings])


def own_text(report: dict[str, Any]) -> str:
    """The learner's functions with which the stages were trained, in words."""
    names = report["own_functions"]
    count = f"{len(names)} of your functions" if len(names) > 1 else "one of your functions"
    return f"{count}: {', '.join(names)}"


def stage_lines(report: dict[str, Any]) -> list[str]:
    """One line per stage: against its ceiling, or on real rows against a baseline."""
    pretrain, sft, reward, ppo = (report[stage] for stage in REQUIRED)
    accuracy = f"accuracy {number_text(reward['accuracy'], reward.get('accuracy_ci95'))}"
    if report["source"] == "embedded":
        losses = [
            f"{loss_text(stage, 'entropy_floor', 'entropy floor')} "
            f"({excess(stage['heldout_loss'], stage['entropy_floor']):+.1%})"
            for stage in (pretrain, sft)
        ]
        way = way_to_bayes(reward["accuracy"], reward["bayes_accuracy"])
        accuracy += f", Bayes {reward['bayes_accuracy']:.3f} ({way:.0%} of the way from chance)"
    else:
        stops = f"stop rate {sft['stop_rate']:.1%}"
        losses = [
            loss_text(pretrain, "bigram_loss", "bigram"),
            f"{loss_text(sft, 'base_loss', 'base model')}, {stops}",
        ]
    return [
        f"pretraining   loss {losses[0]}",
        f"SFT           loss {losses[1]}",
        f"reward model  {accuracy}",
        f"PPO           {gain_text(ppo)}",
    ]


def loss_text(stage: dict[str, Any], name: str, label: str) -> str:
    """A held-out loss and, if the stage recorded it as `name`, what it is compared with."""
    known = is_number(stage.get(name))
    return f"{stage['heldout_loss']:.3f}" + (f", {label} {stage[name]:.3f}" if known else "")


def gain_of(ppo: dict[str, Any]) -> tuple[str, float, list[float]] | None:
    """What PPO gained over SFT: the measure's name, the gain, its 95% interval.

    The measure is the gold reward, else the second judge's verdict, else the score; None if no gain
    was recorded.
    """
    if "gold_gain_ci95" in ppo:
        return "gold reward", ppo["gold_reward"] - ppo["sft_gold_reward"], ppo["gold_gain_ci95"]
    for name, measure in (("judge_gain", "second judge's verdict"), ("score_gain", "score")):
        if fits(ppo.get(name), NUMBER) and fits(ppo.get(f"{name}_ci95"), PAIR):
            return measure, ppo[name], ppo[f"{name}_ci95"]
    return None


def gain_text(ppo: dict[str, Any]) -> str:
    """The gain of PPO over SFT in words."""
    gain = gain_of(ppo)
    if gain is None:
        return f"score {ppo['score']:.3f}, KL {ppo['kl']:.2f} nats per response"
    measure, value, interval = gain
    how = "too few prompts for an interval" if None in interval else "95% interval"
    return f"{measure} {number_text(value, interval, '+.3f')} over SFT ({how})"


def duration(seconds: float | None) -> str:
    """Seconds as m:ss."""
    minutes, rest = divmod(round(seconds or 0), 60)
    return f"{minutes}:{rest:02d}"


def total_duration(seconds: dict[str, float | None]) -> str:
    """The time of all stages as m:ss."""
    return duration(sum(value or 0 for value in seconds.values()))
