"""The drawings of the course: files that any page can show, with everything in sight."""

import re
from xml.etree import ElementTree

import pytest
from IPython.core.formatters import DisplayFormatter

from helpers.batching import right_pad
from helpers.lesson.drawings import FOLDER, draw
from helpers.sft import completion_masks

NAMES = ["block", "masks", "pipeline", "ppo-models"]
SVG = "{http://www.w3.org/2000/svg}"
CHARACTER = 0.62  # width over font size: DejaVu Sans, the widest of the usual fonts


def texts(root):
    """(text, left, right, baseline, font size) of each text, by what its groups hand down."""

    def visit(node, inherited):
        look = inherited | node.attrib
        if node.tag == f"{SVG}text":
            x, y, size = (float(look[key]) for key in ("x", "y", "font-size"))
            width = CHARACTER * size * len(node.text)
            share = {"start": 0, "middle": 0.5, "end": 1}[look.get("text-anchor", "start")]
            yield node.text, x - share * width, x + (1 - share) * width, y, size
        for child in node:
            yield from visit(child, {k: v for k, v in look.items() if k not in ("x", "y")})

    yield from visit(root, {})


def test_these_are_all_drawings():
    assert sorted(path.stem for path in FOLDER.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestFile:
    def read(self, name):
        source = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
        return source, ElementTree.fromstring(source)

    def test_says_in_words_what_it_shows(self, name):
        _, root = self.read(name)
        assert root.get("role") == "img"
        for tag in ("title", "desc"):
            part = root.find(f"{SVG}{tag}")
            assert part.text.strip() and part.get("id") in root.get("aria-labelledby").split()
        assert root.findtext(f"{SVG}desc").strip().endswith(".")

    def test_needs_nothing_else(self, name):
        """No script, page, style sheet or file; its ids differ from those of other drawings."""
        source, root = self.read(name)
        tags = {node.tag.removeprefix(SVG) for node in root.iter()}
        drawn = {"svg", "title", "desc", "defs", "marker", "g", "path", "rect", "circle", "text"}
        assert tags <= drawn
        ids = {node.get("id") for node in root.iter()} - {None}
        assert all(id_.startswith(f"{name.split('-')[0]}-") for id_ in ids)
        assert set(re.findall(r"url\((.*?)\)", source)) <= {f"#{id_}" for id_ in ids}
        assert not re.search(r"href|\son\w+=|@import", source)
        assert re.findall(r"\w+://[^\"]+", source) == ["http://www.w3.org/2000/svg"]

    def test_is_small(self, name):
        assert (FOLDER / f"{name}.svg").stat().st_size < 12_000

    def test_texts_are_legible_and_in_sight(self, name):
        _, root = self.read(name)
        left, top, width, height = map(float, root.get("viewBox").split())
        assert (left, top) == (0, 0) and 780 <= width <= 880
        assert [root.get("width"), root.get("height")] == root.get("viewBox").split()[2:]
        for text, start, end, baseline, size in texts(root):
            assert size >= 13, text
            assert 4 < start and end < width - 4 and size < baseline < height - 0.3 * size, text

    def test_has_the_same_background_in_every_theme(self, name):
        """The first thing drawn is an opaque light card that fills the drawing."""
        _, root = self.read(name)
        card = root.find(f"{SVG}rect")
        _, _, width, height = map(float, root.get("viewBox").split())
        assert (float(card.get("width")), float(card.get("height"))) == (width - 2, height - 2)
        assert card.get("fill") == "#fbfaf7" and card.get("opacity") is None

    def test_a_cell_shows_it(self, name):
        source, root = self.read(name)
        data, _ = DisplayFormatter().format(draw(name))
        assert data.keys() == {"image/svg+xml", "text/plain"} and data["image/svg+xml"] == source
        title = root.findtext(f"{SVG}title")
        assert data["text/plain"].startswith(f"{title}. ") and "\n" not in data["text/plain"]


def test_an_unknown_name_lists_the_drawings():
    with pytest.raises(ValueError, match="no drawing 'blocks': take one of block, masks, pipe"):
        draw("blocks")


def test_the_masks_are_those_of_the_library(tokenizer):
    """Tokens, padding mask, completion mask and labels, from the drawn texts."""
    lines = {}
    for text, left, right, baseline, _ in texts(ElementTree.parse(FOLDER / "masks.svg").getroot()):
        if 190 < (left + right) / 2 < 790:
            lines.setdefault(baseline, []).append(text.replace("−", "-"))
    prompt, completion = (tokenizer.encode(text) for text in ("TL;DR:", " Should I stay"))
    row = prompt + completion + [tokenizer.eos_id]
    ids, mask = right_pad([row], tokenizer.pad_id, multiple=10)
    counts = completion_masks(mask, [len(prompt)])[0]
    special = {tokenizer.eos_id: "EOS", tokenizer.pad_id: "PAD"}
    pieces = [special.get(i) or tokenizer.decode([i]).replace(" ", "·") for i in ids[0].tolist()]
    labels = [piece if own else "-100" for piece, own in zip(pieces[1:], counts[1:])] + ["-100"]
    assert lines[94.0] == pieces
    assert lines[142.0] == [str(int(real)) for real in mask[0]]
    assert lines[190.0] == [str(int(own)) for own in counts]
    assert lines[276.0] == labels
