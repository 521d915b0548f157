"""How a notebook describes the chosen track and source."""

import pytest

from helpers.config import SOURCES
from helpers.lesson.track_words import CEILINGS, describe, task_table
from helpers.rows.tracks import TRACKS, TRACKS as TRACK


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("track", TRACKS)
def test_every_track_and_source_is_described(track, source):
    head, line, *rows = describe(track, source).splitlines()
    texts = dict(row.strip("| ").split(" | ") for row in rows)  # two cells a row, or this fails
    assert head.startswith(f"| track `{track}` | ") and line == "|---|---|"
    assert all(
        texts[name] for name in ("document", "prompt", "completion", "flaws of a completion")
    )
    known = source == "embedded"
    assert ("embedded world" in head) == known and (
        "not known" in texts["flaws of a completion"]
    ) != known
    assert texts["best possible result"] == CEILINGS["embedded" if known else "real"]
    assert ("how to read the lesson" in texts) == ((track, source) != ("tldr", "embedded"))
    marks = [
        mark
        for mark in ("TL;DR:", "Human:", "Assistant:", "### Instruction:", "### Response:")
        if mark in TRACK[track].template
    ]
    assert all(f"`{mark}`" in texts["prompt"] for mark in marks), "the words fit the template"
    if not known:
        assert all(role.data.repository in head for role in TRACK[track].roles.values())


def test_a_notebook_shows_it_as_a_table():
    class Course:
        track, source = "sentiment", "hub"

    assert task_table(Course).data == describe("sentiment", "hub")
