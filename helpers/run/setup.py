"""The first lines of every notebook and of every stage's command: find out where it runs, choose
device and number format, open the run folder.

`course = setup("3-PPO")` returns a `Course` (helpers/run/course.py). Everything can be chosen from
outside (helpers/run/settings.py), so that the same notebook runs unchanged in JupyterLab, headless,
on Colab and on Kaggle.
"""

import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from helpers.config import AdapterConfig
from helpers.engine.files import ROOT
from helpers.engine.hardware import (
    choose_device,
    choose_dtype,
    choose_threads,
    keep_freed_memory,
    physical_cores,
)
from helpers.run import answers
from helpers.run.course import PRETRAINED, Course
from helpers.run.folders import BONUS, NOTEBOOKS, PARENTS, STAGES, default_out, make_run_folder
from helpers.run.presets import GPU_PRESETS, choose_init, choose_preset, load_config
from helpers.run.session import (
    find_platform,
    quiet_libraries,
    require_packages,
    set_figure_style,
    set_seed,
)
from helpers.run.settings import Settings, read_settings


def setup(notebook: str, **options: Any) -> Course:
    """Prepare one notebook or stage and print its settings in four lines.

    notebook: "0-Pretrain", "1-SFT", "2-RM-Training", "3-PPO" or a bonus notebook. options:
    settings by name (`helpers.run.settings.Settings`), which win over environment variables. Raises
    ValueError for a notebook, SettingsError for a setting or device that does not exist, with the
    valid choices; CheckpointError for another base model than the run's SFT model has.
    """
    if notebook not in STAGES | BONUS:
        raise ValueError(f"no notebook {notebook!r}: choose from {', '.join(STAGES | BONUS)}")
    settings, hosted_by = read_settings(options), find_platform()
    os.chdir(ROOT)  # a copy opened from another folder behaves like the notebook itself
    require_packages(hosted_by, settings.source, settings.track)
    quiet_libraries()
    course = make_course(notebook, settings, hosted_by)
    from helpers.run.base_model import check_base  # here: its packages may just have been installed

    check_base(course)
    make_run_folder(course.out)
    if course.out.is_relative_to(ROOT):
        answers.keep_in(answers.FOLDER)
    torch.set_num_threads(course.threads)
    keep_freed_memory()
    if course.device.type == "cuda":  # TF32 for what stays in float32, but PPO's ratio starts at 1
        torch.set_float32_matmul_precision("highest" if course.stage == "ppo" else "high")
    set_seed(course.seed)
    set_figure_style()
    print(summary(course))
    for parent in missing_parents(course):
        print(
            f"missing    the checkpoint of {parent}: run {parent}.ipynb first, with these settings"
        )
    return course


def missing_parents(course: Course) -> list[str]:
    """The notebooks whose checkpoints this one reads and the run folder lacks, in order."""
    parents = [*PARENTS[course.stage]]
    if course.init != PRETRAINED:
        parents = [parent for parent in parents if parent != "base"]
    stages = ["pretrain" if parent == "base" else parent for parent in parents]
    return [NOTEBOOKS[s] for s in stages if not (course.folder(s) / "stage.json").exists()]


def make_course(notebook: str, settings: Settings, hosted_by: str) -> Course:
    """The course that follows from the settings and the machine."""
    stage = (STAGES | BONUS)[notebook]
    track, seed, source = settings.track, settings.seed, settings.source
    device = choose_device(settings.device)
    preset, reason = choose_preset(settings.preset, source, device)
    config = load_config(stage, preset, track, seed, source)
    if settings.adapter and isinstance(config, AdapterConfig):
        config = replace(config, adapter=settings.adapter)
    init = choose_init(settings.init, preset, track, source)
    if hasattr(config, "init"):
        config = replace(config, init=init)
    # a repository that was added on Kaggle as a data set is read-only
    added = hosted_by == "kaggle" and not os.access(ROOT, os.W_OK)
    base = Path("/kaggle/working") if added else ROOT
    return Course(
        notebook,
        stage,
        settings,
        preset,
        track,
        seed,
        source,
        init,
        out=base / (settings.out or default_out(preset, track, seed, source)),
        device=device,
        dtype=choose_dtype(device, settings.dtype),
        threads=choose_threads(settings.threads, device),
        platform=hosted_by,
        config=config,
        preset_reason=reason,
    )


def summary(course: Course) -> str:
    """The settings in four lines without absolute paths: they are committed with the outputs."""
    if course.device.type == "cuda":
        gpu = torch.cuda.get_device_properties(course.device)
        machine = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GB"
    elif course.device.type == "mps":
        machine = "Apple GPU"
    else:
        machine = f"CPU, {course.threads} thread{'s' if course.threads > 1 else ''}"
        if not course.settings.threads and course.threads < min(8, physical_cores()):
            machine += (
                f" (fastest just now on {physical_cores()} cores: other programs are running)"
            )
    reason = f" (chosen: {course.preset_reason})" if course.preset_reason else ""
    start = f", from {course.init_name}" if course.init != PRETRAINED else ""
    inside = course.out.is_relative_to(ROOT)
    folder = course.out.relative_to(ROOT).as_posix() if inside else f".../{course.out.name}"
    return (
        f"{course.notebook}: preset {course.preset}{reason}, track {course.track}{start}, "
        f"seed {course.seed}\n"
        f"machine    {machine}, {str(course.dtype).removeprefix('torch.')} ({course.platform})\n"
        f"software   Python {platform.python_version()}, torch {torch.__version__}\n"
        f"results in {folder}{counted(course)}"
    )


def counted(course: Course) -> str:
    """For a GPU preset on real rows: the minutes and gigabytes counted for this stage."""
    embedded, bonus = course.source == "embedded", course.notebook in BONUS
    if embedded or bonus or course.preset not in GPU_PRESETS:
        return ""
    from helpers.run.expected import expected

    minutes, gigabytes = expected(course.preset, course.track)[course.stage]
    return f"; counted, not measured: {max(1, round(minutes))} minutes, {gigabytes:.0f} GB"
