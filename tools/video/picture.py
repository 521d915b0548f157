"""What a viewer sees: the items of a script as a picture of 1280 x 720, and marks on it."""

import base64
import io
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageChops, ImageDraw, ImageFont
from pygments.lexers import PythonLexer
from pygments.token import Token

from tools.video.script import Beat, Box, Item, is_table

SIZE = 1280, 720
LEFT, TOP, RIGHT, BOTTOM = 36, 74, 1244, 682  # where items are drawn
PAD, GAP = 18, 16  # inside a card, between cards
LARGEST, SMALLEST = 30, 18  # text in pixels: 18 can still be read on a phone held sideways
GROUND, CARD, INK, SOFT = "#eceff3", "#ffffff", "#1f2933", "#6b7785"
DARK, BLUE, ORANGE, GREEN, TINT = "#1b2836", "#2d6e91", "#d16f3b", "#3f9f7f", "#fff1cc"
EDGES = {"code": BLUE, "output": GREEN, "formula": ORANGE, "points": BLUE}
COLOURS = {  # of code; a token has the colour of its closest ancestor
    Token: INK,
    Token.Keyword: "#2356a8",
    Token.Name.Builtin: "#0b7285",
    Token.Name.Function: "#8a3ffc",
    Token.Name.Class: "#8a3ffc",
    Token.Name.Decorator: "#8a3ffc",
    Token.Literal.String: "#2b7a3d",
    Token.Literal.Number: "#b4530a",
    Token.Comment: "#6f7f76",
    Token.Operator.Word: "#2356a8",
}
MATH = (  # what matplotlib's TeX does not know, and what it knows in its place
    (r"\\sqrt ?(\w)", r"\\sqrt{\1}"),
    (r"\\[td]?frac(?=\{)", r"\\dfrac"),
    (r"\\[td]?frac(\d)(\d)", r"\\dfrac{\1}{\2}"),
    (r"\\[Bb]ig", ""),
    (r"\\ge\b", r"\\geq"),
    (r"\\le\b", r"\\leq"),
)
matplotlib.rcParams["mathtext.fontset"] = "cm"


Mark = tuple[float, float, float, float, float]  # a box, and how much it is tinted


class PictureError(Exception):
    """Something that can't be drawn; the message says what to change in the script."""


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib: DejaVuSans, DejaVuSansMono, with -Bold."""
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), size)


def colour(token) -> str:
    while token not in COLOURS:
        token = token.parent
    return COLOURS[token]


def rows(item: Item, size: int) -> list[tuple[int, list[tuple[str, str]]]]:
    """Code or text as it is drawn: rows of pieces (text, colour), with the index of their line.

    Long lines of prose are broken, code is moved to the left as a whole.
    """
    if item.kind == "output":
        width = int((RIGHT - LEFT - 2 * PAD) / font("DejaVuSansMono", size).getlength("0"))
        found = []
        for i, (_, line) in enumerate(item.lines):
            parts = [line] if is_table(line) else broken(line, width)
            found += [(i, [(part, INK)]) for part in parts]
        return found
    lines: list[list[tuple[str, str]]] = [[]]
    for token, text in PythonLexer(stripnl=False).get_tokens(item.text):
        first, *others = text.split("\n")
        lines[-1].append((first, colour(token)))
        lines += [[(other, colour(token))] for other in others]
    indent = min(len(line) - len(line.lstrip()) for _, line in item.lines if line)
    return [
        (j, [*clip(lines[i] if i >= 0 else [(line, SOFT)], indent, len(line))])
        for j, (i, line) in enumerate(item.lines)
    ]


def broken(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent="  " if line.startswith(" ") else "") or [
        ""
    ]


def clip(pieces: list[tuple[str, str]], start: int, end: int) -> Iterator[tuple[str, str]]:
    """The pieces of a line from one column to another."""
    at = 0
    for text, ink in pieces:
        yield text[max(0, start - at) : max(0, end - at)], ink
        at += len(text)


def row_text(row: list[tuple[str, str]]) -> str:
    return "".join(text for text, _ in row)


@cache
def formula(parts: tuple[str, ...], size: int) -> tuple[Image.Image, list[Box]]:
    """A formula in black on white, and the box of each of its parts in pixels."""
    figure = Figure(figsize=(40, 3), dpi=100)
    renderer = FigureCanvasAgg(figure).get_renderer()
    x, boxes = 20.0, []
    for part in parts:
        math = "{}" + part if boxes and part[0] in "+-" else part  # with a sign's spaces
        for tex, known in MATH:
            math = re.sub(tex, known, math)
        text = figure.text(x / 4000, 0.5, f"${math}$", fontsize=size * 0.72, va="baseline")
        try:
            box = text.get_window_extent(renderer)
        except ValueError as error:
            reason = str(error).strip().splitlines()[-1]
            raise PictureError(f"the formula {part!r} can't be drawn: {reason}") from None
        boxes.append((box.x0, 300 - box.y1, box.x1, 300 - box.y0))
        x = box.x1 + size * 0.18
    figure.canvas.draw()
    image = Image.frombytes("RGBA", (4000, 300), bytes(figure.canvas.buffer_rgba())).convert("RGB")
    top, bottom = min(box[1] for box in boxes) - 6, max(box[3] for box in boxes) + 6
    image = image.crop((14, round(top), round(x) + 6, round(bottom)))
    return image, [(a - 14, b - top, c - 14, d - top) for a, b, c, d in boxes]


@cache
def drawn(png: str, crop: Box) -> Image.Image:
    """A figure of the notebook, or a part of it."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    return image.crop(tuple(round(a * b) for a, b in zip(crop, image.size * 2)))


