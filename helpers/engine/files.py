"""Files and folders, written so that nobody ever reads half of one."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parent.parent.parent
OUT_OF_TIME = 75  # the exit code for "try again later", so that a script can tell it from an error


def tell(text: str) -> None:
    """Print a line of progress. Where it can't be written (a full disk, a closed pipe), go on."""
    with suppress(OSError, RuntimeError):  # RuntimeError: a signal came while another line printed
        print(text, flush=True)


def plain(value: Any) -> Any:
    """A value as JSON has it: tensors and arrays become lists, NaN and infinities None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # torch tensors, numpy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"cannot record a {type(value).__name__}: {value!r:.60}")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never half of it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8, LF), making its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    flush(partial)
    os.replace(partial, path)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):  # a mebibyte at a time
            digest.update(chunk)
    return digest.hexdigest()


def flush(*paths: Path) -> None:
    """Write files and folders through to the disk, so that a power cut leaves no empty files."""
    for path in paths:
        # Windows opens no folders, and some network drives can't flush them
        with suppress(OSError) if path.is_dir() else nullcontext():
            handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


class FolderInUse(RuntimeError):
    """A run folder that another process is writing to."""


@contextmanager
def only_writer(folder: Path, part: str = "stage") -> Iterator[None]:
    """For `with`: the right to write to a run folder, which one process has at a time. It ends with
    the process, however that ends. Raises FolderInUse when another process has it.

    part: a "course" has a right of its own, because its notebooks' kernels need that of a "stage".
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{part}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUse(
            f"another process is writing to {folder}: wait until it has ended, or choose another "
            "run folder (--out, RLHF_OUT)"
        ) from None
    except (OSError, NotImplementedError):  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """For `with`: an empty folder to write in, which replaces `folder` once everything is written
    and on the disk. Whatever is raised inside leaves the old `folder` as it was.
    """
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    restore_folder(folder)
    shutil.rmtree(fresh, ignore_errors=True)  # left by a run that was killed
    fresh.mkdir(parents=True)
    try:
        yield fresh
        flush(*fresh.rglob("*"), fresh)
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
        flush(folder.parent)
    except BaseException:
        restore_folder(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Restore a folder that a run, killed while replacing it, had moved away."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a folder if it exists. It is renamed first, so that no reader finds half of it."""
    gone = folder.with_name(f".{folder.name}.gone")
    for rest in folder.parent.glob(".*.gone"):  # left by a run that was killed
        shutil.rmtree(rest, ignore_errors=True)
    if folder.exists():
        os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)
