"""The video walkthrough: the scripts against the committed notebooks, and how a film is made."""

import json
import re
from shutil import which

import numpy as np
import pytest

from tools.video import __main__ as command, film, picture
from tools.video.script import NAMES, Notebook, ScriptError, read_script
from tools.video.voice import Voice, VoiceError, sentences, spoken

scripts = pytest.mark.parametrize("name", NAMES)

SCRIPT = """# 9-Toy: a title

## 1. One

```show
value: loss = twice ~ loss ([\\d.]+)
code: def twice(x)
lines: def twice .. return
mark: return 2
output: twice
```

The loss is {loss:.1f}. It was
{loss} before rounding.

```show
mark: output ~ loss
```

Look here.

## 2. Two

```show
formula: y = | 2 x
points: first | second
mark: second
```

A formula.
"""


@pytest.fixture
def toy(tmp_path):
    """Writes a script beside the notebook of a toy, and reads it."""
    source = 'def twice(x):\n    """Doc."""\n    return 2 * x\n\n\ntwice(1)'
    output = {"output_type": "stream", "name": "stdout", "text": ["loss 0.52\n", "done\n"]}
    code = {"cell_type": "code", "metadata": {"source": "a.py::twice"}, "source": source}
    prose = {"cell_type": "markdown", "metadata": {}, "source": "$$y = 2 x$$"}
    notebook = {"cells": [prose, code | {"outputs": [output]}]}
    (tmp_path / "9-Toy.ipynb").write_text(json.dumps(notebook), encoding="utf-8")

    def read(text: str):
        (tmp_path / "9-Toy.md").write_text(text, encoding="utf-8")
        return read_script(tmp_path / "9-Toy.md", tmp_path / "9-Toy.ipynb")

    return read


class Hum:
    """A voice that takes a tenth of a second for each letter."""

    rate = 16_000

    def say(self, sentence: str) -> np.ndarray:
        return np.full(self.rate * len(sentence) // 10, 0.1, np.float32)


@scripts
def test_everything_that_a_script_shows_is_in_its_notebook_and_fits(name):
    script = command.load(name)  # ScriptError if the notebook lacks something
    assert command.check(script)  # PictureError if there is too much for a picture
    words = sum(len(beat.text.split()) for c in script.chapters for beat in c.beats)
    assert 1200 < words < 1750, "8 to 14 minutes"
    assert all(chapter.beats for chapter in script.chapters)


@scripts
def test_the_chapters_are_the_notebooks_sections(name, root):
    headings = re.findall(r"^## (.+)", Notebook(root / f"{name}.ipynb").prose, re.MULTILINE)
    titles = [chapter.title for chapter in command.load(name).chapters]
    assert titles[0] == "Welcome" and set(titles[1:]) <= set(headings)
    numbered = [heading for heading in headings if re.match(r"\d+\.", heading)]
    assert [title for title in titles if re.match(r"\d+\.", title)] == numbered


@scripts
def test_the_title_is_that_of_the_notebook(name, root):
    prose = Notebook(root / f"{name}.ipynb").prose
    assert command.load(name).title == prose.splitlines()[0].removeprefix("# ")


@scripts
def test_every_formula_and_every_mark_can_be_drawn(name):
    for chapter in command.load(name).chapters:
        for beat in chapter.beats:
            boxes = picture.mark_boxes(beat, picture.layout(beat.items))
            assert all(0 <= a < c <= 1280 and 0 <= b < d <= 720 for a, b, c, d, _ in boxes)


def test_the_readme_lists_the_chapters(root):
    readme = (root / "README.md").read_text(encoding="utf-8")
    listed = readme.partition(command.BEGIN)[2].partition(command.END)[0]
    made = [name for name in NAMES if (root / f"docs/video/{name}.mp4").exists()]
    assert (command.INTRODUCTION in listed) == bool(made)
    for name in made:
        row = next(line for line in listed.splitlines() if line.startswith(f"**{name}**"))
        titles = [part.rpartition(" ")[0] for part in row.partition("): ")[2].split(" · ")]
        wanted = [chapter.title for chapter in command.load(name).chapters]
        assert titles == wanted, "run make video"


def test_the_committed_films_are_small(root):
    paths = list((root / "docs/video").iterdir())
    sizes = {path.name: path.stat().st_size for path in paths}
    most = {path.name: film.MOST if path.suffix == ".mp4" else 60_000 for path in paths}
    assert {name for name in sizes if sizes[name] > most[name]} == set()
    films = {path.stem for path in paths if path.suffix == ".mp4"}
    assert {f"{name}.jpg" for name in films} <= sizes.keys()


def test_a_script_becomes_beats(toy):
    one, two = toy(SCRIPT).chapters
    first, second = one.beats
    assert first.text == "The loss is 0.5. It was 0.52 before rounding."
    assert [line for _, line in first.items[0].lines] == ["def twice(x):", "    return 2 * x"]
    assert first.marks == [(0, 1)] and second.marks == [(1, 0)] and second.items is first.items
    assert two.beats[0].marks == [(1, 1)]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("code: def twice(x)", "code: def thrice(x)", 7, "no cell has 'def thrice(x)'"),
        ("mark: return 2", "mark: return 3", 9, "nothing shown has 'return 3'"),
        ("loss ([", "lass ([", 6, "has nothing like"),
        ("{loss:.1f}", "{lass}", 13, "no value has the name 'lass'"),
        ("y = | 2 x", "y = | 3 x", 25, "not in the notebook"),
        ("lines: def twice .. return", "lines: def twice .. yield", 8, "has 'yield'"),
        ("points: first", "paints: first", 26, "does not begin with"),
    ],
)
def test_what_the_notebook_lacks_is_an_error_with_its_line(toy, old, new, line, words):
    with pytest.raises(ScriptError, match=re.escape(words)) as error:
        toy(SCRIPT.replace(old, new))
    assert str(error.value).startswith(f"9-Toy.md, line {line}: ")