@dataclass
class Placed:
    """An item in its card. boxes: of its lines or parts, in pixels of the picture."""

    item: Item
    card: Box
    size: int  # of its text
    boxes: list[Box]


def wrapped(item: Item, size: int) -> list[list[str]]:
    """The points of a list, each in lines that fit its card."""
    write, room = font("DejaVuSans", size), RIGHT - LEFT - 2 * PAD - 40
    return [
        textwrap.wrap(part, int(len(part) * min(1, room / write.getlength(part))) or 1)
        for part in item.parts
    ]


def needed(item: Item, size: int) -> tuple[float, float]:
    """Width and height of an item's content with text of this size."""
    if item.kind in ("code", "output"):
        texts = [row_text(row) for _, row in rows(item, size)]
        width = max(map(len, texts), default=0) * font("DejaVuSansMono", size).getlength("0")
        return width, len(texts) * round(1.36 * size)
    if item.kind == "points":
        lines = sum(map(len, wrapped(item, size + 4)))
        return 0, lines * round(1.4 * (size + 4)) + (len(item.parts) - 1) * size * 0.7
    if item.kind == "formula":
        width, height = formula(tuple(item.parts), size + 22)[0].size
        return width, height
    return 0, 0


def layout(items: list[Item]) -> list[Placed]:
    """Put the items below each other, with the largest text that fits. PictureError if none
    does.
    """
    room = RIGHT - LEFT - 2 * PAD
    figures = [drawn(item.image, item.crop).size for item in items if item.kind == "figure"]
    best = None
    for size in range(LARGEST, SMALLEST - 1, -1):
        sizes = [needed(item, size) for item in items]
        free = BOTTOM - TOP - GAP * (len(items) - 1) - 2 * PAD * len(items)
        free -= sum(height for _, height in sizes)
        if max(width for width, _ in sizes) > room or free < 0:
            continue
        widest = min((room / width for width, _ in figures), default=1.0)
        scale = min(2.2, widest, free / max(1, sum(height for _, height in figures)))
        if best is None or scale > best[1]:
            best = size, scale, sizes
        if not figures or scale > 1.25:
            break
    if best is None or best[1] < 0.8:
        shown = ", ".join(f"{item.kind} of {len(item.lines)} lines" for item in items)
        raise PictureError(f"too much for one picture ({shown}): choose fewer or shorter lines")
    return [*place(items, *best)]


def place(items: list[Item], size: int, scale: float, sizes: list[tuple[float, float]]):
    """Cards and boxes for a size of text and a scale of figures."""
    heights = [
        drawn(item.image, item.crop).height * scale if item.kind == "figure" else height
        for item, (_, height) in zip(items, sizes)
    ]
    total = sum(heights) + 2 * PAD * len(items) + GAP * (len(items) - 1)
    y = TOP + max(0, (BOTTOM - TOP - total) / 2)
    for item, height in zip(items, heights):
        card = (LEFT, y, RIGHT, y + height + 2 * PAD)
        yield Placed(item, card, size, content_boxes(item, card, size, scale))
        y = card[3] + GAP


