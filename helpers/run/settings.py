"""The settings of a run, read once, as one frozen object: options win over environment variables,
which win over defaults. In a notebook an option is a keyword: setup("3-PPO", seed=1).
"""

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from helpers.config import ADAPTERS, SOURCES
from helpers.engine.parser import SettingsError, user_path
from helpers.rows.tracks import TRACKS
from helpers.run.presets import PRESETS

DTYPES = ("float32", "bfloat16", "float16")


def setting(text: str, variable: bool = False, **options: Any) -> Any:
    """A field of `Settings` with its help text; variable: whether RLHF_NAME sets it too."""
    return field(metadata={"help": text, "variable": variable}, **options)


@dataclass(frozen=True)
class Settings:
    """What can be chosen from outside. None: not chosen, so the preset or the machine decides."""

    preset: str | None = setting(f"size: {', '.join(PRESETS)}", True, default=None)
    track: str = setting(f"task and data: {', '.join(TRACKS)}", True, default="tldr")
    seed: int = setting("a whole number", True, default=0)
    out: str | None = setting("the run folder", True, default=None)
    source: str = setting(f"where rows come from: {', '.join(SOURCES)}", True, default="embedded")
    data_dir: str | None = setting("the folder with rows (source local)", True, default=None)
    init: str | None = setting(
        "what 1-SFT starts from: pretrain, gpt2, a folder, a .pt file", True, default=None
    )
    adapter: str | None = setting(
        f"what SFT and PPO train: {', '.join(ADAPTERS)}", True, default=None
    )
    device: str | None = setting("cpu, cuda or mps", True, default=None)
    dtype: str | None = setting(f"of matrix products: {', '.join(DTYPES)}", True, default=None)
    threads: int | None = setting("CPU threads", True, default=None)
    stop_after: float | None = setting(
        "stop by then, with the state saved: a time such as 11h30m", True, default=None
    )
    save_every: float = setting("the time between snapshots, such as 10m", default=600.0)
    save_steps: int = setting("the steps between snapshots; 0: only the time counts", default=0)
    resume: bool = setting("go on from the snapshots of an unfinished run", default=True)
    steps: int = setting("a trial: only so many steps, nothing measured or saved", default=0)
    shards: str | None = setting("a folder of shards that 0-Pretrain reads", default=None)
    checkpointing: bool = setting("less memory, a third more time", default=False)
    compile: bool = setting("compiled blocks: a slow start, then faster steps", default=False)
    judge_url: str | None = setting("an OpenAI-compatible address that judges", default=None)
    judge_model: str | None = setting("the model to ask there", default=None)
    hand_over: bool = setting("end after training; the notebook goes on from there", default=False)
    judge_key: str = field(default="", repr=False)  # OPENAI_API_KEY, where a judge's address is set


def read_settings(options: Mapping[str, Any] | None = None) -> Settings:
    """The settings. options: by field name, as texts or values; None counts as not given.

    Raises SettingsError, with the nearest valid name or the values to choose from; also for a
    variable RLHF_... that is no setting.
    """
    known = {field.name: field for field in fields(Settings) if field.metadata}
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name in given:
        if name not in known:
            raise SettingsError(f"no setting {name!r}{nearest(name, known)}")
    variables = {f"RLHF_{name.upper()}": name for name in known if known[name].metadata["variable"]}
    for variable in sorted(os.environ):
        if variable.startswith("RLHF_") and variable not in variables:
            raise SettingsError(f"no variable {variable}{instead_of(variable, known, variables)}")
    values: dict[str, Any] = {}
    for variable, name in variables.items():
        text = os.environ.get(variable, "").strip()
        if text and name not in given:  # an option wins, whatever the variable says
            values[name] = value_of(text, name, label=variable)
    values |= {name: value_of(value, name, label=name) for name, value in given.items()}
    openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # "4,2": 2 inside others
    if "threads" not in values and openmp:
        values["threads"] = value_of(openmp, "threads", "OMP_NUM_THREADS")
    if "source" not in values and values.get("data_dir"):
        values["source"] = "local"
    if values.get("judge_url"):
        values["judge_key"] = os.environ.get("OPENAI_API_KEY", "").strip()
    return Settings(**values)