def test_too_much_for_one_picture_is_an_error_with_its_line(toy, tmp_path):
    script = toy(SCRIPT)
    script.chapters[0].beats[0].items[0].lines *= 30
    with pytest.raises(ScriptError, match=r"9-Toy.md, line 13: too much for one picture"):
        command.check(script)


def test_a_formula_that_cannot_be_drawn_is_an_error():
    with pytest.raises(picture.PictureError, match="can't be drawn"):
        picture.formula((r"\nosuch{x}",), 40)


def test_captions_end_with_the_sound(toy):
    line = film.timeline(toy(SCRIPT), Hum())
    assert 0 < line.seconds - line.cues[-1].end < 2
    assert sum(shot.frames for shot in line.shots) / film.FPS == pytest.approx(line.seconds)
    times = [time for cue in line.cues for time in (cue.start, cue.end)]
    assert times == sorted(times)
    said = " ".join(cue.text for cue in line.cues)
    assert said == "The loss is 0.5. It was 0.52 before rounding. Look here. A formula."
    for cue in line.cues:  # there is sound in it, and a pause after it
        middle = round((cue.start + cue.end) / 2 * line.rate)
        assert line.sound[middle] > 0 and line.sound[round((cue.end + 0.1) * line.rate)] == 0


def test_a_long_sentence_has_several_captions_of_two_lines():
    text = "word " * 60
    cues = film.split(text.strip(), 0.0, 10.0)
    assert len(cues) > 2 and cues[0].start == 0 and cues[-1].end == pytest.approx(10)
    assert " ".join(cue.text for cue in cues) == text.strip()
    assert max(len(line) for cue in cues for line in film.two_lines(cue.text).split("\n")) < 55
    assert film.captions(cues).startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert film.clock(61.5) == "00:01:01.500" and film.clock(61.5, "short") == "1:01"


def test_the_frames_of_a_chapter_fill_its_time(toy):
    script = toy(SCRIPT)
    line, stage = film.timeline(script, Hum()), film.Stage(script)
    shots = [shot for shot in line.shots if shot.chapter == 0]
    frames = list(stage.frames(shots))
    assert sum(count for _, count in frames) == sum(shot.frames for shot in shots)
    assert frames[0][0].size == picture.SIZE and frames[0][0] != frames[-1][0]


@pytest.mark.skipif(not which("ffmpeg") or not which("ffprobe"), reason="needs ffmpeg")
def test_a_film_has_sound_chapters_and_captions(toy, tmp_path):
    line = film.make(toy(SCRIPT), Hum(), tmp_path, tmp_path / "cache")  # checks the lengths
    shown = ["-show_entries", "stream=codec_name", "-show_chapters", "-of", "json"]
    found = json.loads(film.run("ffprobe", "-v", "error", *shown, tmp_path / "9-Toy.mp4").stdout)
    assert {"h264", "aac", "mov_text"} <= {stream.get("codec_name") for stream in found["streams"]}
    assert [chapter["tags"]["title"] for chapter in found["chapters"]] == ["1. One", "2. Two"]
    assert float(found["chapters"][-1]["end_time"]) == pytest.approx(line.seconds, abs=0.1)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.mp4")}
    film.make(toy(SCRIPT.replace("A formula", "The formula")), Hum(), tmp_path, tmp_path / "cache")
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.mp4")}
    assert made.items() <= again.items() and len(again) == len(made) + 1  # one chapter is new


def test_without_ffmpeg_one_line_says_so(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(film, "which", lambda name: None)
    with pytest.raises(film.FilmError, match="no ffmpeg: "):
        film.make(toy(SCRIPT), Hum(), tmp_path, tmp_path)


def test_without_a_voice_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "piper", None)
    with pytest.raises(VoiceError, match="requirements-video.txt"):
        Voice(tmp_path)


def test_terms_are_spelled_for_the_ear():
    assert spoken("GAE adds `a times` PPO's logits") == "gee eigh ee adds eigh times PPOs lowjits"
    assert sentences("It is 0.5. Is it? Yes: so it is.") == [
        "It is 0.5.",
        "Is it?",
        "Yes: so it is.",
    ]


def test_the_readme_keeps_the_row_of_a_film_that_was_not_made(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"Before\n\n{command.BEGIN}\n{command.END}\n\nAfter\n", encoding="utf-8")
    rows = {name: command.listed(name, [(0.0, "Welcome"), (61.0, "1. A")], 90.0) for name in NAMES}
    command.write_readme(path, dict(rows))
    command.write_readme(path, {"1-SFT": command.listed("1-SFT", [(0.0, "New")], 5.0)})
    text = path.read_text(encoding="utf-8")
    assert "**0-Pretrain** (1:30): Welcome 0:00 · 1. A 1:01" in text and "New 0:00" in text
    assert text.startswith("Before\n\n") and text.endswith("\n\nAfter\n")
    assert text.count("docs/video/1-SFT.mp4") == 1