def content_boxes(item: Item, card: Box, size: int, scale: float) -> list[Box]:
    """Boxes of lines, points or parts; of a figure one, its picture."""
    x, y = card[0] + PAD, card[1] + PAD
    if item.kind in ("code", "output"):
        advance, step = font("DejaVuSansMono", size).getlength("0"), round(1.36 * size)
        found: list[list[Box]] = [[] for _ in item.lines]
        for i, (line, row) in enumerate(rows(item, size)):
            text = row_text(row).rstrip()
            start = len(text) - len(text.lstrip())
            sides = x + start * advance, y + i * step, x + len(text) * advance, y + (i + 1) * step
            found[line].append(sides)
        return [around(boxes) for boxes in found]
    if item.kind == "points":
        boxes = []
        for lines in wrapped(item, size + 4):
            height = len(lines) * round(1.4 * (size + 4))
            width = max(font("DejaVuSans", size + 4).getlength(line) for line in lines) + 30
            boxes.append((x, y, x + width, y + height))
            y += height + size * 0.7
        return boxes
    if item.kind == "formula":
        image, boxes = formula(tuple(item.parts), size + 22)
        x = (LEFT + RIGHT - image.width) / 2
        return [(x + a, y + b, x + c, y + d) for a, b, c, d in boxes]
    if item.kind == "figure":
        width, height = (scale * side for side in drawn(item.image, item.crop).size)
        x = (LEFT + RIGHT - width) / 2
        return [(x, y, x + width, y + height)]
    return [card]


def box_of(mark: tuple[int, int | Box], placed: list[Placed]) -> Box:
    """The box of a mark, in pixels."""
    index, what = mark
    if isinstance(what, int):
        return placed[index].boxes[what]
    x0, y0, x1, y1 = placed[index].boxes[0]
    a, b, c, d = what
    return x0 + a * (x1 - x0), y0 + b * (y1 - y0), x0 + c * (x1 - x0), y0 + d * (y1 - y0)


def mark_boxes(beat: Beat, placed: list[Placed]) -> list[Mark]:
    """What a beat marks, in pixels: lines that follow each other share a box. Words are tinted,
    figures are not.
    """
    boxes, marks = [], sorted(set(beat.marks), key=str)
    lines = sorted(mark for mark in marks if isinstance(mark[1], int))
    runs = groupby(enumerate(lines), lambda pair: (pair[1][0], pair[1][1] - pair[0]))
    for (item, _), run in runs:
        found = [box_of(mark, placed) for _, mark in run]
        if placed[item].item.kind in ("formula", "points"):
            boxes += found
        else:
            boxes.append(around(found))
    figures = [box_of(mark, placed) for mark in marks if not isinstance(mark[1], int)]
    words = [(a - 8, b - 2, c + 8, d + 2, 1.0) for a, b, c, d in boxes]
    return words + [(*box, 0.0) for box in figures]


def around(boxes: list[Box]) -> Box:
    low = [min(box[i] for box in boxes) for i in (0, 1)]
    return low[0], low[1], max(box[2] for box in boxes), max(box[3] for box in boxes)


def draw_item(image: Image.Image, placed: Placed) -> None:
    """One card with its content."""
    draw, item, size = ImageDraw.Draw(image), placed.item, placed.size
    draw.rounded_rectangle(placed.card, 10, CARD, "#d5dbe3")
    left, top, _, bottom = placed.card
    if item.kind in EDGES:
        draw.rounded_rectangle((left, top, left + 7, bottom), 4, EDGES[item.kind])
    if item.kind in ("code", "output"):
        mono = font("DejaVuSansMono", size)
        advance, step = mono.getlength("0"), round(1.36 * size)
        for i, (_, row) in enumerate(rows(item, size)):
            x = left + PAD
            for text, ink in row:
                draw.text((x, top + PAD + i * step + 0.14 * size), text, ink, mono)
                x += advance * len(text)
    elif item.kind == "points":
        for (x, y, *_), lines in zip(placed.boxes, wrapped(item, size + 4)):
            draw.ellipse((x + 4, y + size * 0.62, x + 14, y + size * 0.62 + 10), ORANGE)
            for i, line in enumerate(lines):
                at = x + 30, y + i * round(1.4 * (size + 4)) + 2
                draw.text(at, line, INK, font("DejaVuSans", size + 4))
    elif item.kind == "formula":
        x, y = placed.boxes[0][0] - 6, placed.card[1] + PAD
        image.paste(formula(tuple(item.parts), size + 22)[0], (round(x), round(y)))
    elif item.kind == "figure":
        x0, y0, x1, y1 = (round(side) for side in placed.boxes[0])
        picture = drawn(item.image, item.crop).resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS)
        image.paste(picture, (x0, y0))


