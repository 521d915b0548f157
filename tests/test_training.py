"""What the stages' loops share: the schedule, who optimises which weight, number formats."""

import math

import pytest
import torch
from torch import nn

from helpers.model import GPT, GPTConfig, RewardModel
from helpers.training import Optimizers, autocast, schedule

CONFIG = GPTConfig(vocab_size=30, context=16, layers=2, heads=2, channels=16)


# ---------------------------------------------------------------- schedule


def test_the_schedule_by_hand():
    rates = [schedule(step, 100, warmup=0.05, decay=0.4) for step in range(100)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert all(rate == 1.0 for rate in rates[4:61])
    assert [rates[step] for step in (61, 70, 80, 99)] == pytest.approx([39 / 40, 0.75, 0.5, 1 / 40])


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 37, 1000])
@pytest.mark.parametrize(("warmup", "decay"), [(0.05, 0.4), (0.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_the_rate_goes_up_stays_and_goes_down_and_is_never_0(steps, warmup, decay):
    rates = [schedule(step, steps, warmup, decay) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)


# ---------------------------------------------------------------- optimisers


def groups(optimizers: Optimizers) -> list[set[int]]:
    return [
        {id(p) for group in part.param_groups for p in group["params"]}
        for part in optimizers.optimizers
    ]


@pytest.mark.parametrize("make", [lambda: GPT(CONFIG), lambda: RewardModel(GPT(CONFIG))])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_all_else(make):
    model = make()
    by_id = {id(p): name for name, p in model.named_parameters()}
    (alone,) = groups(Optimizers(model, lr=1e-3))  # without a rate for Muon
    assert alone == by_id.keys()
    optimizers = Optimizers(model, lr=1e-3, muon_lr=1e-2)
    adamw, muon = groups(optimizers)
    assert not adamw & muon and adamw | muon == by_id.keys()  # each parameter once
    assert len(optimizers.parameters) == len(by_id)
    names = sorted(by_id[i].removeprefix("gpt.") for i in muon)
    matrices = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert names == sorted(f"h.{layer}.{name}.weight" for layer in range(2) for name in matrices)


@pytest.mark.parametrize("muon_lr", [0.0, 1e-2])
@pytest.mark.parametrize("learning", [["h.1.mlp.c_fc.weight"], ["wte.weight"], None])
def test_a_step_moves_what_learns(muon_lr, learning):
    """None: everything; frozen weights are in no optimiser."""
    model = GPT(CONFIG)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learning is None or name in learning)
    learns = {id(p) for p in model.parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = Optimizers(model, lr=1e-3, muon_lr=muon_lr)
    assert {id(p) for p in optimizers.parameters} == set.union(*groups(optimizers)) == learns
    (model(torch.randint(30, (4, 8))) ** 2).mean().backward()
    optimizers.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(learning or before)


def test_each_optimiser_gets_its_peak_rate_times_the_factor():
    model = GPT(CONFIG)
    optimizers = Optimizers(model, lr=1e-3, muon_lr=1e-2)
    model(torch.randint(30, (2, 8))).sum().backward()
    optimizers.step(factor=0.25)
    rates = [part.param_groups[0]["lr"] for part in optimizers.optimizers]
    assert rates == pytest.approx([2.5e-4, 2.5e-3])
    assert all(p.grad is None for p in model.parameters())


def test_one_adamw_step_by_hand():
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[0.3, -0.4]])
    norm = Optimizers(model, lr=0.1).step(factor=0.5, clip=10.0)
    assert norm == pytest.approx(0.5)
    # Adam's first step is the rate times the sign of the gradient
    assert torch.allclose(model.weight, before - 0.05 * torch.tensor([[1.0, -1.0]]), atol=1e-5)


def test_adamw_forgets_as_its_betas_say():
    """Three steps by hand with beta_1 = 0.9 and beta_2 = 0.95, from a weight of 1: no decay."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizers, weight, mean, square = Optimizers(model, lr=0.1), 1.0, 0.0, 0.0
    for step, gradient in enumerate((1.0, -3.0, 0.5), start=1):
        model.weight.grad = torch.tensor([[gradient]])
        optimizers.step(clip=10.0)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.95 * square + 0.05 * gradient**2
        weight -= 0.1 * mean / (1 - 0.9**step) / math.sqrt(square / (1 - 0.95**step))
        assert model.weight.item() == pytest.approx(weight, abs=1e-6)


def test_gradients_are_cut_to_the_norm_over_both_optimisers(monkeypatch):
    model = GPT(CONFIG)
    optimizers, squares = Optimizers(model, lr=1e-3, muon_lr=1e-2), []
    for p in model.parameters():
        p.grad = torch.ones_like(p)

    def watched(part, step):
        def wrapped():
            squares.extend((p.grad**2).sum() for p in part.param_groups[0]["params"])
            return step()

        return wrapped

    for part in optimizers.optimizers:
        monkeypatch.setattr(part, "step", watched(part, part.step))
    norm = optimizers.step(clip=1.0)
    assert norm == pytest.approx(model.num_parameters() ** 0.5, rel=1e-4)  # the norm before the cut
    assert float(sum(squares)) == pytest.approx(1.0, rel=1e-3)


# ---------------------------------------------------------------- number formats


def test_autocast_changes_matrix_products_only_when_asked():
    x = torch.randn(4, 4)
    with autocast("cpu", torch.float32):
        assert (x @ x).dtype == torch.float32
    with autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
    assert (x @ x).dtype == torch.float32


def test_muon_multiplies_in_the_number_format():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        _, muon = Optimizers(GPT(CONFIG), lr=1e-3, muon_lr=1e-2, dtype=dtype).optimizers
        assert muon.dtype == dtype


def run_in(dtype: torch.dtype, size: float, steps: int = 60):
    """Train a linear layer whose loss is `size` times the squared error; returns the layer and the
    losses and norms of every step.
    """
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizers, losses, norms = Optimizers(model, lr=0.05, dtype=dtype), [], []
    for step, x in enumerate(torch.randn(steps, 16, 3)):
        target = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3
        with autocast("cpu", dtype):
            loss = size * ((model(x).float() - target) ** 2).mean()
        optimizers.backward(loss)
        losses.append(loss.item())
        norms.append(optimizers.step(schedule(step, steps)))
    return model, losses, norms


def test_float16_keeps_gradients_that_it_would_round_to_zero():
    """A factor of 1e-7 puts every gradient below float16's smallest number, 6e-8; Adam does not
    mind the size.
    """
    exact, _, _ = run_in(torch.float32, 1e-7)
    half, _, norms = run_in(torch.float16, 1e-7)
    assert all(0 < norm < 1e-5 for norm in norms)
    torch.testing.assert_close(half.weight, exact.weight, atol=0.05, rtol=0)


def test_float16_drops_updates_that_overflow_and_goes_on():
    model, losses, norms = run_in(torch.float16, 1e3, steps=200)
    assert not math.isfinite(norms[0]) and all(map(math.isfinite, norms[30:]))
    assert all(p.isfinite().all() for p in model.parameters())
    assert losses[-1] < 0.1 * losses[0]


def test_an_overflow_leaves_the_weights_and_the_scale_falls():
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    optimizers = Optimizers(model, lr=0.1)
    optimizers.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizers.backward(model(torch.ones(1, 2)).sum() * float("inf"))
    assert not math.isfinite(optimizers.step()) and torch.equal(model.weight, before)
    assert scaler.get_scale() == 4.0
    optimizers.backward(model(torch.ones(1, 2)).sum())
    assert optimizers.step(clip=10.0) == pytest.approx(3**0.5)  # in its own units again
    assert not torch.equal(model.weight, before)


def test_in_float32_an_overflow_is_an_error():
    model = nn.Linear(2, 1)
    before, optimizers = model.weight.detach().clone(), Optimizers(model, lr=0.1)
    optimizers.backward(model(torch.ones(1, 2)).sum() * float("inf"))
    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        optimizers.step()
    assert torch.equal(model.weight, before)


def test_gradients_add_up_until_the_step():
    model = nn.Linear(2, 1)
    optimizers, x = Optimizers(model, lr=0.1), torch.ones(1, 2)
    for share in (0.25, 0.75):
        optimizers.backward(share * model(x).sum())
    assert torch.allclose(model.weight.grad, torch.ones(1, 2))
    assert optimizers.step(clip=10.0) == pytest.approx(3**0.5) and model.weight.grad is None
