"""report.json, report.html and the final table, assembled from what the four notebooks recorded.

The notebooks call `course.record(...)` with the names in REQUIRED. They may record more; of that
the page knows

    table   (ppo)   one row a policy, in the order to show them: {"base": {"gold_reward": ...,
    "flaws": {...},
                    "kl": ..., "stop_rate": ...}, "SFT": {...}, "best of 4": {...}, "PPO": {...}};
                    without it the rows SFT and PPO are made from the required fields
    curves  (any)   {"loss": {"x": [...], "y": [...], "xlabel": "step", "ceiling": 1.2, "label":
    "entropy floor"}, ...}

On real rows (source "local" or "hub") no floor, Bayes accuracy or gold reward is known: there
`table` is required, with what `helpers.compare.policies` measures of each policy. Losses are nats
per token, KL nats per response, rates and accuracies fractions, gold reward the world's own unit.
"""

import json
import math
from pathlib import Path
from typing import Any

from helpers.compare.policy_table import BLOCKS, all_rows, shown, used
from helpers.engine.files import write_json, write_text
from helpers.run.folders import NOTEBOOKS

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
    """{name: kind} of what a stage must record on this source of rows."""
    return REQUIRED[stage] | (REQUIRED_EMBEDDED if source == "embedded" else REQUIRED_REAL)[stage]


def assemble(out: Path) -> dict[str, Any]:
    """The report of the run folder `out`, from its metrics/*.json.

    Returns {"preset", "track", "source", "seed", "seconds": {stage: s}, "pretrain": {...}, "sft":
    {...}, ...}. Nothing in it but `seconds` differs between two runs with the same settings. Raises
    ReportError that names what is missing.
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
    kept_out = {"stage", "seconds", "curves", *IDENTITY}
    for stage in REQUIRED:
        report[stage] = {
            name: value for name, value in metrics[stage].items() if name not in kept_out
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


def write_report(out: Path) -> dict[str, Any]:
    """Write report.json and report.html into the run folder; return the report. Raises
    ReportError.
    """
    from helpers.run.report_page import page

    report = assemble(out)
    write_json(out / "report.json", report)
    curves = {stage: metrics.get("curves") or {} for stage, metrics in read_metrics(out).items()}
    figures = {stage: sorted((out / "figures").glob(f"{stage}-*.png")) for stage in REQUIRED}
    write_text(out / "report.html", page(report, curves, figures))
    return report


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
    """The blocks of `helpers.compare.policy_table`, each with the rows that have one of its
    numbers.
    """
    rows, found = all_rows(ppo), []
    for title, columns in BLOCKS.items():
        there = used(columns, rows)
        body = [
            [name, *(shown(row.get(column.key), column.digits) for column in there)]
            for name, row in rows.items()
            if any(column.key in row for column in there)
        ]
        found += [([title, *(column.title for column in there)], body)] if body else []
    return found


def gold_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Gold reward, flaws, KL and stop rate of the policies; what a row does not know is a dash."""
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
        rates = [percent((row.get("flaws") or {}).get(flaw)) for flaw in flaws]
        body.append(
            [
                policy,
                number(row.get("gold_reward")),
                *rates,
                number(row.get("kl")),
                percent(row.get("stop_rate")),
            ]
        )
    return header, body


def number(value: Any, digits: int = 3) -> str:
    """A number with a fixed count of decimals, or a dash."""
    return f"{value:.{digits}f}" if fits(value, NUMBER) else "-"


def percent(value: Any) -> str:
    """A fraction as a percentage, or a dash."""
    return f"{100 * value:.1f}%" if fits(value, NUMBER) else "-"


def excess(loss: float, floor: float) -> float:
    """How far a loss lies above its floor, as a fraction of the floor."""
    return loss / floor - 1 if floor > 0 else math.nan


def way_to_bayes(accuracy: float, bayes: float) -> float:
    """How far an accuracy has come from chance (one half) to the best possible, as a fraction."""
    return (accuracy - 0.5) / (bayes - 0.5) if bayes > 0.5 else math.nan


def final_table(report: dict[str, Any]) -> str:
    """What `make course` prints at the end: the policies side by side, then what each stage came
    to.
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
    lines += (
        against_ceilings(report) if report["source"] == "embedded" else against_baselines(report)
    )
    seconds = report["seconds"]
    minutes = " + ".join(duration(seconds[stage]) for stage in REQUIRED)
    return "\n".join(
        [
            *lines,
            f"time          {minutes} = {duration(sum(value or 0 for value in seconds.values()))}",
        ]
    )


def against_ceilings(report: dict[str, Any]) -> list[str]:
    """A line a stage, for an embedded world."""
    pretrain, sft, reward, ppo = (report[stage] for stage in REQUIRED)
    return [
        f"pretraining   loss {pretrain['heldout_loss']:.3f}, entropy floor "
        f"{pretrain['entropy_floor']:.3f} "
        f"({excess(pretrain['heldout_loss'], pretrain['entropy_floor']):+.1%})",
        f"SFT           loss {sft['heldout_loss']:.3f}, entropy floor {sft['entropy_floor']:.3f} "
        f"({excess(sft['heldout_loss'], sft['entropy_floor']):+.1%})",
        f"reward model  accuracy {reward['accuracy']:.3f}, Bayes {reward['bayes_accuracy']:.3f} "
        f"({way_to_bayes(reward['accuracy'], reward['bayes_accuracy']):.0%} of the way from "
        "chance)",
        f"PPO           {gained(ppo)}",
    ]


def against_baselines(report: dict[str, Any]) -> list[str]:
    """A line a stage, for real rows."""
    pretrain, sft, reward, ppo = (report[stage] for stage in REQUIRED)
    low, high = reward["accuracy_ci95"]
    return [
        "pretraining   loss "
        f"{pretrain['heldout_loss']:.3f}{beside(pretrain, 'bigram_loss', 'bigram')}",
        f"SFT           loss {sft['heldout_loss']:.3f}{beside(sft, 'base_loss', 'base model')}, "
        f"stop rate {percent(sft['stop_rate'])}",
        f"reward model  accuracy {reward['accuracy']:.3f}, 95% interval {low:.3f} to {high:.3f}",
        f"PPO           {gained(ppo)}",
    ]


def beside(stage: dict[str, Any], name: str, said: str) -> str:
    """A number to compare with, where a stage has recorded it."""
    return f", {said} {stage[name]:.3f}" if fits(stage.get(name), NUMBER) else ""


def gain_of(ppo: dict[str, Any]) -> tuple[str, float, list[float]] | None:
    """What PPO gained over SFT and its 95% interval: in gold reward, else by the second judge, else
    in score.
    """
    if "gold_gain_ci95" in ppo:
        return "gold reward", ppo["gold_reward"] - ppo["sft_gold_reward"], ppo["gold_gain_ci95"]
    for name, said in (("judge_gain", "second judge's verdict"), ("score_gain", "score")):
        if fits(ppo.get(name), NUMBER) and fits(ppo.get(f"{name}_ci95"), PAIR):
            return said, ppo[name], ppo[f"{name}_ci95"]
    return None


def gained(ppo: dict[str, Any]) -> str:
    """The gain of PPO in words."""
    found = gain_of(ppo)
    if found is None:
        return f"score {ppo['score']:.3f}, KL {ppo['kl']:.2f} nats per response"
    said, gain, (low, high) = found
    return f"{said} {gain:+.3f} over SFT, 95% interval {low:+.3f} to {high:+.3f}"


def duration(seconds: float | None) -> str:
    """Seconds as m:ss."""
    whole = round(seconds or 0)
    return f"{whole // 60}:{whole % 60:02d}"
