"""The video walkthrough: `python -m tools.video COMMAND [NOTEBOOK ...]`.

build    make docs/video/*.mp4 with captions and posters, and list them in README.md
check    find everything that the scripts show and say in the committed notebooks
stills   draw every picture of the scripts into a folder, to look at
"""

import argparse
import sys
import time
from pathlib import Path

from tools.video.film import FilmError, Stage, chapters, clock, make
from tools.video.picture import PictureError, layout, mark_boxes, with_marks
from tools.video.script import NAMES, Script, ScriptError, read_script
from tools.video.voice import Voice, VoiceError

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER, CACHE = ROOT / "docs/video", ROOT / "runs/video"
BEGIN, END = "<!-- videos: written by make video -->", "<!-- end of videos -->"
INTRODUCTION = """\
## Watch it first

Films of eight to ten minutes show the idea, the formula and the result of each section, in the run
of the committed notebooks. The voice is synthetic; captions are in the files."""


def load(name: str) -> Script:
    """A script, against its notebook."""
    return read_script(FOLDER / f"{name}.md", ROOT / f"{name}.ipynb")


def check(script: Script) -> str:
    """Lay out every picture; a line about the script."""
    for chapter in script.chapters:
        for beat in chapter.beats:
            try:
                layout(beat.items)
            except PictureError as error:
                raise ScriptError(f"{script.name}.md, line {beat.line}: {error}") from None
    words = sum(len(beat.text.split()) for c in script.chapters for beat in c.beats)
    return f"{script.name}: {len(script.chapters)} chapters, {words:,} words"


def stills(script: Script, folder: Path) -> None:
    """Every beat as a picture named by its line in the script."""
    folder.mkdir(parents=True, exist_ok=True)
    stage = Stage(script)
    for number, chapter in enumerate(script.chapters):
        for beat in chapter.beats:
            base, placed = stage.base(beat, number)
            image = with_marks(base, mark_boxes(beat, placed))
            image.save(folder / f"{script.name}-{beat.line:03}.png")


def listed(name: str, times: list[tuple[float, str]], seconds: float) -> str:
    """A film's chapters as a line of README.md."""
    marks = " · ".join(f"{title} {clock(start, 'short')}" for start, title in times)
    return f"**{name}** ({clock(seconds, 'short')}): {marks}"


def write_readme(path: Path, rows: dict[str, str]) -> None:
    """Put posters and chapters between the markers; films that were not made keep their line."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    for line in old.splitlines():
        name = line.removeprefix("**").partition("**")[0]
        if name in NAMES:
            rows.setdefault(name, line)
    posters = [
        f'<a href="docs/video/{name}.mp4"><img src="docs/video/{name}.jpg" width="24%" '
        f'alt="{name}, the video"></a>'
        for name in NAMES
        if name in rows
    ]
    chapter_lines = "\n\n".join(rows[name] for name in NAMES if name in rows)
    fold = f"<details><summary>Chapters</summary>\n\n{chapter_lines}\n\n</details>"
    table = "\n".join(posters) + "\n\n" + fold
    path.write_text(f"{before}{BEGIN}\n{INTRODUCTION}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def build(names: list[str], voice_path: str, pace: float) -> None:
    scripts = [load(name) for name in names]
    for script in scripts:
        print(check(script))
    voice, rows = Voice(CACHE, voice_path, pace), {}
    for script in scripts:
        began = time.time()
        line = make(script, voice, FOLDER, CACHE)
        rows[script.name] = listed(script.name, chapters(script, line), line.seconds)
        size = (FOLDER / f"{script.name}.mp4").stat().st_size / 1e6
        length = clock(line.seconds, "short")
        print(f"{script.name}: {length}, {size:.1f} MB, made in {time.time() - began:.0f} s")
    write_readme(ROOT / "README.md", rows)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.video", description=__doc__.splitlines()[0]
    )
    parser.add_argument("command", choices=("build", "check", "stills"))
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=", ".join(NAMES))
    parser.add_argument("--voice", default="", help="a piper voice, an .onnx file")
    parser.add_argument("--pace", type=float, default=1.18, help="1.1 is a tenth slower")
    parser.add_argument("--out", type=Path, default=CACHE / "stills", help="folder of stills")
    args = parser.parse_args(argv)
    names = args.notebooks or list(NAMES)
    try:
        if unknown := set(names) - set(NAMES):
            raise ScriptError(f"no script for {', '.join(unknown)}: {', '.join(NAMES)}")
        if args.command == "build":
            build(names, args.voice, args.pace)
        for name in names if args.command != "build" else ():
            script = load(name)
            print(check(script))
            if args.command == "stills":
                stills(script, args.out)
    except (ScriptError, PictureError, VoiceError, FilmError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
