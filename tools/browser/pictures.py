"""Pictures of what a reader sees, to be looked at; and what in them can't be read."""

import io
from pathlib import Path

from PIL import Image

from tools.browser.notebook import HEIGHT, SCROLLED, Notebook

STRIP, COLUMNS, SCALE = 3000, 3, 0.55  # of the pictures of a whole notebook


def of_widgets(notebook: Notebook, widgets: dict[int, str], theme: str, out: Path) -> None:
    """A picture of each widget's cell; a fault for texts that are pale or cut off."""
    for index, name in widgets.items():
        cell = notebook.cell(index)
        cell.scroll_into_view_if_needed()
        notebook.page.wait_for_timeout(300)
        cell.screenshot(path=out / f"{notebook.stem}-{index}-{name}-{theme}.png")
        output = cell.locator(".jp-OutputArea").first
        for text in output.evaluate("root => paleTexts(root)"):
            notebook.fault(f"{name}, {theme}: contrast {text}")
    wide = ".jp-OutputArea-output, .jp-RenderedMarkdown"
    for text in notebook.page.locator(wide).evaluate_all("all => all.flatMap(overflow)"):
        notebook.fault(f"{theme}: wider than its cell: {text}")


def of_notebook(notebook: Notebook, theme: str, out: Path) -> None:
    """The whole notebook, strips side by side on a few sheets."""
    page = notebook.page
    page.set_viewport_size({"width": 1280, "height": STRIP + 120})
    page.wait_for_timeout(1500)
    panel = page.locator(SCROLLED).first
    total, height = panel.evaluate("x => [x.scrollHeight, x.clientHeight]")
    strips = []
    for y in range(0, total, height):
        panel.evaluate("(x, y) => x.scrollTop = y", y)
        page.wait_for_timeout(200)
        strip = Image.open(io.BytesIO(panel.screenshot()))
        hidden = max(0, y + height - total)  # the last one can't scroll that far
        strips.append(strip.crop((0, hidden, strip.width, strip.height)))
    for sheet, start in enumerate(range(0, len(strips), COLUMNS)):
        some = strips[start : start + COLUMNS]
        size = sum(strip.width for strip in some), max(strip.height for strip in some)
        image = Image.new("RGB", size, "grey")
        for i, strip in enumerate(some):
            image.paste(strip, (sum(s.width for s in some[:i]), 0))
        small = image.resize([int(SCALE * x) for x in size], Image.Resampling.LANCZOS)
        small.save(out / f"{notebook.stem}-whole-{theme}-{sheet}.png")
    page.set_viewport_size({"width": 1280, "height": HEIGHT})
