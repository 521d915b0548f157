"""The doctor on recorded logs: short runs of `benchmarks/doctor.py` with one ailment each, on the
course of seed 100, on which the thresholds were chosen; and logs of whole healthy courses.
"""

from pathlib import Path

import pytest

from helpers.doctor.diagnosis import diagnose
from helpers.doctor.findings import ranked
from helpers.lesson.clinic import AILMENTS

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.jsonl"))
SILENT = {"healthy", "reward read at a pad"}  # their logs look alike
SECOND = {"top-p": "temperature"}  # ailments that the doctor lists, after a likelier one


def name_of(log: Path) -> str:
    names = {name.replace(" ", "-"): name for name in AILMENTS}
    return names.get(log.stem, log.stem)


@pytest.mark.parametrize("log", RECORDED, ids=name_of)
def test_the_ailment_is_named(log):
    name, findings = name_of(log), diagnose(log)
    if name in SILENT or name.startswith("healthy"):
        assert findings == []
    else:
        assert findings[0].ailment == SECOND.get(name, name)
        assert name in ranked(findings)[:3]


def test_most_ailments_have_a_log():
    assert len({name_of(log) for log in RECORDED} & AILMENTS.keys()) >= 20
