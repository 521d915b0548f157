"""What the machine has: device, number format, threads, and the preset that suits it."""

import ctypes
import math
import os
import subprocess
import sys
from pathlib import Path

import torch

from helpers.engine.files import read_number
from helpers.model import GPT


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU. Apple's mps only on request: RLHF_DEVICE=mps."""
    wanted = os.environ.get("RLHF_DEVICE", "").strip().lower()
    found = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if wanted in ("", "cuda") and found["cuda"]:  # of several processes each takes a GPU of its own
        index = os.environ.get("LOCAL_RANK")
        return torch.device("cuda") if index is None else torch.device("cuda", int(index))
    if not wanted:
        return torch.device("cpu")
    kind = wanted.split(":")[0]
    if not found.get(kind):
        raise ValueError(
            f"RLHF_DEVICE={wanted}: not available, choose from "
            f"{', '.join(k for k in found if found[k])}"
        )
    return torch.device(wanted)


def choose_preset(source: str, device: torch.device) -> tuple[str, str]:
    """The preset, and why it was chosen for this hardware; RLHF_PRESET wins. Embedded worlds take
    `cpu` everywhere.
    """
    named = os.environ.get("RLHF_PRESET", "").strip()
    if named:
        return named, ""
    if source == "embedded":
        return "cpu", ""
    if device.type != "cuda":
        return "cpu", "there is no CUDA device"
    gpu, count = torch.cuda.get_device_properties(device), torch.cuda.device_count()
    if torch.cuda.get_device_capability(device)[0] >= 8 and gpu.total_memory >= 40e9:
        return "h100", "a GPU with 40 GB or more"
    if count > 1:
        return "t4x2", f"{count} GPUs; training takes all"
    return "t4", "a GPU with less than 40 GB"


def choose_dtype(device: torch.device) -> torch.dtype:
    """The number format for matrix products on this device.

    CUDA: bfloat16 from compute capability 8.0 on, float16 below (a T4 has no bfloat16 units
    although it can emulate them). CPU: bfloat16 where AVX512-BF16 or AMX multiplies it in hardware,
    else float32.
    """
    formats = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    wanted = os.environ.get("RLHF_DTYPE", "").strip().lower()
    if wanted:
        if wanted not in formats:
            raise ValueError(f"RLHF_DTYPE={wanted}: choose from {', '.join(formats)}")
        return formats[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def sampling_dtype(device: torch.device) -> torch.dtype:
    """The number format of the weights while texts are sampled: 16 bits on a CPU that multiplies
    them fast.

    A small model's distribution hardly moves by that. GPT-2's logits are so large that 16 bits
    would show: a GPU, where they gain little, samples in float32.
    """
    return choose_dtype(device) if device.type == "cpu" else torch.float32


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


def choose_threads() -> int:
    """Physical cores, at most 8: a small GPT gains nothing from hyperthreads. RLHF_THREADS or
    OMP_NUM_THREADS win.
    """
    for name in ("RLHF_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name):
            return read_number(name, 1, least=1)
    return max(1, min(8, physical_cores()))


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
    again for the next
    tensor: a fifth of a small GPT's training step on a CPU. The price is that a process stays as
    large as it once was.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**30))


def prepare(gpt: GPT) -> None:
    """Have a model trained with less memory (RLHF_CHECKPOINTING=1) or, after a slow start, faster
    (RLHF_COMPILE=1).

    Checkpointing works activations out again for the gradients instead of keeping them: a third
    more time. Compiled blocks take a minute or more to begin with, and a C++ compiler or Triton.
    """
    gpt.checkpointing = os.environ.get("RLHF_CHECKPOINTING") == "1"
    if os.environ.get("RLHF_COMPILE") == "1":
        for block in gpt.h:
            block.compile(dynamic=True)
