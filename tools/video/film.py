"""From a script to a film: a timeline, its frames, its sound, captions and chapters."""

import hashlib
import json
import subprocess
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from tools.video import picture
from tools.video.script import Beat, Script
from tools.video.voice import BREATH, PAUSE, sentences

FPS, MOVE, MOST = 25, 9, 8_000_000  # frames a second, frames of a movement, bytes of a film
CODE = b"".join(Path(file).read_bytes() for file in (__file__, picture.__file__))
LINE = 42  # characters in a line of a caption


class FilmError(Exception):
    """The film can't be made; the message says why in one line."""


@dataclass
class Cue:
    """A sentence, or a part of a long one, with its time in seconds."""

    start: float
    end: float
    text: str


@dataclass
class Shot:
    """A beat with its time: the number of its first frame, and how many it has."""

    beat: Beat
    chapter: int
    start: int
    frames: int


@dataclass
class Timeline:
    shots: list[Shot]
    cues: list[Cue]
    sound: np.ndarray  # float32
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.sound) / self.rate


def timeline(script: Script, voice) -> Timeline:
    """Speak a script. A paragraph lasts a whole number of frames."""
    shots, cues, sounds, frame = [], [], [], 0
    step = voice.rate / FPS  # samples of a frame
    for number, chapter in enumerate(script.chapters):
        for beat in chapter.beats:
            parts, at = [], round(frame * step)
            for sentence in sentences(beat.text):
                said = voice.say(sentence)
                start = at + sum(map(len, parts))
                cues += split(sentence, start / voice.rate, (start + len(said)) / voice.rate)
                parts += [said, np.zeros(round(PAUSE * voice.rate), np.float32)]
            last = beat is chapter.beats[-1]
            parts.append(np.zeros(round(BREATH * (2 if last else 1) * voice.rate), np.float32))
            sound = np.concatenate(parts)
            frames = int(np.ceil(len(sound) / step))
            length = round((frame + frames) * step) - at
            sounds.append(np.pad(sound, (0, length - len(sound))))
            shots.append(Shot(beat, number, frame, frames))
            frame += frames
    return Timeline(shots, cues, np.concatenate(sounds), voice.rate)


def split(text: str, start: float, end: float) -> list[Cue]:
    """A sentence as cues of at most two lines, each with its share of the time."""
    words, parts = text.split(), [""]
    most = len(text) / np.ceil(len(text) / (2 * LINE)) + 8  # cues of about the same length
    for word in words:
        if parts[-1] and len(parts[-1]) + len(word) + 1 > most:
            parts.append("")
        parts[-1] = f"{parts[-1]} {word}".strip()
    edges = np.cumsum([0, *map(len, parts)]) / sum(map(len, parts))
    times = start + (end - start) * edges
    return [Cue(a, b, part) for a, b, part in zip(times[:-1], times[1:], parts)]


def clock(seconds: float, form: str = "vtt") -> str:
    """A time as captions have it, or as people write it."""
    minutes, rest = divmod(seconds, 60)
    if form == "short":
        return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
    return f"{int(minutes) // 60:02}:{int(minutes) % 60:02}:{rest:06.3f}"


def captions(cues: list[Cue]) -> str:
    """The cues in the form WebVTT."""
    return "\n\n".join(
        ["WEBVTT", *(f"{clock(c.start)} --> {clock(c.end)}\n{two_lines(c.text)}" for c in cues), ""]
    )


