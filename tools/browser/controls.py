"""Every control of a widget, moved; and how long its output takes to follow."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from playwright.sync_api import Locator

from tools.browser.notebook import Notebook

# These run a model; all others only draw
SAMPLING = {"talk_to", "sampling_explorer", "explore_samples"}
AT_ONCE = 100  # ms, the aim for a widget that only draws
TOO_LONG = 1000  # ms, a fault even on a busy machine
KINDS = {
    "slider": ".noUi-handle",
    "menu": "select",
    "checkbox": "input[type=checkbox]",
    "text": "textarea, .widget-text input[type=text]",
    "choice": ".widget-toggle-button",
    "button": ".widget-button:not(.widget-toggle-button)",
}


@dataclass(frozen=True)
class Control:
    """The `number`-th of its kind in a cell's output."""

    kind: str
    number: int
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


def name_of(source: str) -> str:
    """The function that makes the widget: the one that the last statement calls."""
    return re.findall(r"^(?:\w+\.)*(\w+)\(", source, re.MULTILINE)[-1]


def controls_of(cell: Locator) -> list[Control]:
    """All controls in the output of a cell."""
    found = []
    for kind, css in KINDS.items():
        every = cell.locator(".jp-OutputArea").locator(css)
        found += [Control(kind, n, label(every.nth(n), kind)) for n in range(every.count())]
    return found


def label(element: Locator, kind: str) -> str:
    """What is written at a control."""
    if kind in ("choice", "button"):
        return element.inner_text().strip()
    own = element.evaluate("x => x.closest('.jupyter-widgets:has(label)')?.innerText")
    return (own or kind).strip().splitlines()[0]


def moves(element: Locator, kind: str) -> Iterator[Callable[[], None]]:
    """Ways to move a control, one after the other."""
    if kind == "slider":
        for _ in range(3):
            at_end = element.get_attribute("aria-valuenow") == element.get_attribute(
                "aria-valuemax"
            )
            key = "ArrowLeft" if at_end else "ArrowRight"
            yield lambda key=key: element.press(key)
    elif kind == "menu":
        count = element.locator("option").count()
        at = element.evaluate("x => x.selectedIndex")
        for step in (1, 0, 1):
            yield lambda step=step: element.select_option(index=(at + step) % count)
    elif kind == "text":
        for _ in range(3):
            yield lambda: type_into(element)
    else:
        for _ in range(3 if kind == "checkbox" else 1):
            yield element.click


def type_into(element: Locator) -> None:
    element.press("End")
    element.press_sequentially("s")
    element.blur()


def time_of(notebook: Notebook, cell: Locator, act: Callable[[], None]) -> float | None:
    """Milliseconds from a move until the output has changed, all of it; None if it has not."""
    page = notebook.page
    page.evaluate("cell => watchOutput(cell)", cell.element_handle())
    act()
    for tick in range(300):
        page.wait_for_timeout(100)
        quiet = page.evaluate("outputTimes()")["quiet"]
        over = tick >= 5 if quiet is None else quiet > 250
        if over and notebook.lab.idle():
            break
    return page.evaluate("outputTimes()")["last"]


def move_all(notebook: Notebook, index: int, name: str) -> list[str]:
    """Move every control of a widget; returns a line for each, with the median time."""
    cell, lines, still = notebook.cell(index), [], []
    controls = controls_of(cell)
    if not controls:
        notebook.fault(f"{name}: no controls")
    for control in controls:
        line = move(notebook, cell, name, control)
        lines += [line] if line else []
        still += [] if line else [control]
    for control in still:  # a button may act only after another: a second vote, after "next"
        line = move(notebook, cell, name, control)
        lines += [line] if line else []
        if not line:
            notebook.fault(f"{name}, {control}: moved, and nothing has changed")
    return lines


def move(notebook: Notebook, cell: Locator, name: str, control: Control) -> str:
    """Move a control a few times; an empty line if nothing has changed."""
    element = cell.locator(".jp-OutputArea").locator(KINDS[control.kind]).nth(control.number)
    times = [time_of(notebook, cell, act) for act in moves(element, control.kind)]
    seen = [ms for ms in times if ms is not None]
    if not seen:
        return ""
    if name not in SAMPLING and min(seen) > TOO_LONG:
        notebook.fault(f"{name}, {control}: {min(seen):.0f} ms")
    some = "" if len(seen) == len(times) else f" ({len(seen)} of {len(times)} moves seen)"
    return f"{name}, {control}: {median(seen):.0f} ms{some}"
