"""Training and sampling on a device without float64, as Apple's GPUs are: the numbers of a CPU."""

import pytest
import torch

from helpers.engine.loop import Loop
from helpers.generation import draw, sample
from tests.support import runs
from tests.support.apple_gpu import AppleGPU, AppleTensor, to_apple_gpu
from tests.support.runs import ALL, model

FEW = {"epochs": 0.5, "micro_batch": 2}
SHORT = dict.fromkeys(ALL, FEW) | {"ppo": {"iterations": 1, "micro_batch": 2}}
make_generator = torch.Generator


def generator(device="cpu"):
    """One where the stand-in's numbers really are."""
    return make_generator()


@pytest.mark.parametrize("stage", ALL)
def test_every_stage_trains_without_float64(stage, monkeypatch, capsys):
    expected, found = Loop(stage), Loop(stage)
    ALL[stage](expected, 0.01, **SHORT[stage])
    monkeypatch.setattr(runs, "model", lambda scored=False: to_apple_gpu(model(scored)))
    monkeypatch.setattr(torch, "Generator", generator)
    with AppleGPU():
        ALL[stage](found, 0.01, **SHORT[stage])
    assert found.history and found.history == expected.history


def test_sampling_without_float64():
    """The draw needs float64: it happens on the CPU and gives the same tokens, on the GPU."""
    ids, mask, numbers = torch.randint(2, 40, (3, 5)), torch.ones(3, 5).bool(), torch.rand(3, 9)
    ends = {"max_new_tokens": 9, "eos_id": 0, "pad_id": 1}
    expected = sample(model(), ids, mask, uniforms=numbers, **ends)
    on_gpu = [x.as_subclass(AppleTensor) for x in (ids, mask, numbers)]
    gpt = to_apple_gpu(model())
    with AppleGPU():
        found = sample(gpt, *on_gpu[:2], uniforms=on_gpu[2], **ends)
        assert found.ids.device.type == "mps" and found.ids.tolist() == expected.ids.tolist()


def test_the_stand_in_has_no_float64():
    with AppleGPU(), pytest.raises(TypeError, match="float64"):
        torch.ones(2, device="mps").double()
    with AppleGPU():
        assert draw(torch.zeros(2, 3), torch.zeros(2)).device.type == "cpu"
