"""What the machine has: device, number format, threads, memory."""

import ctypes
import math
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn


def choose_device(wanted: str | None = None) -> torch.device:
    """CUDA where there is one, else the CPU; Apple's mps only on request. Of several processes each
    takes a GPU of its own. Raises ValueError for a device that is not there.
    """
    wanted = (wanted or "").strip().lower()
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if wanted in ("", "cuda") and available["cuda"]:
        index = os.environ.get("LOCAL_RANK")  # torchrun's
        return torch.device("cuda") if index is None else torch.device("cuda", int(index))
    if not wanted:
        return torch.device("cpu")
    if not available.get(wanted.split(":")[0]):
        names = ", ".join(name for name in available if available[name])
        raise ValueError(f"device {wanted!r} is not available, choose from {names}")
    return torch.device(wanted)


def choose_dtype(device: torch.device, wanted: str | None = None) -> torch.dtype:
    """The number format for matrix products on this device, unless one is wanted by name.

    CUDA: bfloat16 from compute capability 8.0 on, float16 below (a T4 has no bfloat16 units
    although it can emulate them). CPU: bfloat16 where AVX512-BF16 or AMX multiplies it in hardware,
    else float32.
    """
    if wanted:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
            wanted
        ]
    if device.type == "cuda":
        enough = torch.cuda.get_device_capability(device)[0] >= 8
        return torch.bfloat16 if enough else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def cpu_has_bfloat16() -> bool:
    """True if this CPU multiplies bfloat16 in hardware and a small product comes out right."""
    # These probes are not public and came one by one with new versions of torch; without one the
    # answer is no.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    try:
        if not any(getattr(torch.cpu, name, lambda: False)() for name in probes):
            return False
        a = torch.linspace(-1, 1, 64 * 64).reshape(
            64, 64
        )  # no random numbers: seeds must not depend on the CPU
        product = (a.bfloat16() @ a.bfloat16()).float()
        return bool((product - a @ a).abs().max() < 0.2)
    except RuntimeError:
        return False


def choose_threads(wanted: int | None = None) -> int:
    """Physical cores, at most 8: a small GPT gains nothing from hyperthreads."""
    return wanted or max(1, min(8, physical_cores()))


def physical_cores() -> int:
    """Cores that this process may use; hyperthreads of one core count once."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = set()
        for cpu in os.sched_getaffinity(0):
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
            cores.add(siblings.read_text().strip() if siblings.exists() else str(cpu))
        return max(1, min(len(cores), cpu_quota()))
    if sys.platform == "darwin":
        answer = subprocess.run(["sysctl", "-n", "hw.physicalcpu"], capture_output=True, text=True)
        return int(answer.stdout) if answer.stdout.strip().isdigit() else os.cpu_count() or 1
    return max(1, (os.cpu_count() or 2) // 2)


def cpu_quota() -> int:
    """The number of CPUs a container may use (cgroup version 2 or 1); a large number where there is
    no limit.
    """
    group = Path("/sys/fs/cgroup")
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        if all((group / name).exists() for name in names):
            quota, period = " ".join((group / name).read_text() for name in names).split()[:2]
            if quota not in ("max", "-1"):
                return max(1, math.ceil(int(quota) / int(period)))
    return 1024


def keep_freed_memory() -> bool:
    """Have glibc keep the memory of freed tensors for the next ones; False where there is no glibc.

    It would give large blocks back at once, and Linux would have to find and clear their pages
    again for the next tensor: a fifth of a small GPT's training step on a CPU. The price is that a
    process stays as large as it once was.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**30))


def set_memory_options(gpt: nn.Module, checkpointing: bool, compiled: bool) -> None:
    """Have a GPT trained with less memory (checkpointing) or, after a slow start, faster.

    Checkpointing recomputes activations for the gradients instead of keeping them: a third more
    time. Compiled blocks take a minute or more to begin with, and a C++ compiler or Triton.
    """
    gpt.checkpointing = checkpointing
    if compiled:
        for block in gpt.h:
            block.compile(dynamic=True)
