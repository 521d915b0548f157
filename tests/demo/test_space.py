"""The folder for a Space stands alone."""

import ast
import os
import re
import shutil
import subprocess
import sys

import pytest

from helpers.demo.models import open_run
from helpers.demo.space import write_space
from tests.support.demo_run import make_run

pytest.importorskip("gradio")
# In the place of the server: what the page is built from, and where the code comes from
STAND_IN = """
import sys, runpy
import helpers.demo.page as page
def launch(models):
    page.build(models)
    files = [m.__file__ for n, m in sys.modules.items() if n.startswith(("helpers.", "data."))]
    strange = [file for file in files if file and not file.startswith(sys.argv[1])]
    there = list(models.policies), models.reward is not None
    print(models.track, *there, len(models.prompts), strange)
page.launch = launch
runpy.run_path("app.py")
"""


def needed(folder):
    """The files of the course that the app imports, by their import statements outside functions;
    those that are not there too.
    """
    found, waiting = set(), ["helpers.demo.page", "helpers.demo.models"]
    while waiting:
        name = waiting.pop()
        path = folder / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path in found:
            continue
        found.add(path)
        for node in ast.parse(path.read_text("utf-8")).body if path.exists() else []:
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in (
                "helpers",
                "data",
            ):
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                waiting += [node.module, *(n for n in inner if is_module(folder, n))]
    return found


def is_module(folder, name):
    path = folder / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def test_it_has_what_the_page_imports(run_folder):
    space = write_space(open_run(run_folder))
    files = needed(space)
    assert len(files) > 40 and [path for path in files if not path.exists()] == []
    rows = [path.relative_to(space).as_posix() for path in space.rglob("*.xz")]
    assert rows == ["data/tldr/prompts.heldout.jsonl.xz"]
    shutil.rmtree(space)


@pytest.mark.slow
@pytest.mark.parametrize("track, stages", [("tldr", None), ("instruct", ("sft", "ppo"))])
def test_a_copy_starts_anywhere(track, stages, tmp_path):
    run = make_run(tmp_path / "run-of-mine", track, stages or ("pretrain", "sft", "reward", "ppo"))
    (run / "checkpoints/sft/adapter").mkdir()
    (run / "figures").mkdir()
    (run / "figures/ppo-training.png").write_bytes(b"png")
    space = write_space(open_run(run))
    assert write_space(open_run(run)) == space  # once more, in its place
    copy = shutil.move(space, tmp_path / "elsewhere")
    shutil.rmtree(run)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", STAND_IN, str(copy)]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=120)
    names = "['base', 'SFT', 'PPO'] True" if stages is None else "['SFT', 'PPO'] False"
    assert done.stdout == f"{track} {names} 200 []\n", done.stderr
    assert (copy / "runs/run-of-mine/figures/ppo-training.png").exists()
    assert not list(copy.rglob("adapter"))


def test_the_front_matter_and_the_requirements_name_tested_versions(run_folder, root):
    space = write_space(open_run(run_folder))
    pins = dict(line.split("==") for line in (space / "requirements.txt").read_text().split())
    front = (space / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    facts = dict(line.split(": ", 1) for line in front.splitlines())
    assert facts["sdk"] == "gradio" and facts["sdk_version"] == pins["gradio"]
    assert facts["app_file"] == "app.py" and len(facts["short_description"]) <= 60
    assert pins.keys() >= {"torch", "tiktoken", "safetensors"} and "+" not in "".join(pins.values())
    shutil.rmtree(space)


def test_nothing_in_it_says_where_it_was_made(run_folder, root):
    space = write_space(open_run(run_folder))
    texts = [path.read_bytes() for path in space.rglob("*") if path.is_file()]
    for place in (str(run_folder), str(root)):
        assert not any(re.search(re.escape(place.encode()), text) for text in texts)
    shutil.rmtree(space)
