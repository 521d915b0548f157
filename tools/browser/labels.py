"""The pairs of 2-RM-Training, labelled by keyboard, with the kernel killed midway."""

import json
from itertools import cycle, islice

from playwright.sync_api import Locator

from tools.browser.notebook import Notebook

BEFORE, TOTAL = 12, 30  # labels given before the kernel is killed, and in all
KEYS = "aabtabsb"  # what is typed, over and over


class Labels:
    """The cell of the labelling widget. given: the choices that the file should have."""

    def __init__(self, notebook: Notebook, index: int):
        self.notebook, self.index, self.given = notebook, index, []
        self.path = notebook.lab.run / "labels.jsonl"
        self.path.unlink(missing_ok=True)

    @property
    def output(self) -> Locator:
        return self.notebook.cell(self.index).locator(".jp-OutputArea")

    def kept(self) -> list[dict]:
        """The answers in the file."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def shows(self, count: int) -> bool:
        return self.output.get_by_text(f"{count} of ").count() > 0

    def type_until(self, count: int) -> None:
        """Type as a quick person does, with a wrong key and a second thought now and then."""
        keys = self.output.locator(".widget-text input")
        keys.click()
        for key in islice(cycle(KEYS), len(self.given), count):
            if len(self.given) % 5 == 2:
                keys.press_sequentially("x ")  # no answers
                for _ in range(2):
                    keys.press("Backspace")
            if len(self.given) % 4 == 1:
                keys.press_sequentially("s", delay=40)
                keys.press("Backspace", delay=40)
            keys.press_sequentially(key, delay=40)
            self.given.append(key)
        self.notebook.wait_until(lambda: self.shows(count), 30, f"'{count} of' below the pairs")
        self.compare(f"after {count} labels")

    def compare(self, when: str) -> None:
        """The file has what was typed, in order."""
        kept = "".join(answer["choice"] for answer in self.kept())
        if kept != "".join(self.given):
            self.notebook.fault(f"labels.jsonl {when}: {kept}, typed: {''.join(self.given)}")

    def shown(self) -> str:
        """The pair that is asked, as text."""
        return self.output.locator(".widget-html").first.inner_text()

    def kill_kernel(self) -> None:
        """Kill the kernel; JupyterLab notices, and the server starts it again."""
        page, lab = self.notebook.page, self.notebook.lab
        asked = self.shown()
        lab.kill_kernel()
        page.locator(".jp-Dialog .jp-mod-accept").click(timeout=60_000)  # "Kernel Restarting"
        self.notebook.wait_until(lab.idle, 60, "new kernel")
        self.compare("after the kernel was killed")
        self.asked = asked

    def go_on(self) -> None:
        """After a restart and Run All: the same pair is asked, and the rest is labelled."""
        if not self.shows(len(self.given)) or self.shown() != self.asked:
            self.notebook.fault(f"after the restart another pair is asked: {self.shown()[:100]}")
        self.type_until(TOTAL)