def two_lines(text: str) -> str:
    """A text broken near its middle, if it does not fit one line."""
    if len(text) <= LINE:
        return text
    spaces = [i for i, letter in enumerate(text) if letter == " "]
    middle = min(spaces, key=lambda i: abs(i - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"


def chapters(script: Script, line: Timeline) -> list[tuple[float, str]]:
    """Start in seconds and title of each chapter."""
    firsts = {shot.chapter: shot.start / FPS for shot in reversed(line.shots)}
    return [(firsts[i], chapter.title) for i, chapter in enumerate(script.chapters)]


class Stage:
    """Draws the beats of a script."""

    def __init__(self, script: Script):
        self.script = script

    def base(self, beat: Beat, chapter: int) -> tuple[Image.Image, list[picture.Placed]]:
        """The picture without marks, and where things are in it."""
        script, item = self.script, beat.items[0]
        if item.kind == "title":
            return picture.title_card(script.name, script.title, item.text), []
        placed = picture.layout(beat.items)
        image = Image.new("RGB", picture.SIZE, picture.GROUND)
        title = script.chapters[chapter].title
        picture.draw_edges(image, script.name, title, chapter, len(script.chapters))
        for part in placed:
            picture.draw_item(image, part)
        return image, placed

    def frames(self, shots: list[Shot]) -> Iterator[tuple[Image.Image, int]]:
        """The pictures of a chapter, each with the number of frames that it stays."""
        items, shown, boxes = None, None, []
        for shot in shots:
            old, old_boxes, same = shown, boxes, shot.beat.items is items
            if not same:
                base, placed = self.base(shot.beat, shot.chapter)
            boxes, items = picture.mark_boxes(shot.beat, placed), shot.beat.items
            shown = picture.with_marks(base, boxes)
            moves = 0 if old is None or (same and boxes == old_boxes) else MOVE
            for i in range(moves):
                share = (i + 1) / (moves + 1)
                share = share * share * (3 - 2 * share)  # starts and ends slowly
                if same and boxes and old_boxes:
                    yield picture.with_marks(base, picture.between(old_boxes, boxes, share)), 1
                else:
                    yield picture.wipe(old, shown, share), 1
            yield shown, shot.frames - moves


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Run ffmpeg. FilmError with its last line if it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, **options)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise FilmError(f"{command[0]} failed: {lines[-1] if lines else done.returncode}")
    return done


def fingerprint(stage: Stage, shots: list[Shot]) -> str:
    """A hash of all that decides how a chapter looks: its beats and the code that draws."""
    script = stage.script
    titles = [script.name, script.title, [chapter.title for chapter in script.chapters]]
    looks = [(s.beat.items, s.beat.marks, s.chapter, s.frames) for s in shots]
    return hashlib.sha256(CODE + repr((titles, looks)).encode()).hexdigest()[:20]


def encode(stage: Stage, shots: list[Shot], cache: Path) -> Path:
    """The pictures of a chapter as a film without sound, from the cache if it is there.

    A picture that stays is repeated once a second only, so that encoding is fast.
    """
    path = cache / f"{fingerprint(stage, shots)}.mp4"
    if path.exists():
        return path
    with TemporaryDirectory() as folder:
        rows = []
        for number, (image, frames) in enumerate(stage.frames(shots)):
            image.save(f"{folder}/{number}.png", compress_level=1)
            times = [FPS] * (frames // FPS) + [frames % FPS] * (frames % FPS > 0)
            rows += [(number, time) for time in times]
        number, time = rows.pop()  # the last picture of a list has no duration of its own: a frame
        rows += [(number, time - 1)] * (time > 1) + [(number, 1)]
        text = "".join(f"file '{name}.png'\nduration {time / FPS}\n" for name, time in rows)
        Path(folder, "list.txt").write_text(text, encoding="utf-8")
        coding = ["-fps_mode", "vfr", "-c:v", "libx264", "-preset", "veryfast", "-crf", 26]
        coding += ["-pix_fmt", "yuv420p", "-g", 250, "-r", FPS]
        part = path.with_suffix(".part.mp4")
        run(
            "ffmpeg", "-v", "error", "-y", "-f", "concat", "-i", f"{folder}/list.txt", *coding, part
        )
    part.replace(path)
    return path


def write_wave(path: Path, line: Timeline) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(line.rate)
        file.writeframes((np.clip(line.sound, -1, 1) * 32767).astype("<i2").tobytes())


def metadata(script: Script, line: Timeline) -> str:
    """Title and chapters as ffmpeg reads them."""
    marks = [*chapters(script, line), (line.seconds, "")]
    rows = [";FFMETADATA1", f"title={script.title}", "artist=RLHF from scratch"]
    for (start, title), (end, _) in zip(marks, marks[1:]):
        rows += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={round(1000 * start)}"]
        rows += [f"END={round(1000 * end)}", f"title={title}"]
    return "\n".join(rows) + "\n"


def duration(path: Path, stream: str) -> float:
    """Length in seconds of a film's pictures ("v") or its sound ("a")."""
    wanted = ["-select_streams", stream, "-show_entries", "stream=duration", "-of", "json"]
    found = run("ffprobe", "-v", "error", *wanted, path).stdout
    return float(json.loads(found)["streams"][0]["duration"])


def make(script: Script, voice, folder: Path, cache: Path) -> Timeline:
    """Write a film with its captions, chapters and poster into a folder."""
    if not which("ffmpeg") or not which("ffprobe"):
        raise FilmError("no ffmpeg: sudo apt install ffmpeg (brew install ffmpeg on a Mac)")
    cache.mkdir(parents=True, exist_ok=True)
    line, stage = timeline(script, voice), Stage(script)
    parts = []
    for number in range(len(script.chapters)):
        shots = [shot for shot in line.shots if shot.chapter == number]
        parts.append(encode(stage, shots, cache))
    sound, marks, films = (cache / f"{script.name}.{end}" for end in ("wav", "meta", "txt"))
    text = folder / f"{script.name}.vtt"
    write_wave(sound, line)
    text.write_text(captions(line.cues), encoding="utf-8")
    marks.write_text(metadata(script, line), encoding="utf-8")
    films.write_text("".join(f"file '{part.name}'\n" for part in parts), encoding="utf-8")
    path = folder / f"{script.name}.mp4"
    inputs = ["-f", "concat", "-i", films, "-i", sound, "-i", text, "-i", marks]
    maps = ["-map", "0:v", "-map", "1:a", "-map", "2:s", "-map_metadata", 3, "-map_chapters", 3]
    audio = ["-af", "loudnorm=I=-17:TP=-2:LRA=9", "-ar", 24000, "-c:a", "aac", "-b:a", "40k"]
    others = ["-c:v", "copy", "-c:s", "mov_text", "-metadata:s:s:0", "language=eng"]
    others += ["-movflags", "+faststart"]
    run("ffmpeg", "-v", "error", "-y", *inputs, *maps, *audio, *others, path)
    check(path, line)
    card, _ = stage.base(line.shots[0].beat, 0)
    picture.poster(card).save(folder / f"{script.name}.jpg", quality=80)
    return line


def check(path: Path, line: Timeline) -> None:
    """Pictures and sound are as long as the timeline, captions end with it, the file is small."""
    seen, heard, said = duration(path, "v"), duration(path, "a"), line.cues[-1].end
    if max(abs(seen - line.seconds), abs(heard - line.seconds)) > 0.2 or not 0 < heard - said < 2:
        ends = f"pictures {seen:.1f}, sound {heard:.1f}, captions {said:.1f}"
        raise FilmError(f"{path.name}: {ends} s, of {line.seconds:.1f} planned")
    if path.stat().st_size > MOST:
        raise FilmError(f"{path.name} has {path.stat().st_size:,} bytes, more than {MOST:,}")
