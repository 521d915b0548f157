"""The texts of the repository: links lead somewhere, words are spelt as the dictionary has them."""

import json
import re
import subprocess
import sys

import pytest

from helpers.engine.files import ROOT
from helpers.run.folders import FILES

LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
# words that are meant, and misspelt columns that a test is about
MEANT = "rouge,sorce"


def pages():
    """{file: its prose}: the Markdown files, and the notebooks' texts."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    paths = [ROOT / name for name in listed.stdout.split()] or [*ROOT.glob("[!.]*/**/*.md")]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    for name in FILES.values():
        cells = json.loads((ROOT / name).read_text(encoding="utf-8"))["cells"]
        prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        texts[ROOT / name] = "\n".join(prose)
    return texts


PAGES = pages()


def anchors(text):
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^(?: {4}|```).*$", "", text, flags=re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(path):
    lost = []
    for match in LINK.finditer(re.sub(r"`[^`\n]+`", "", PAGES[path])):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:|#.*|\$", target) and not (path.suffix == ".md" and target[0] == "#"):
            continue  # the Web; anchors inside a notebook are checked with its headings
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists():
            lost.append(target)
        elif anchor and there.suffix == ".md" and anchor not in anchors(PAGES[there]):
            lost.append(target)
    assert lost == []


def test_spelling(tmp_path):
    """Code, comments and prose, by codespell's list of misspellings."""
    for path, text in PAGES.items():
        if path.suffix == ".ipynb":
            (tmp_path / f"{path.stem}.md").write_text(text, encoding="utf-8")
    folders = ("helpers", "tools", "benchmarks", "data", "tests")
    code = [str(path) for folder in folders for path in (ROOT / folder).rglob("*.py")]
    pages_ = [str(path) for path in PAGES if path.suffix == ".md"]
    command = [sys.executable, "-m", "codespell_lib", "-L", MEANT, str(tmp_path), *pages_, *code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
