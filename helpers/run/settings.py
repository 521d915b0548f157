"""The settings of a run, read once: environment variables and options meet here and become one
frozen object, which is handed down. Nothing below helpers/run/ reads the environment.

An option wins over its variable. In a notebook an option is a keyword: setup("3-PPO", seed=1).
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from helpers.config import ADAPTERS, SOURCES
from helpers.rows.tracks import TRACKS
from helpers.run.presets import PRESETS

DTYPES = ("float32", "bfloat16", "float16")


class SettingsError(ValueError):
    """A setting that does not exist or has a value that can't be."""


def setting(text: str, variable: bool = False, **options: Any) -> Any:
    """A field of `Settings` with its meaning; variable: whether RLHF_NAME sets it too."""
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
    resume: bool = setting("no: start over, without what an unfinished run saved", default=True)
    steps: int = setting("a trial: only so many steps, nothing measured or saved", default=0)
    shards: str | None = setting("a folder of shards that 0-Pretrain reads", default=None)
    checkpointing: bool = setting("less memory, a third more time", default=False)
    compile: bool = setting("compiled blocks: a slow start, then faster steps", default=False)
    judge_url: str | None = setting("an OpenAI-compatible address that judges", default=None)
    judge_model: str | None = setting("the model to ask there", default=None)
    hand_over: bool = setting("end after training; the notebook goes on from there", default=False)
    judge_key: str = field(default="", repr=False)  # OPENAI_API_KEY, where a judge's address is set


def read_settings(options: Mapping[str, Any] | None = None) -> Settings:
    """The settings from options, then environment variables, then the defaults.

    options: by field name, as texts or values; None counts as not given. Raises SettingsError, with
    the nearest valid name or the values to choose from.
    """
    known = {field.name: field for field in fields(Settings) if field.metadata}
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name in given:
        if name not in known:
            raise SettingsError(f"no setting {name!r}{nearest(name, known)}")
    found: dict[str, Any] = {}
    for name, one in known.items():
        variable = f"RLHF_{name.upper()}"
        if name in given:
            found[name] = value_of(given[name], one, name)
        elif one.metadata["variable"] and os.environ.get(variable, "").strip():
            found[name] = value_of(os.environ[variable].strip(), one, variable)
    if "threads" not in found and os.environ.get("OMP_NUM_THREADS", "").strip():
        found["threads"] = whole_number(os.environ["OMP_NUM_THREADS"], "OMP_NUM_THREADS", 1)
    if "source" not in found and found.get("data_dir"):
        found["source"] = "local"
    if found.get("judge_url"):
        found["judge_key"] = os.environ.get("OPENAI_API_KEY", "").strip()
    return Settings(**found)


def kind_of(one: Any) -> str:
    """The type of a field as text: "int", "int | None", ..."""
    return one.type.__name__ if isinstance(one.type, type) else str(one.type)


CHOICES = {
    "preset": PRESETS,
    "track": TRACKS,
    "source": SOURCES,
    "adapter": ADAPTERS,
    "dtype": DTYPES,
}
TIMES = ("stop_after", "save_every")


def value_of(value: Any, one: Any, name: str) -> Any:
    """A setting's value from text, or as it is. Raises SettingsError, naming the setting."""
    if one.name in TIMES and isinstance(value, str):
        return seconds_of(value, name)
    kind = kind_of(one)
    if kind == "bool":
        return yes_or_no(value, name)
    if kind.startswith("int"):
        return whole_number(str(value), name, 1 if one.name == "threads" else 0)
    if one.name in CHOICES:
        choices, value = CHOICES[one.name], str(value).strip().lower()
        if value not in choices:
            raise SettingsError(
                f"{name}: no {one.name} {value!r}, choose from {', '.join(choices)}"
                f"{nearest(value, choices)}"
            )
        return value
    return str(value) if kind.startswith("str") else value


def nearest(name: str, valid: Any) -> str:
    """ "; did you mean ...?", if a valid name is close."""
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def yes_or_no(value: Any, name: str) -> bool:
    """True or False from 1, yes, true, on or 0, no, false, off."""
    words = {"1": True, "yes": True, "true": True, "on": True}
    words |= {"0": False, "no": False, "false": False, "off": False}
    try:
        return words[str(value).strip().lower()]
    except KeyError:
        raise SettingsError(f"{name}: {value!r} is neither yes nor no") from None


def whole_number(text: str, name: str, least: int) -> int:
    """A whole number from text; SettingsError says what it was for and from where it may start."""
    if not text.strip().isdecimal() or int(text) < least:
        raise SettingsError(f"{name} {text!r}: must be a whole number, {least} or more")
    return int(text)


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
    if not seconds > 0:
        raise SettingsError(f"{name} {text!r}: must be a time above 0, such as 11h30m, 45m or 90s")
    return seconds


def data_folder(settings: Settings) -> Path | None:
    """The folder with rows, or None."""
    return Path(settings.data_dir).expanduser() if settings.data_dir else None
