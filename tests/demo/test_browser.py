"""The page in a real browser, with pictures in runs/pictures: `pytest -m slow tests/demo`.

It needs playwright (`pip install playwright`) and Chromium, of the system or playwright's own.
"""

import shutil
import subprocess
import sys

import pytest

from helpers.engine.files import ROOT

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow
PICTURES = ROOT / "runs" / "pictures"
EVIL = "<img src=x onerror=alert(1)> ${alert(1)} {{7*7}} <|endoftext|> 😀"


@pytest.fixture(scope="module")
def address(run_folder):
    command = [sys.executable, "-m", "helpers", "demo", str(run_folder), "--threads", "1"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    yield server.stdout.readline().split(" is at ")[1].split()[0]
    server.terminate()
    server.wait(timeout=30)


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox"]}
        try:
            browser = driver.chromium.launch(**options)
        except playwright.Error:
            pytest.skip("no Chromium here")
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, address):
    """Opens the page as a user of its own; all that goes wrong in it fails the test."""
    contexts, trouble = [], []

    def watch(page):
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(dialog.message))
        page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: trouble.append(r.url) if is_elsewhere(r.url) else None)

    def is_elsewhere(url):
        return not url.startswith((address, "data:", "blob:", "ws://127.0.0.1"))

    def open_page(**options):
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        watch(page)
        page.goto(address)
        page.get_by_role("button", name="Answer").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def answer(page):
    page.get_by_role("button", name="Answer").click()
    page.locator(".card dl div").first.wait_for()


def vote(page, side):
    page.get_by_role("tab", name="Blind vote").click()
    page.get_by_role("button", name="New pair").click()
    page.locator(".card:visible").first.wait_for()
    assert page.locator(".card:visible h3").all_inner_texts() == ["A", "B"]
    page.get_by_role("button", name=f"{side} is better").click()
    page.locator(".card dl:visible div").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device, width, height", [("wide", 1280, 800), ("phone", 390, 844)])
def test_a_visit(open_page, scheme, device, width, height):
    PICTURES.mkdir(parents=True, exist_ok=True)
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": height})

    def picture(name):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=PICTURES / f"{device}-{scheme}-{name}.png", full_page=True)

    answer(page)
    assert page.locator(".card h3").all_inner_texts() == ["base", "SFT", "best of 8", "PPO"]
    page.locator(".card").nth(3).locator(".token").nth(2).hover()
    assert page.locator(".tip:visible").count() == 1
    picture("compare")
    vote(page, "A")
    names = page.locator(".card:visible h3").all_inner_texts()
    assert sorted(name[3:].split(",")[0] for name in names) == ["PPO", "SFT"]
    picture("vote")
    page.get_by_role("tab", name="The run").click()
    page.get_by_text("no figures yet").wait_for()
    picture("run")


def test_hostile_text_is_only_text(open_page):
    page = open_page()
    page.get_by_role("textbox", name="Prompt").fill(EVIL)
    answer(page)
    assert EVIL in page.locator(".note").first.inner_text()
    assert page.locator(".note img, .note script, .card img, .card script").count() == 0
    page.get_by_role("textbox", name="Prompt").fill("   ")
    page.get_by_role("button", name="Answer").click()
    page.get_by_text("Not answered: empty text").wait_for()


def test_two_users_at_once_do_not_meet(open_page, run_folder):
    one, two = open_page(), open_page()
    texts = {one: "My cat sings.", two: "A dog ate my homework."}
    for page, text in texts.items():
        page.get_by_role("textbox", name="Prompt").fill(text)
    for page in texts:
        page.get_by_role("button", name="Answer").click()
    for page, text in texts.items():
        page.locator(".card dl div").first.wait_for()
        assert text in page.locator(".note").first.inner_text()
    log = run_folder / "votes/votes.jsonl"
    before = len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0
    vote(one, "A"), vote(two, "B")
    assert len(log.read_text(encoding="utf-8").splitlines()) == before + 2
