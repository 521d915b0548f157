"""A notebook in the browser: open it, run it, look for errors, take its pictures."""

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, Route

from tools.browser.lab import Lab

# Addresses outside this machine that a notebook may name: they get an empty answer
OUTSIDE = {"colab.research.google.com": "the badges", "kaggle.com": "the badges"}
SCROLLED = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer"
PROMPTS = ".jp-Notebook .jp-CodeCell .jp-InputPrompt"
ERRORS = "application/vnd.jupyter.error", "application/vnd.jupyter.stderr"
HEIGHT = 1000


class Notebook:
    """An open notebook. faults: what was wrong so far, one line each."""

    def __init__(self, lab: Lab, browser: Browser, stem: str):
        self.lab, self.stem, self.faults = lab, stem, []
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": HEIGHT})
        self.page.on("console", lambda m: m.type == "error" and self.fault(f"console: {m.text}"))
        self.page.on("pageerror", lambda error: self.fault(f"page: {error}"))
        self.page.route(lambda url: not url.startswith((lab.url, "data:", "blob:")), self.outside)
        self.page.add_init_script(path=Path(__file__).with_name("page.js"))
        self.page.goto(f"{lab.url}/lab/tree/{stem}.ipynb?reset&token={lab.token}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        self.wait_until(lab.idle, 60, "a kernel")
        self.page.keyboard.press("Control+b")  # the side bar away

    def fault(self, text: str) -> None:
        self.faults.append(f"{self.stem}: {text[:300]}")
        print(f"    FAULT {text[:300]}", flush=True)

    def outside(self, route: Route) -> None:
        """Nothing is fetched from elsewhere, so that the test is the same without a network."""
        host = urlsplit(route.request.url).hostname
        if host not in OUTSIDE:
            self.fault(f"asks for {route.request.url}")
        route.fulfill(
            content_type="image/svg+xml", body="<svg xmlns='http://www.w3.org/2000/svg'/>"
        )

    def wait_until(self, happens: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not happens():
            if time.monotonic() > end:
                raise RuntimeError(f"{self.stem}: no {what} after {seconds} s")
            self.page.wait_for_timeout(200)

    def menu(self, *names: str) -> None:
        """Choose from the menu bar."""
        self.page.get_by_role("menuitem", name=names[0], exact=True).first.click()
        for name in names[1:-1]:
            self.page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).last.hover()
            self.page.wait_for_timeout(500)
        self.page.locator(".lm-Menu-itemLabel").get_by_text(names[-1], exact=True).last.click()

    def cell(self, index: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> str:
        """The text that a cell shows."""
        return self.cell(index).locator(".jp-OutputArea").first.inner_text()

    def run_all(self, seconds: float = 600) -> None:
        self.menu("Run", "Run All Cells")
        self.wait_for_cells(seconds)

    def run_cells(self, *indices: int, seconds: float = 120) -> None:
        for index in indices:
            self.cell(index).locator(".jp-InputPrompt").click()
            self.page.keyboard.press("Control+Enter")
            self.wait_for_cells(seconds)

    def wait_for_cells(self, seconds: float) -> None:
        """Until no cell is waiting or running."""
        self.page.wait_for_timeout(300)
        starred = self.page.locator(PROMPTS).filter(has_text="[*]")
        done = lambda: not starred.count() and self.lab.idle()  # noqa: E731
        self.wait_until(done, seconds, "end of the cells")

    def look_for_errors(self) -> None:
        """Every code cell has run, none to an error or a warning on stderr."""
        for index, text in enumerate(self.page.locator(PROMPTS).all_inner_texts()):
            if not text.strip("[]: ").isdigit():
                self.fault(f"code cell {index} has not run: {text}")
        for mime in ERRORS:
            for text in self.page.locator(f'[data-mime-type="{mime}"]').all_inner_texts():
                self.fault(f"{mime.split('.')[-1]}: {text.strip()[-250:]}")

    def set_theme(self, name: str) -> None:
        self.menu("Settings", "Theme", f"JupyterLab {name}")
        body = f'body[data-jp-theme-name="JupyterLab {name}"]'
        self.page.wait_for_selector(body, state="attached")  # its own box may have no height
        self.page.wait_for_timeout(1000)

    def close(self) -> None:
        self.page.close()
        self.lab.end_session()
