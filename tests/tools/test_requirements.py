"""pyproject.toml (uv) and requirements.txt (pip) ask for the same packages and versions."""

import re

import pytest

tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on


def lines(path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith(("#", "-r "))]


def test_uv_and_pip_ask_for_the_same(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert sorted(project["project"]["dependencies"]) == sorted(lines(root / "requirements.txt"))
    demo = project["project"]["optional-dependencies"]["demo"]
    assert demo == lines(root / "requirements-demo.txt")


def test_uv_takes_the_tested_versions(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    pinned = lines(root / "constraints.txt")
    asked = lines(root / "requirements.txt") + lines(root / "requirements-demo.txt")
    direct = {re.split(r"[>=]", line)[0] for line in asked}
    expected = [line for line in pinned if line.split("==")[0] in direct]
    assert sorted(project["tool"]["uv"]["constraint-dependencies"]) == sorted(expected)
