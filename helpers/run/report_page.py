"""report.json and the one-page report.html of a run: self-contained, readable on a phone, no
request to anywhere. The page's text and style are in report.html.j2.
"""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from helpers.engine.files import write_json, write_text
from helpers.run import report as numbers
from helpers.run.folders import NOTEBOOKS, REPOSITORY
from helpers.run.policy_table import number_text

HERE = Path(__file__).parent


def write_report(out: Path) -> dict[str, Any]:
    """Write report.json and report.html into the run folder; return the report. Raises
    ReportError.
    """
    report = numbers.assemble(out)
    write_json(out / "report.json", report)
    figures = {stage: sorted((out / "figures").glob(f"{stage}-*.png")) for stage in NOTEBOOKS}
    write_text(out / "report.html", page(report, figures))
    return report


def page(report: dict[str, Any], figures: dict[str, list[Path]]) -> str:
    """The report as one HTML page. figures: {stage: [PNG files]}."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    options = " ".join(f"--{name} {report[name]}" for name in numbers.IDENTITY)
    return environment.get_template("report.html.j2").render(
        report=report,
        embedded=report["source"] == "embedded",
        gain=numbers.gain_of(report["ppo"]),
        number_text=number_text,
        gain_text=numbers.gain_text(report["ppo"]),
        minutes=numbers.duration(sum(value or 0 for value in report["seconds"].values())),
        tables=numbers.tables(report),
        cards=cards(report),
        figures={
            NOTEBOOKS[stage]: [embed(path, stage) for path in paths]
            for stage, paths in figures.items()
            if paths
        },
        command=f"python -m helpers course {options}",
        repository=REPOSITORY,
    )


def embed(path: Path, stage: str) -> dict[str, str]:
    """A PNG's name and its bytes as text."""
    name = path.stem.removeprefix(f"{stage}-").replace("-", " ")
    return {"name": name, "png": base64.b64encode(path.read_bytes()).decode("ascii")}


def cards(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A card for each stage, and for each flaw: its number, with a bar and a mark for the ceiling
    or baseline.
    """
    pretrain, sft, reward, ppo = (report[stage] for stage in numbers.REQUIRED)
    tokens, stops = f"{pretrain['tokens']:,.0f} tokens", f"stop rate {sft['stop_rate']:.1%}"
    if report["source"] != "embedded":
        return [
            baseline_card("Pretraining loss", pretrain, "bigram_loss", "bigram model", tokens),
            baseline_card("SFT completion loss", sft, "base_loss", "base model", stops),
            accuracy_card(reward),
            *gain_cards(ppo),
        ]
    return [
        loss_card("Pretraining loss", pretrain, tokens),
        loss_card("SFT completion loss", sft, stops),
        accuracy_card(reward),
        *gain_cards(ppo),
        *(flaw_card(flaw, rate, ppo["sft_flaws"].get(flaw)) for flaw, rate in ppo["flaws"].items()),
    ]


def card(
    title: str, value: str, note: str, share: float | None = None, mark: float | None = None
) -> dict[str, Any]:
    """One number with a note. share and mark are places on its bar, cut off at 0 and 1; no bar
    without a share.
    """
    places = {"share": share, "mark": mark}
    return {"title": title, "value": value, "note": note} | {
        name: None if place is None else min(max(place, 0.0), 1.0) for name, place in places.items()
    }


def loss_card(title: str, stage: dict[str, Any], extra: str) -> dict[str, Any]:
    """A loss over its entropy floor; the full bar is 1.25 times the larger of the two."""
    loss, floor = stage["heldout_loss"], stage["entropy_floor"]
    full = 1.25 * max(loss, floor, 1e-9)
    above = f"{numbers.excess(loss, floor):+.1%}"
    note = f"entropy floor {floor:.3f} nats per token: {above}; {extra}"
    return card(title, f"{loss:.3f}", note, loss / full, floor / full)


def baseline_card(
    title: str, stage: dict[str, Any], name: str, baseline: str, extra: str
) -> dict[str, Any]:
    """A loss beside that of a baseline, where the stage recorded one as `name`."""
    loss, other = stage["heldout_loss"], stage.get(name)
    if not numbers.fits(other, numbers.NUMBER):
        return card(title, f"{loss:.3f}", f"nats per token; {extra}")
    full = 1.25 * max(loss, other, 1e-9)
    note = f"{baseline}: {other:.3f} nats per token; {extra}"
    return card(title, f"{loss:.3f}", note, loss / full, other / full)


def accuracy_card(reward: dict[str, Any]) -> dict[str, Any]:
    """The reward model's accuracy; the bar runs from chance (0.5) to certainty (1)."""
    accuracy, bayes = reward["accuracy"], reward.get("bayes_accuracy")
    interval = reward.get("accuracy_ci95")
    value, place = f"{accuracy:.1%}", 2 * accuracy - 1
    if bayes is None:
        note = f"95% interval {number_text(None, interval, '.1%')}"
        return card("Reward model accuracy", value, note, place)
    way = numbers.way_to_bayes(accuracy, bayes)
    note = (
        f"Bayes {bayes:.1%}: {way:.0%} of the way from chance; "
        f"{reward['comparisons']:,.0f} comparisons"
    )
    return card("Reward model accuracy", value, note, place, 2 * bayes - 1)


def gain_cards(ppo: dict[str, Any]) -> list[dict[str, Any]]:
    """What PPO gained over SFT; no card where no gain was measured."""
    gain = numbers.gain_of(ppo)
    if gain is None:
        return []
    measure, value, interval = gain
    note = f"95% interval {number_text(None, interval, '+.3f')}"
    if "sft_gold_reward" in ppo:
        note += f"; SFT {ppo['sft_gold_reward']:.3f}, PPO {ppo['gold_reward']:.3f}"
    return [card(f"PPO: gain in {measure}", f"{value:+.3f}", note)]


def flaw_card(flaw: str, rate: float, before: float | None) -> dict[str, Any]:
    """How often PPO's responses have a flaw; the mark is SFT's rate."""
    note = f"share of its responses; SFT {number_text(before, form='.1%')}"
    return card(f"PPO: {flaw.replace('_', ' ')}", f"{rate:.1%}", note, rate, before)