def draw_edges(image: Image.Image, name: str, chapter: str, step: int, steps: int) -> None:
    """Name, chapter and progress, above and below the items."""
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, SIZE[0], 58), DARK)
    draw.text((LEFT, 29), name, "#f2b48f", font("DejaVuSans-Bold", 25), "lm")
    x = LEFT + font("DejaVuSans-Bold", 25).getlength(name) + 22
    draw.text((x, 29), chapter, "#ffffff", font("DejaVuSans", 25), "lm")
    draw.text((RIGHT, 29), "RLHF from scratch", "#9fb0c0", font("DejaVuSans", 19), "rm")
    width = (RIGHT - LEFT) / steps
    for i in range(steps):
        x = LEFT + i * width
        ink = ORANGE if i == step else BLUE if i < step else "#cfd6de"
        draw.rounded_rectangle((x, 699, x + width - 5, 706), 3, ink)


def title_card(name: str, title: str, words: str) -> Image.Image:
    """The card that a video opens with."""
    image = Image.new("RGB", SIZE, DARK)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 18, SIZE[1]), ORANGE)
    draw.text((90, 120), "RLHF from scratch", "#9fb0c0", font("DejaVuSans", 34))
    draw.text((90, 190), name, "#ffffff", font("DejaVuSans-Bold", 88))
    y = 320
    for line in textwrap.wrap(title.partition(": ")[2], 46):
        draw.text((90, y), line, "#f2b48f", font("DejaVuSans", 42))
        y += 58
    for line in textwrap.wrap(words, 60):
        draw.text((90, y + 40), line, "#dfe6ec", font("DejaVuSans", 30))
        y += 46
    return image


def poster(card: Image.Image) -> Image.Image:
    """The title card in small, with a sign that it plays."""
    image = card.copy()
    draw = ImageDraw.Draw(image)
    draw.ellipse((1010, 470, 1190, 650), ORANGE)
    draw.polygon([(1075, 515), (1075, 605), (1148, 560)], "#ffffff")
    return image.resize((640, 360), Image.Resampling.LANCZOS)


def with_marks(base: Image.Image, boxes: list[Mark]) -> Image.Image:
    """The picture with everything but the boxes toned down."""
    if not boxes:
        return base
    image = Image.blend(base, Image.new("RGB", SIZE, GROUND), 0.42)
    image.paste(base.crop((0, 0, SIZE[0], 58)), (0, 0))
    image.paste(base.crop((0, 690, *SIZE)), (0, 690))
    draw = ImageDraw.Draw(image)
    for *box, share in boxes:
        whole = tuple(round(side) for side in box)
        part = base.crop(whole)
        tinted = ImageChops.multiply(part, Image.new("RGB", part.size, TINT))
        image.paste(Image.blend(part, tinted, share), whole[:2])
        draw.rounded_rectangle(whole, 6, None, ORANGE, 3)
    return image


def between(old: list[Mark], new: list[Mark], share: float) -> list[Mark]:
    """Boxes on the way from the old marks to the new ones."""
    pairs = [(old[min(i, len(old) - 1)], box) for i, box in enumerate(new)]
    return [tuple(a + share * (b - a) for a, b in zip(one, other)) for one, other in pairs]


def wipe(old: Image.Image, new: Image.Image, share: float) -> Image.Image:
    """A picture uncovered from the left. (A crossfade takes twice the bytes.)"""
    image, x = old.copy(), round(share * SIZE[0])
    image.paste(new.crop((0, 0, x, SIZE[1])), (0, 0))
    return image
