"""What the machine has: device, number format, threads, memory."""

import ctypes
import math
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from helpers.engine.parser import SettingsError


def choose_device(wanted: str | None = None) -> torch.device:
    """CUDA if there is any, else the CPU; Apple's mps only on request. Each process of torchrun
    takes another GPU. Raises SettingsError for a device that is not available.
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
    kind, colon, index = wanted.partition(":")
    number = torch.cuda.device_count() if kind == "cuda" else 1
    if not available.get(kind) or (colon and index not in map(str, range(number))):
        names = ", ".join(name for name in available if available[name])
        raise SettingsError(f"device {wanted!r} is not available, choose from {names}")
    return torch.device(wanted)


def choose_dtype(device: torch.device, wanted: str | None = None) -> torch.dtype:
    """The number format of matrix products on this device, unless one is wanted by name.

    CUDA: bfloat16 from compute capability 8.0 on, float16 below (a T4 only emulates bfloat16). CPU:
    bfloat16 where AVX512-BF16 or AMX multiplies it in hardware, else float32.
    """
    if wanted:
        return getattr(torch, wanted)
    if device.type == "cuda":
        enough = torch.cuda.get_device_capability(device)[0] >= 8
        return torch.bfloat16 if enough else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def cpu_has_bfloat16() -> bool:
    """True if this CPU multiplies bfloat16 in hardware and a small product comes out right."""
    # not public, and absent from older versions of torch
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    try:
        if not any(getattr(torch.cpu, name, lambda: False)() for name in probes):
            return False
        # no random numbers: seeds must not depend on the CPU
        a = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)
        product = (a.bfloat16() @ a.bfloat16()).float()
        return bool((product - a @ a).abs().max() < 0.2)
    except RuntimeError:
        return False


def rows_are_independent(dtype: torch.dtype, channels: int = 128) -> bool:
    """Whether this CPU's matrix products, as a GPT with so many channels makes them, give a row the
    same bits whatever the other rows are.
    """
    generator = torch.Generator().manual_seed(0)  # its own: the run's numbers stay as they are
    for width in (channels, 4 * channels):  # of what is summed, in attention and MLP
        # 128 rows of 32 tokens: a product of a few vectors, which no minibatch has, may differ
        shapes = (128, 32, width), (128, width)
        x, w = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
        product = F.linear(x, w)
        if not all(torch.equal(product[:rows], F.linear(x[:rows], w)) for rows in (1, 4, 22, 64)):
            return False
    return True


def logprob_rounding(gpt: nn.Module, dtype: torch.dtype) -> float:
    """By how much a token's log-probability (nats) may differ between batches of two sizes.

    Nearly 0 where a row has the same bits in every batch. Elsewhere, as on a GPU, the size of a
    batch decides how a product's sum is split, and every split rounds differently; compiled blocks
    round differently with and without gradients.
    """
    on_cpu = gpt.wte.weight.device.type == "cpu"
    compiled = gpt.h[0]._compiled_call_impl is not None
    if on_cpu and not compiled and rows_are_independent(dtype, gpt.config.channels):
        return 1e-5
    # GPT-2's logits are about -30 to -130, where float32 numbers are up to 2^-16 apart. The
    # roundings of a sum over C = 768 channels add up like a random walk: to sqrt(768) = 28 of those
    # steps, 4e-4. A log-probability is the difference of two such numbers, and the hidden states
    # differ as well: five times that. One sum split in two moved logits of -100 by 1e-4. Reading
    # pads, positions or the temperature wrong, or products in TF32 or 16 bits, moves them by more.
    return 2e-3


def choose_threads(wanted: int | None = None, device: torch.device | None = None) -> int:
    """How many CPU threads to use: those that are wanted, or what is fastest just now.

    At most the physical cores, at most 8: a small GPT gains nothing from hyperthreads. Beside other
    programs fewer are faster, because the threads of a matrix product wait for the slowest.
    """
    most = max(1, min(8, physical_cores()))
    if wanted or most == 1 or (device is not None and device.type != "cpu"):
        return wanted or most
    seconds = time_threads({1, most // 2, most})
    return min(seconds, key=seconds.__getitem__)


def time_threads(numbers: set[int], rounds: int = 4) -> dict[int, float]:
    """The seconds of some steps of a small MLP with each of these numbers of threads."""
    before, seconds = torch.get_num_threads(), dict.fromkeys(sorted(numbers), 0.0)
    # no random numbers: seeds must not depend on it
    x = torch.linspace(-1, 1, 2048 * 128).reshape(2048, 128)
    up, down = (
        torch.linspace(-1, 1, 128 * 512).reshape(shape) for shape in ((128, 512), (512, 128))
    )
    for turn in range(rounds + 1):  # in turns, so that all meet the same load
        for threads in seconds:
            torch.set_num_threads(threads)
            start = time.perf_counter()
            for _ in range(1 if turn == 0 else 10):  # the first turn starts the threads
                torch.layer_norm(nn.functional.gelu(x @ up) @ down, [128])
            seconds[threads] += (time.perf_counter() - start) * (turn > 0)
    torch.set_num_threads(before)
    return seconds


def physical_cores() -> int:
    """Cores that this process may use; hyperthreads of one core count once."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = set()
        for cpu in os.sched_getaffinity(0):
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
            cores.add(siblings.read_text().strip() if siblings.exists() else str(cpu))
        return max(1, min(len(cores), cpu_quota()))
    threads_per_core = 1 if sys.platform == "darwin" else 2  # Apple's have no hyperthreads
    return max(1, (os.cpu_count() or 1) // threads_per_core)


def cpu_quota() -> int:
    """The number of CPUs a container may use (cgroup version 2 or 1); 1024 without a limit."""
    group = Path("/sys/fs/cgroup")
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        if all((group / name).exists() for name in names):
            quota, period = " ".join((group / name).read_text() for name in names).split()[:2]
            if quota not in ("max", "-1"):
                return max(1, math.ceil(int(quota) / int(period)))
    return 1024


def keep_freed_memory() -> bool:
    """Have glibc keep the memory of freed tensors for the next ones; False without glibc.

    By default it returns large blocks at once, and Linux must find and clear their pages again for
    the next tensor: a fifth of a small GPT's training step on a CPU. In return, a process never
    shrinks.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**30))


def set_memory_options(gpt: nn.Module, checkpointing: bool, compiled: bool) -> None:
    """Train a GPT with less memory (checkpointing) or, after a slow start, faster (compiled).

    Checkpointing recomputes activations for the gradients instead of keeping them: a third more
    time. Compiling blocks takes a minute or more, and a C++ compiler or Triton.
    """
    gpt.checkpointing = checkpointing
    if compiled:
        for block in gpt.h:
            block.compile(dynamic=True)
