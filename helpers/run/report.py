"""The report of a run and its final table, assembled from what the four notebooks recorded.

The notebooks call `course.record(...)` with the names in REQUIRED. They may record more: `table`
(ppo) has one row a policy, in the order to show them, such as {"base": {"gold_reward": ...,
"flaws": {...}, "kl": ..., "stop_rate": ...}, "SFT": {...}, "PPO": {...}}. Without it, the rows SFT
and PPO are made from the required fields.

On real rows (source "local" or "hub") no floor, Bayes accuracy or gold reward is known: there
`table` is required, with what `helpers.compare.policies` measures of each policy. Losses are nats
per token, KL nats per response, rates and accuracies fractions, the gold reward is in its world's
own unit.
"""

import json
import math
from pathlib import Path
from typing import Any

from helpers.run.folders import NOTEBOOKS
from helpers.run.policy_table import BLOCKS, all_rows, number_text, used

NUMBER, PAIR, GROUP = "a finite number", "a pair of finite numbers", "a group of finite numbers"
ROWS = "a row of numbers for each policy"
REQUIRED: dict[str, dict[str, str]] = {  # on every source
    "pretrain": {"heldout_loss": NUMBER, "tokens": NUMBER},
    "sft": {"heldout_loss": NUMBER, "stop_rate": NUMBER},
    "reward": {"accuracy": NUMBER},
    "ppo": {"score": NUMBER, "kl": NUMBER, "stop_rate": NUMBER},
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
REQUIRED_REAL: dict[str, dict[str, str]] = {
    "pretrain": {},
    "sft": {},
    "reward": {"accuracy_ci95": PAIR},
    "ppo": {"table": ROWS},
}
IDENTITY = ("preset", "track", "source", "seed")


class ReportError(ValueError):
    """Metrics are missing, or come from runs with different settings."""


def required(stage: str, source: str) -> dict[str, str]:
    """{name: kind} of the values that a stage must record on this source of rows."""
    return REQUIRED[stage] | (REQUIRED_EMBEDDED if source == "embedded" else REQUIRED_REAL)[stage]


def assemble(out: Path) -> dict[str, Any]:
    """The report of the run folder `out`, from its metrics/*.json.

    Returns {"preset", "track", "source", "seed", "seconds": {stage: s}, "pretrain": {...}, "sft":
    {...}, ...}. Only `seconds` differs between two runs with the same settings. Raises a
    ReportError that names all that is missing.
    """
    metrics = read_metrics(out)
    missing = [
        f"{stage} (run {NOTEBOOKS[stage]}.ipynb)" for stage in REQUIRED if stage not in metrics
    ]
    for stage in metrics:
        missing += [
            f"{stage}.{name} ({kind})"
            for name, kind in required(stage, metrics[stage].get("source")).items()
            if not fits(metrics[stage].get(name), kind)
        ]
    if missing:
        raise ReportError(f"the report lacks {', '.join(missing)}")

    settings = {tuple(metrics[stage].get(key) for key in IDENTITY) for stage in REQUIRED}
    if len(settings) > 1:
        listed = " and ".join("-".join(map(str, setting)) for setting in sorted(settings, key=str))
        raise ReportError(f"the stages were run with different settings: {listed}")
    report: dict[str, Any] = dict(zip(IDENTITY, settings.pop()))
    report["seconds"] = {stage: metrics[stage].get("seconds") for stage in REQUIRED}
    elsewhere = {"stage", "seconds", "curves", *IDENTITY}
    for stage in REQUIRED:
        report[stage] = {
            name: value for name, value in metrics[stage].items() if name not in elsewhere
        }
    return report


def read_metrics(out: Path) -> dict[str, dict[str, Any]]:
    """{stage: what it recorded} for the stages that have run, in order."""
    paths = {stage: out / "metrics" / f"{stage}.json" for stage in REQUIRED}
    return {
        stage: json.loads(path.read_text(encoding="utf-8"))
        for stage, path in paths.items()
        if path.exists()
    }


def fits(value: Any, kind: str) -> bool:
    """Is a recorded value of the kind that the report needs?"""
    if kind == PAIR:
        return (
            isinstance(value, list)
            and len(value) == 2
            and all(fits(item, NUMBER) for item in value)
        )
    if kind == GROUP:
        return (
            isinstance(value, dict)
            and bool(value)
            and all(fits(item, NUMBER) for item in value.values())
        )
    if kind == ROWS:
        rows = value.values() if isinstance(value, dict) else []
        return bool(rows) and all(
            isinstance(row, dict) and any(fits(x, NUMBER) for x in row.values()) for row in rows
        )
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def table_rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{policy: {"gold_reward", "flaws", "kl", "stop_rate", ...}} for the final table, in the order
    to show them.
    """
    ppo = report["ppo"]
    made = {
        "SFT": {
            "gold_reward": ppo["sft_gold_reward"],
            "flaws": ppo["sft_flaws"],
            "kl": 0.0,
            "stop_rate": report["sft"]["stop_rate"],
        },
        "PPO": {name: ppo[name] for name in ("gold_reward", "flaws", "kl", "stop_rate")},
    }
    return ppo.get("table") or made


def tables(report: dict[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """Header and rows of each table of policies as text: one on an embedded world, on real rows one
    a block.
    """
    return [gold_table(report)] if report["source"] == "embedded" else real_tables(report["ppo"])


def real_tables(ppo: dict[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """The blocks of `helpers.run.policy_table`, each with the rows that have a number in it."""
    rows, blocks = all_rows(ppo), []
    for title, columns in BLOCKS.items():
        columns = used(columns, rows)
        body = [
            [name, *(column.text(row) for column in columns)]
            for name, row in rows.items()
            if any(column.key in row for column in columns)
        ]
        if body:
            blocks.append(([title, *(column.title for column in columns)], body))
    return blocks


def gold_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Gold reward, flaws, KL and stop rate of the policies, a dash for what was not recorded."""
    rows = table_rows(report)
    flaws = list(dict.fromkeys(flaw for row in rows.values() for flaw in row.get("flaws") or {}))
    header = [
        "policy",
        "gold reward",
        *(flaw.replace("_", " ") for flaw in flaws),
        "KL (nats)",
        "stop rate",
    ]
    body = []
    for policy, row in rows.items():
        rates = row.get("flaws") or {}
        body.append(
            [
                policy,
                number_text(row.get("gold_reward")),
                *(number_text(rates.get(flaw), form=".1%") for flaw in flaws),
                number_text(row.get("kl")),
                number_text(row.get("stop_rate"), form=".1%"),
            ]
        )
    return header, body


def excess(loss: float, floor: float) -> float:
    """How far a loss lies above its floor, as a fraction of the floor."""
    return loss / floor - 1 if floor > 0 else math.nan


def way_to_bayes(accuracy: float, bayes: float) -> float:
    """How far an accuracy has come from chance (one half) to the best possible, as a fraction."""
    return (accuracy - 0.5) / (bayes - 0.5) if bayes > 0.5 else math.nan


def final_table(report: dict[str, Any]) -> str:
    """The text that `make course` prints at the end: the policies side by side, then a line for
    each stage.
    """
    lines = []
    for header, body in tables(report):
        widths = [max(len(row[i]) for row in [header, *body]) for i in range(len(header))]
        for row in [header, ["-" * width for width in widths], *body]:
            lines.append(
                "  ".join(
                    [
                        row[0].ljust(widths[0]),
                        *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:])),
                    ]
                )
            )
        lines.append("")
    lines += stage_lines(report)
    seconds = report["seconds"]
    minutes = " + ".join(duration(seconds[stage]) for stage in REQUIRED)
    total = duration(sum(value or 0 for value in seconds.values()))
    return "\n".join([*lines, f"time          {minutes} = {total}"])


