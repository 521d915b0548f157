"""What the stages share: the schedule, who optimises which weight, one training step, the log."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.engine.snapshots import Keeper
from helpers.engine.state import read_state
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.training import Optimizers, autocast, fit, schedule

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
        {id(p) for group in part.param_groups for p in group["params"]} for part in optimizers.parts
    ]


@pytest.mark.parametrize("make", [lambda: GPT(CONFIG), lambda: RewardModel(GPT(CONFIG))])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_all_else(make):
    model = make()
    adamw, muon = groups(Optimizers(model, lr=1e-3, muon_lr=1e-2))
    by_id = {id(p): name for name, p in model.named_parameters()}
    assert not adamw & muon and adamw | muon == by_id.keys()  # each parameter once
    names = sorted(by_id[i].removeprefix("gpt.") for i in muon)
    matrices = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert names == sorted(f"h.{layer}.{name}.weight" for layer in range(2) for name in matrices)


def test_no_parameter_is_listed_twice():
    optimizers = Optimizers(GPT(CONFIG), lr=1e-3, muon_lr=1e-2)
    listed = [
        p for part in optimizers.parts for group in part.param_groups for p in group["params"]
    ]
    assert len(listed) == len({id(p) for p in listed}) == len(optimizers.parameters)


def test_without_a_rate_for_muon_adamw_has_everything():
    model = GPT(CONFIG)
    (adamw,) = groups(Optimizers(model, lr=1e-3))
    assert adamw == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("muon_lr", [0.0, 1e-2])
def test_frozen_weights_are_left_out(muon_lr):
    model = GPT(CONFIG)
    model.requires_grad_(False)
    learns = model.h[1].mlp.c_fc.weight.requires_grad_(True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = Optimizers(model, lr=1e-3, muon_lr=muon_lr, weight_decay=0.1)
    assert [id(p) for p in optimizers.parameters] == [id(learns)] and set.union(
        *groups(optimizers)
    ) == {id(learns)}
    (model(torch.randint(30, (4, 8))) ** 2).mean().backward()
    optimizers.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"h.1.mlp.c_fc.weight"}


def test_each_optimiser_gets_its_peak_rate_times_the_factor():
    model = GPT(CONFIG)
    optimizers = Optimizers(model, lr=1e-3, muon_lr=1e-2)
    model(torch.randint(30, (2, 8))).sum().backward()
    optimizers.step(factor=0.25)
    assert [part.param_groups[0]["lr"] for part in optimizers.parts] == pytest.approx(
        [2.5e-4, 2.5e-3]
    )
    assert all(p.grad is None for p in model.parameters())


def test_one_adamw_step_by_hand():
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[0.3, -0.4]])
    norm = Optimizers(model, lr=0.1).step(factor=0.5, clip=10.0)
    assert norm == pytest.approx(0.5)
    # Adam's first step is the rate times the sign of the gradient
    assert torch.allclose(model.weight, before - 0.05 * torch.tensor([[1.0, -1.0]]), atol=1e-5)


def test_gradients_are_cut_to_the_norm_over_both_optimisers():
    model = GPT(CONFIG)
    optimizers = Optimizers(model, lr=1e-3, muon_lr=1e-2)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    seen = {}

    def spy(part, name):
        step = part.step

        def wrapped():
            seen[name] = sum(
                (p.grad**2).sum() for group in part.param_groups for p in group["params"]
            )
            return step()

        part.step = wrapped

    for name, part in zip(("adamw", "muon"), optimizers.parts):
        spy(part, name)
    norm = optimizers.step(clip=1.0)
    assert norm == pytest.approx(model.num_parameters() ** 0.5, rel=1e-4)  # the norm before the cut
    assert float(seen["adamw"] + seen["muon"]) == pytest.approx(1.0, rel=1e-3)


def test_both_optimisers_move_their_weights():
    model = GPT(CONFIG)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = Optimizers(model, lr=1e-3, muon_lr=1e-2)
    (model(torch.randint(30, (4, 8))) ** 2).mean().backward()
    optimizers.step()
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert still == set()


# ---------------------------------------------------------------- training


def toy_fit(steps: int, loss_of, lr: float = 0.05):
    model = nn.Linear(3, 1)
    x = torch.randn(steps, 16, 3)
    batches = [(row, row @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3) for row in x]
    return model, fit(model, batches, loss_of, Optimizers(model, lr=lr), Progress("toy", steps))


def squared(model, batch):
    x, y = batch
    error = model(x) - y
    return (error**2).mean(), {"bias": error.mean().item()}


def test_fit_lowers_the_loss_and_reports_every_step(capsys):
    _, history = toy_fit(300, squared)
    assert [row["step"] for row in history] == list(range(1, 301))
    assert history[-1]["loss"] < 0.01 * history[0]["loss"]
    assert set(history[0]) == {"step", "loss", "bias", "grad_norm", "rate"}
    assert [row["rate"] for row in history] == [schedule(step, 300) for step in range(300)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(bad, capsys):
    calls = []

    def breaks_at_3(model, batch):
        calls.append(batch)
        loss, metrics = squared(model, batch)
        return loss * (bad if len(calls) == 3 else 1.0), metrics

    model = nn.Linear(3, 1)
    batches = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(9)]
    with pytest.raises(FloatingPointError, match="toy: the loss is (nan|-?inf) at step 3"):
        fit(model, batches, breaks_at_3, Optimizers(model, lr=0.1), Progress("toy", 9))
    assert len(calls) == 3 and all(p.isfinite().all() for p in model.parameters())


def test_autocast_changes_matrix_products_only_when_asked():
    x = torch.randn(4, 4)
    with autocast("cpu", torch.float32):
        assert (x @ x).dtype == torch.float32
    with autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
    assert (x @ x).dtype == torch.float32


# ---------------------------------------------------------------- the log


def test_progress_writes_a_json_line_a_step(tmp_path, capsys):
    log = tmp_path / "logs" / "toy.jsonl"
    progress = Progress("toy", 3, Keeper(log, tmp_path / "snapshots"))
    for step in range(3):
        progress.update(loss=1.0 / (step + 1), rate=0.5)
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == step + 1  # at once: an interrupted run keeps what it had
    assert rows == progress.history
    assert rows[2] == {"step": 3, "loss": pytest.approx(1 / 3), "rate": 0.5}


def test_a_number_that_is_not_finite_is_null_in_the_log(tmp_path, capsys):
    log = tmp_path / "toy.jsonl"
    progress = Progress("toy", 1, Keeper(log, tmp_path / "snapshots"))
    progress.update(explained=float("nan"), ratio=float("inf"), loss=1.0)
    row = json.loads(
        log.read_text(encoding="utf-8"),
        parse_constant=lambda name: pytest.fail(f"{name} is not JSON"),
    )
    assert row == {"step": 1, "explained": None, "ratio": None, "loss": 1.0}


def test_progress_prints_about_ten_lines_with_the_time_left(capsys):
    progress = Progress("toy", 200)
    for _ in range(200):
        progress.update(loss=0.25)
    lines = capsys.readouterr().out.splitlines()
    assert 10 <= len(lines) <= 12
    assert lines[0].startswith("toy    1/200  loss 0.25") and lines[-1].startswith("toy  200/200")
    assert all("left]" in line for line in lines)
    assert lines[-1].endswith(" 0s left]")


def test_a_new_run_starts_a_new_log(tmp_path, capsys):
    for _ in range(2):
        progress = Progress("toy", 1, Keeper(tmp_path / "log.jsonl", tmp_path / "snapshots"))
        progress.update(loss=1.0)
    assert len((tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()) == 1


# ---------------------------------------------------------------- numbers that are not finite


def test_the_batch_that_led_to_nan_is_kept(tmp_path, capsys):
    model, keeper = nn.Linear(3, 1), Keeper(tmp_path / "toy.jsonl", tmp_path / "snapshots")
    batches = [(torch.full((4, 3), float(i)), torch.zeros(4, 1)) for i in range(5)]
    batches[2][0][1, 1] = float("nan")
    with pytest.raises(
        FloatingPointError, match=r"loss is nan at step 3; .* Its batch is kept in .*step-3\."
    ) as error:
        fit(model, batches, squared, Optimizers(model, lr=0.1), Progress("toy", 5, keeper))
    kept = read_state(Path(str(error.value).rstrip(".").split(" kept in ")[1]))
    torch.testing.assert_close(kept["batch"][0], batches[2][0], rtol=0, atol=0, equal_nan=True)
    assert kept["step"] == 3 and torch.equal(kept["batch"][1], batches[2][1])
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_gradient_that_is_not_finite_changes_no_weight(capsys):
    class Root(torch.autograd.Function):  # a finite loss whose gradient is infinite
        @staticmethod
        def forward(context, x):
            return x * 0

        @staticmethod
        def backward(context, gradient):
            return gradient * float("inf")

    model = nn.Linear(3, 1)
    before = model.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="toy: the gradient is not finite at step 1"):
        batches = [(torch.randn(4, 3), torch.zeros(4, 1))]
        fit(
            model,
            batches,
            lambda m, b: (Root.apply(m(b[0])).sum(), {}),
            Optimizers(model, lr=0.1),
            Progress("toy", 1),
        )
    assert torch.equal(model.weight, before)


# ---------------------------------------------------------------- float16


def run_in(dtype: torch.dtype, size: float, steps: int = 60):
    """Train a linear layer whose loss is `size` times the squared error; returns the layer and the
    history.
    """
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x = torch.randn(steps, 16, 3)
    batches = [(row, row @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3) for row in x]

    def loss_of(model, batch):
        return size * ((model(batch[0]).float() - batch[1]) ** 2).mean(), {}

    return model, fit(
        model, batches, loss_of, Optimizers(model, lr=0.05), Progress("toy", steps), dtype=dtype
    )


def test_float16_keeps_gradients_that_it_would_round_to_zero(capsys):
    """A factor of 1e-7 puts every gradient below float16's smallest number, 6e-8; Adam does not
    mind the size.
    """
    exact, _ = run_in(torch.float32, 1e-7)
    half, history = run_in(torch.float16, 1e-7)
    assert all(0 < row["grad_norm"] < 1e-5 for row in history)
    torch.testing.assert_close(half.weight, exact.weight, atol=0.05, rtol=0)


def test_float16_drops_updates_that_overflow_and_goes_on(capsys):
    model, history = run_in(torch.float16, 1e3, steps=200)
    norms = [row["grad_norm"] for row in history]
    assert not math.isfinite(norms[0]) and all(map(math.isfinite, norms[30:]))
    assert (
        all(p.isfinite().all() for p in model.parameters())
        and history[-1]["loss"] < 0.1 * history[0]["loss"]
    )


def test_an_overflow_leaves_the_weights_and_the_scale_falls():
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    optimizers = Optimizers(model, lr=0.1)
    optimizers.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(model(torch.ones(1, 2)).sum() * float("inf")).backward()
    assert not math.isfinite(optimizers.step()) and torch.equal(model.weight, before)
    assert scaler.get_scale() == 4.0
    scaler.scale(model(torch.ones(1, 2)).sum()).backward()
    assert optimizers.step(clip=10.0) == pytest.approx(3**0.5)  # in its own units again
    assert not torch.equal(model.weight, before)