def as_environment(settings: Settings) -> dict[str, str]:
    """The environment variables that give another process these settings."""
    names = [field.name for field in fields(Settings) if field.metadata.get("variable")]
    values = {name: getattr(settings, name) for name in names}
    return {
        f"RLHF_{name.upper()}": f"{value:.0f}s" if name in TIMES else str(value)
        for name, value in values.items()
        if value is not None
    }


CHOICES = dict(preset=PRESETS, track=TRACKS, source=SOURCES, adapter=ADAPTERS, dtype=DTYPES)
TIMES = ("stop_after", "save_every")
LEAST = {"seed": 0, "threads": 1, "save_steps": 0, "steps": 0}  # of whole numbers
MOST = 2**32 - 2  # a larger seed is too large for numpy's generator
MOST_THREADS = 1024  # many more crash torch
PATHS = ("out", "data_dir", "shards")  # relative ones: to the folder where the program starts


def value_of(value: Any, name: str, label: str) -> Any:
    """A setting's value from text. Raises SettingsError, naming the setting by its label."""
    if isinstance(value, str) and not value.strip():
        raise SettingsError(f"{label}: must not be empty")
    if name in TIMES:
        return seconds_of(value, label) if isinstance(value, str) else value
    if name in LEAST:
        most = MOST_THREADS if name == "threads" else MOST
        return whole_number(str(value), label, LEAST[name], most)
    if name in PATHS:
        return str(user_path(value))
    if name == "init":
        return weights_named(str(value))
    if name in CHOICES:
        choices, value = CHOICES[name], str(value).strip().lower()
        if value not in choices:
            raise SettingsError(
                f"{label}: no {name} {value!r}, choose from {', '.join(choices)}"
                f"{nearest(value, choices)}"
            )
        return value
    return yes_or_no(value, label) if isinstance(getattr(Settings, name), bool) else str(value)


def weights_named(text: str) -> str:
    """The absolute path, if the text is that of a file or folder that exists; a name as it is. A
    single word is a folder's only if a model is in it.
    """
    path, is_path = Path(text), text.startswith((".", "~")) or text.endswith((".pt", ".pth"))
    if is_path or len(path.parts) > 1:
        return str(user_path(path)) if user_path(path).exists() else text
    holds_model = text != "pretrain" and (path / "config.json").is_file()
    return str(user_path(path)) if holds_model else text


def nearest(name: str, valid: Any) -> str:
    """ "; did you mean ...?", if a valid name is close."""
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def instead_of(variable: str, known: Any, variables: Mapping[str, str]) -> str:
    """What to use in place of a variable that does not exist."""
    name = variable.removeprefix("RLHF_").lower()
    if name in known:
        return f"; there is an option, --{name.replace('_', '-')}"
    close = difflib.get_close_matches(name, list(variables.values()), n=1)
    return f"; did you mean RLHF_{close[0].upper()}?" if close else ""


def yes_or_no(value: Any, name: str) -> bool:
    """True or False from 1, yes, true, on or 0, no, false, off."""
    word = str(value).strip().lower()
    if word not in ("1", "yes", "true", "on", "0", "no", "false", "off"):
        raise SettingsError(f"{name}: {value!r} is neither yes nor no")
    return word in ("1", "yes", "true", "on")


def whole_number(text: str, name: str, least: int, most: int) -> int:
    """A whole number from text, from `least` to `most`. Raises SettingsError otherwise."""
    digits = text.strip()
    if not digits.isdecimal() or int(digits[:20]) < least:
        raise SettingsError(f"{name} {text!r:.40}: must be a whole number, {least} or more")
    if len(digits) > 20 or int(digits) > most:  # Python reads no number of thousands of digits
        raise SettingsError(f"{name} {text!r:.40}: must be a whole number, {most} or less")
    return int(digits)


def seconds_of(text: str, name: str) -> float:
    """Seconds from text such as "11h30m", "90s" or "1.5h". Raises SettingsError otherwise."""
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", text.strip().lower())
    try:
        seconds = sum(
            float(part or 0) * unit
            for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True)
        )
    except (AttributeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        example = "such as 11h30m, 45m or 90s"
        raise SettingsError(f"{name} {text!r:.40}: must be a time above 0, {example}")
    return seconds


def data_folder(settings: Settings) -> Path | None:
    """The folder with rows, or None."""
    return Path(settings.data_dir) if settings.data_dir else None