def stage_lines(report: dict[str, Any]) -> list[str]:
    """A line a stage: against its ceiling on an embedded world, against a baseline on real rows."""
    pretrain, sft, reward, ppo = (report[stage] for stage in REQUIRED)
    accuracy = f"accuracy {number_text(reward['accuracy'], reward.get('accuracy_ci95'))}"
    if report["source"] == "embedded":
        losses = [f"loss {beside_floor(stage)}" for stage in (pretrain, sft)]
        way = way_to_bayes(reward["accuracy"], reward["bayes_accuracy"])
        accuracy += f", Bayes {reward['bayes_accuracy']:.3f} ({way:.0%} of the way from chance)"
    else:
        losses = [
            f"loss {beside(pretrain, 'bigram_loss', 'bigram')}",
            f"loss {beside(sft, 'base_loss', 'base model')}, stop rate {sft['stop_rate']:.1%}",
        ]
    return [
        f"pretraining   {losses[0]}",
        f"SFT           {losses[1]}",
        f"reward model  {accuracy}",
        f"PPO           {gain_text(ppo)}",
    ]


def beside_floor(stage: dict[str, Any]) -> str:
    """A held-out loss, its entropy floor, and how far above the floor it lies."""
    loss, floor = stage["heldout_loss"], stage["entropy_floor"]
    return f"{loss:.3f}, entropy floor {floor:.3f} ({excess(loss, floor):+.1%})"


def beside(stage: dict[str, Any], name: str, baseline: str) -> str:
    """A held-out loss and, where the stage recorded it as `name`, the loss of a baseline."""
    known = fits(stage.get(name), NUMBER)
    return f"{stage['heldout_loss']:.3f}" + (f", {baseline} {stage[name]:.3f}" if known else "")


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
    return f"{measure} {number_text(value, interval, '+.3f')} over SFT (95% interval)"


def duration(seconds: float | None) -> str:
    """Seconds as m:ss."""
    minutes, rest = divmod(round(seconds or 0), 60)
    return f"{minutes}:{rest:02d}"
