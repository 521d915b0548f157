"""`python -m helpers space RUN`: the demo of a run as a folder for a Hugging Face Space.

The folder stands alone: the page, the parts of the course that it needs, the run's checkpoints and
its report. `python app.py` starts it on any machine.
"""

import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from helpers.demo.chat import open_models, parser_of
from helpers.demo.models import Models, stages_of
from helpers.demo.serve import MISSING
from helpers.engine.files import ROOT, replaced_folder, write_text
from helpers.rows.embedded import SHARED_WORLDS
from helpers.run.checkpoints import CheckpointError, read_info

PACKAGES = ("torch", "tiktoken", "safetensors", "numpy", "filelock", "jinja2", "gradio")
UNUSED = shutil.ignore_patterns("__main__.py", "__pycache__", "compare", "lesson", "stages")
ROWS = shutil.ignore_patterns("*.xz", "*.json", "*.md", "__pycache__")
APP = '''"""Talk to the models of a run of "RLHF from scratch": `python app.py`."""

import os
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from helpers.demo.models import open_run  # noqa: E402
from helpers.demo.page import launch  # noqa: E402

launch(open_run(Path(__file__).resolve().parent / "runs" / {name!r}))
'''
README = """---
title: RLHF from scratch ({track})
emoji: 🎯
colorFrom: blue
colorTo: yellow
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
license: mit
short_description: Base, SFT, best of n and PPO side by side
---

The models of one run of the course *RLHF from scratch*, on the track `{track}`: {policies}.

Start it anywhere: `pip install -r requirements.txt`, then `python app.py`. Votes are written to
`runs/{name}/votes`; on a Space they last until it restarts, unless it has persistent storage.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parser_of("space", "The demo of a run as a folder for a Space.").parse_args(argv)
    try:
        print(f"The Space is in {write_space(open_models(args))}: `python app.py` starts it there")
    except PackageNotFoundError:
        sys.exit(f"space: {MISSING}")
    except (CheckpointError, OSError, ValueError) as error:
        sys.exit(f"space: {error}")


def write_space(models: Models) -> Path:
    """Write the folder `space` into a run folder, in the place of an older one; returns its path.

    Raises PackageNotFoundError without gradio, whose version a Space must name.
    """
    name, versions = models.folder.name, {package: version(package) for package in PACKAGES}
    policies = ", ".join(models.policies)
    gaps = {"name": name, "track": models.track, "policies": policies, "gradio": versions["gradio"]}
    pins = [f"{package}=={number.split('+')[0]}\n" for package, number in versions.items()]
    space = models.folder / "space"
    with replaced_folder(space) as fresh:
        write_text(fresh / "app.py", APP.format(name=name))
        write_text(fresh / "README.md", README.format(**gaps))
        write_text(fresh / "requirements.txt", "".join(pins))
        shutil.copytree(ROOT / "helpers", fresh / "helpers", ignore=UNUSED)
        shutil.copytree(ROOT / "data", fresh / "data", ignore=ROWS)
        if models.config.get("source") == "embedded":
            world = SHARED_WORLDS.get(models.track, (models.track, ""))[0]
            rows = Path("data", world, "prompts.heldout.jsonl.xz")
            shutil.copy(ROOT / rows, fresh / rows)
        copy_run(models, fresh / "runs" / name)
    return space


def copy_run(models: Models, target: Path) -> None:
    """Copy what the page reads of a run: checkpoints without adapters, its report or figures."""
    there = {*models.policies, *(["reward model"] if models.reward else [])}
    for stage in (stage for name, stage in stages_of(models.folder).items() if name in there):
        source, copy = (folder / "checkpoints" / stage for folder in (models.folder, target))
        copy.mkdir(parents=True)
        for file in (*read_info(source)["files"], "stage.json", "README.md"):
            shutil.copy(source / file, copy / file)
    if (models.folder / "report.html").is_file():
        shutil.copy(models.folder / "report.html", target)
    elif (models.folder / "figures").is_dir():
        shutil.copytree(models.folder / "figures", target / "figures")
