"""The state of a run as files: nothing lost, nothing half written, every damage noticed."""

import os
import pickle

import numpy as np
import pytest
import torch

from helpers.engine.files import sha256
from helpers.engine.state import CHECKSUM, STATE as FILE, DamagedState, read_state, write_state

STATE = {
    "step": 7,
    "model": {"w": torch.randn(3, 2, dtype=torch.bfloat16), "on": torch.tensor([True, False])},
    "groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.95), "fused": True, "decay": None}],
    "state": {0: {"step": torch.tensor(3.0)}, 1: {}},
    "history": [{"loss": float("nan")}, {"loss": 1 / 3}],
    "random": torch.get_rng_state(),
}


def same(a, b) -> bool:
    """Equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_what_is_written_is_read(tmp_path):
    write_state(tmp_path / "s", STATE)
    assert same(STATE, read_state(tmp_path / "s"))
    assert {path.name for path in (tmp_path / "s").iterdir()} == {FILE, CHECKSUM}
    write_state(tmp_path / "s", {"step": 8})  # replaces
    assert read_state(tmp_path / "s") == {"step": 8}


@pytest.mark.parametrize("name", [FILE, CHECKSUM])
@pytest.mark.parametrize("damage", ["missing", "short", "changed"])
def test_every_damage_is_noticed(tmp_path, name, damage):
    write_state(tmp_path / "s", STATE)
    path = tmp_path / "s" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        changed = bytes([content[0] ^ 1]) + content[1:]
        path.write_bytes(content[:-5] if damage == "short" else changed)
    with pytest.raises(DamagedState, match="damaged|changed since it was saved"):
        read_state(tmp_path / "s")


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_failure_leaves_the_old_state_and_no_rest(tmp_path, monkeypatch, moment):
    write_state(tmp_path / "s", {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save" if moment == "write" else "os.replace", full)
    with pytest.raises(OSError, match="could not save to .*s: .*No space left on device"):
        write_state(tmp_path / "s", STATE)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["s"]
    assert read_state(tmp_path / "s") == {"step": 1}


def test_a_killed_write_is_not_taken_for_a_state(tmp_path):
    (tmp_path / ".s.new").mkdir()
    (tmp_path / ".s.new" / FILE).write_bytes(b"half")
    with pytest.raises(DamagedState):
        read_state(tmp_path / "s")
    write_state(tmp_path / "s", {"step": 2})
    assert os.listdir(tmp_path) == ["s"]


def test_a_full_disk_is_an_os_error(tmp_path):
    """torch's own writer raises something else."""
    resource = pytest.importorskip("resource", reason="not on Windows")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write_state(tmp_path / "s", {"step": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="could not save to"):
            write_state(tmp_path / "s", {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["s"] and read_state(tmp_path / "s") == {"step": 1}


def test_what_a_state_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match="a state can't hold .*numpy"):
        write_state(tmp_path / "s", {"loss": [np.float64(1)]})
    assert not list(tmp_path.iterdir())


class Attack:
    """Unpickled, it would call a function."""

    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("write", [torch.save, lambda state, file: pickle.dump(state, file)])
def test_nothing_that_is_read_can_execute(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write_state(tmp_path / "s", STATE)
    with open(tmp_path / "s" / FILE, "wb") as file:
        write({"step": Attack()}, file)
    (tmp_path / "s" / CHECKSUM).write_text(sha256(tmp_path / "s" / FILE))
    with pytest.raises(DamagedState, match="damaged"):
        read_state(tmp_path / "s")
    assert not (tmp_path / "attacked").exists()
