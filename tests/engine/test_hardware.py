"""Device, number format, threads and memory by what the machine has."""

import os
import subprocess
import sys

import pytest
import torch

from helpers.engine import hardware
from helpers.engine.files import ROOT
from helpers.engine.parser import SettingsError
from tests.support.tiny_models import tiny


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No setting from outside."""
    for name in list(os.environ):
        if name.startswith("RLHF_") or name == "OMP_NUM_THREADS":
            monkeypatch.delenv(name)


CAPABILITIES = [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]


@pytest.mark.parametrize(("capability", "expected"), CAPABILITIES)
def test_dtype_by_compute_capability(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hardware.choose_dtype(torch.device("cuda")) is getattr(torch, expected)


@pytest.mark.parametrize("has, expected", [(True, torch.bfloat16), (False, torch.float32)])
def test_dtype_on_the_cpu(monkeypatch, has, expected):
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: has)
    assert hardware.choose_dtype(torch.device("cpu")) is expected
    assert hardware.choose_dtype(torch.device("cpu"), "float16") is torch.float16


def test_the_dtype_probe_leaves_the_seed_alone():
    torch.manual_seed(0)
    hardware.cpu_has_bfloat16()
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


def test_threads(monkeypatch):
    assert 1 <= hardware.physical_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(hardware, "physical_cores", lambda: 64)
    tried = []
    monkeypatch.setattr(
        hardware, "time_threads", lambda some: tried.append(some) or {1: 2, 4: 1, 8: 3}
    )
    assert hardware.choose_threads() == 4 and tried == [{1, 4, 8}], "the fastest just now"
    assert hardware.choose_threads(2) == 2 and hardware.choose_threads(16) == 16
    assert hardware.choose_threads(device=torch.device("cuda")) == 8 and len(tried) == 1


def test_trying_threads_changes_nothing():
    torch.set_num_threads(1)
    before = torch.get_rng_state()
    seconds = hardware.time_threads({1, 2})
    assert list(seconds) == [1, 2] and min(seconds.values()) > 0
    assert torch.get_num_threads() == 1 and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wanted", ["", "cuda"])
def test_each_process_takes_a_gpu_of_its_own(monkeypatch, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert hardware.choose_device(wanted) == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert hardware.choose_device(wanted) == torch.device("cuda", 1)
    assert hardware.choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["cpu:x", "cpu:", "cpu:1", "cuda:2", "cuda:-1", "gpu", "xla:0"])
def test_a_device_that_is_not_there_is_one_line(monkeypatch, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert hardware.choose_device("cuda:1") == torch.device("cuda", 1)
    assert hardware.choose_device("cpu:0").type == "cpu"
    with pytest.raises(SettingsError, match=f"device '{wanted}' is not available, choose from cpu"):
        hardware.choose_device(wanted)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_kept_for_the_next_tensor():
    """Counted in page faults, in a process of its own, as it can't be undone."""
    program = """
import resource, torch
from helpers.engine.hardware import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(5_000_000)  # 20 MB, 5000 pages
        torch.zeros(20_000_000)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

without, enabled = faults(), keep_freed_memory()
faults()  # takes the memory that will be kept
print(enabled, without, faults())
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    enabled, without, faults = run.stdout.split()
    if enabled == "False":
        pytest.skip("no glibc")
    assert int(faults) < int(without) / 20


def test_where_there_is_no_glibc_memory_is_left_alone(monkeypatch):
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: object())
    assert hardware.keep_freed_memory() is False


def test_memory_options(monkeypatch):
    gpt, ids = tiny(), torch.randint(30, (2, 8))

    def gradient():
        return torch.autograd.grad(gpt(ids).square().mean(), gpt.wte.weight)[0]

    plain, compiled = gradient(), []
    hardware.set_memory_options(gpt, checkpointing=True, compiled=False)
    assert gpt.checkpointing
    torch.testing.assert_close(gradient(), plain)
    monkeypatch.setattr(type(gpt.h[0]), "compile", lambda block, **options: compiled.append(block))
    hardware.set_memory_options(gpt, checkpointing=False, compiled=True)
    assert compiled == list(gpt.h) and not gpt.checkpointing


def test_rounding_is_allowed_only_where_a_row_depends_on_its_batch(monkeypatch):
    ways = tiny(), torch.float32
    assert hardware.logprob_rounding(*ways) == 1e-5
    assert hardware.logprob_rounding(tiny().to("meta"), torch.float32) == 2e-3, "no CPU"
    compiled = tiny()
    hardware.set_memory_options(compiled, checkpointing=False, compiled=True)
    assert hardware.logprob_rounding(compiled, torch.float32) == 2e-3
    linear = torch.nn.functional.linear

    def split(x, w):
        """Small batches are summed in another order."""
        return linear(x, w) if len(x) > 4 else linear(x.flip(-1), w.flip(-1))

    monkeypatch.setattr(torch.nn.functional, "linear", split)
    assert not hardware.rows_are_independent(torch.float32, 16)
    assert hardware.logprob_rounding(*ways) == 2e-3
