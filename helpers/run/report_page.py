"""report.json and the one-page report.html of a run: self-contained, readable on a phone, no
request to anywhere. The page's text and style are in report.html.j2.
"""

import base64
from pathlib import Path
from typing import Any

from helpers.doctor.diagnosis import diagnose
from helpers.doctor.findings import Finding
from helpers.engine.files import write_json, write_text
from helpers.engine.parser import SettingsError
from helpers.run import report as numbers
from helpers.run.folders import NOTEBOOKS, REPOSITORY
from helpers.run.policy_table import number_text
from helpers.run.templates import render


def write_report(out: Path) -> dict[str, Any]:
    """Write report.json and report.html into the run folder. Raises ReportError."""
    report = numbers.assemble(out)
    write_json(out / "report.json", report)
    figures = {
        notebook: [embed(path, stage) for path in sorted((out / "figures").glob(f"{stage}-*.png"))]
        for stage, notebook in NOTEBOOKS.items()
    }
    options = " ".join(f"--{name} {report[name]}" for name in numbers.IDENTITY)
    page = render(
        "report.html.j2",
        escape=True,
        report=report,
        embedded=report["source"] == "embedded",
        gain=numbers.gain_of(report["ppo"]),
        number_text=number_text,
        own_text=numbers.own_text,
        excess=numbers.excess,
        way_to_bayes=numbers.way_to_bayes,
        gain_text=numbers.gain_text(report["ppo"]),
        minutes=numbers.total_duration(report["seconds"]),
        tables=numbers.tables(report),
        findings=findings_of(out),
        figures={notebook: images for notebook, images in figures.items() if images},
        command=f"python -m helpers course {options}",
        repository=REPOSITORY,
    )
    write_text(out / "report.html", page)
    return report


def embed(path: Path, stage: str) -> dict[str, str]:
    """A PNG's name and its bytes as text."""
    name = path.stem.removeprefix(f"{stage}-").replace("-", " ")
    return {"name": name, "png": base64.b64encode(path.read_bytes()).decode("ascii")}


def findings_of(out: Path) -> list[Finding] | None:
    """What the doctor finds in the run's PPO log; None where there is no log that it can read."""
    try:
        return diagnose(out / "logs" / "ppo.jsonl")
    except SettingsError:
        return None
