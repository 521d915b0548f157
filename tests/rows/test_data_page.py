"""data/README.md names what the loaders read: data sets, revisions, columns, templates, places in a
folder, reasons.
"""

import re

import pytest

from helpers.compare.hellaswag import DATA as HELLASWAG
from helpers.rows.local import ENDINGS
from helpers.rows.tracks import TRACKS
from helpers.run.presets import load_config

DATA = {
    role.data.repository: role.data for track in TRACKS.values() for role in track.roles.values()
}
DATA[HELLASWAG.repository] = HELLASWAG


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "data/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_each_data_set_with_its_revision_and_the_columns_that_are_read(page, data):
    [line] = [line for line in page.splitlines() if line.startswith(f"| [{data.repository}](")]
    assert f"(https://huggingface.co/datasets/{data.repository})" in line
    assert f"`{data.revision[:7]}`" in line and (data.config or "") in line
    assert tuple(re.findall(r"\*\*(\w+)\*\*", line)) == data.columns
    assert f"{data.name}/{data.train}" in page
    if data.heldout:
        assert f"{data.heldout} " in line and f"`{data.name}/{data.heldout}`" in page
    assert ("streamed" in line) == data.streaming


@pytest.mark.parametrize("track", TRACKS)
def test_no_gpu_preset_asks_for_more_rows_than_there_are(page, track):
    for stage, kind in (("sft", "demonstrations"), ("reward", "comparisons")):
        data = TRACKS[track].roles[kind].data
        [line] = [line for line in page.splitlines() if line.startswith(f"| [{data.repository}](")]
        rows = int(re.search(r"\btrain ([\d,]+)", line)[1].replace(",", ""))
        assert getattr(load_config(stage, "t4", track, source="hub"), kind) <= rows


def test_templates_stand_ins_and_endings(page):
    for track in TRACKS.values():
        assert f"| `{track.name}` |" in page
        head = track.template.replace("\n", "\\n").split("{")[0]
        assert f"    {track.name:<12}{head}" in page
    for data in DATA.values():
        for place in data.stand_ins:
            assert f"| `{place.format(split=data.train)}`" in page
    for ending in (".parquet", ".jsonl", ".tsv", ".csv", ".jsonl.gz", ".tsv.xz"):
        assert ending in ENDINGS and f"`{ending}`" in page
