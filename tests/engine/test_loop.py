"""A loop's bookkeeping: a batch in parts is the whole batch, memory that runs out makes smaller
parts, metrics are means over all parts, and the log says what happened.
"""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from helpers import ppo, sft
from helpers.batching import right_pad
from helpers.engine import loop as engine_loop
from helpers.engine.loop import Loop, row_slices, rows_of, share_of
from helpers.engine.snapshots import Snapshots
from helpers.engine.state import read_state
from helpers.engine.transfer import select
from helpers.model import GPT
from helpers.pretrain import next_token_loss, token_counts
from helpers.reward import label_loss, pair_batch, reward_loss, text_batch
from helpers.training import Optimizers
from tests.support.runs import ALL, LABELS, PAD, PAIRS, ROWS, TEXTS, model
from tests.support.tensors import shaken

STAGES = ("pretrain", "sft", "lora", "pairs", "labels")  # with batches that can run out of memory
PPO = {"rollout_size": 16, "minibatch_size": 8, "iterations": 3, "lr": 1e-4}
BIG = dict.fromkeys(STAGES, {"batch_size": 8}) | {"ppo": PPO}


def trained(name: str, loop: Loop | None = None, **settings) -> tuple[list[dict], nn.Module]:
    loop = loop or Loop(name)
    model = ALL[name](loop, 1e-4 if name == "ppo" else 0.01, **BIG[name] | settings)
    return loop.history, model


# ---------------------------------------------------------------- parts of a batch


@pytest.fixture(scope="module")
def unsplit() -> dict:
    """Every run with its batches in one piece."""
    return {name: trained(name) for name in ALL}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [1, 3])
def test_a_run_in_parts_is_the_run_in_one_piece(name, size, unsplit):
    expected, model = unsplit[name]
    history, parts = trained(name, micro_batch=size)
    assert len(expected) >= 3
    close = {"rel": 2e-3, "abs": 2e-4}
    for a, b in zip(expected, history, strict=True):
        assert a.keys() == b.keys()
        names = a.keys() - {"clip_fraction", "explained_variance"}  # one token more or less
        assert {n: b[n] for n in names} == pytest.approx({n: a[n] for n in names}, **close)
    # Muon's 16-bit products enlarge differences in the last digit
    for key, weight in model.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], weight, atol=5e-3, rtol=0, msg=key)


def of_stage(name: str):
    """Batch and loss(model, part) of a stage whose model scores."""
    if name == "pairs":
        return pair_batch(PAIRS, PAD), reward_loss
    batch = *text_batch(TEXTS, PAD), torch.tensor(LABELS, dtype=torch.float32)
    return batch, lambda model, part: label_loss(model, *part)


def in_parts(loop: Loop, module: nn.Module, batch, counts, size: int):
    """The parts of one batch, outside of a run."""
    loop.modules, loop.device = [module], next(module.parameters()).device
    return loop.parts(batch, counts, size)


@pytest.mark.parametrize("name", ["pairs", "labels"])
@pytest.mark.parametrize("size", [1, 4, 24])
def test_gradients_of_parts_add_up(name, size):
    """In float64, so that nothing but an error of weighting can show."""
    batch, loss_of = of_stage(name)
    scored = shaken(model(True)).double()
    loss, accuracy = loss_of(scored, batch)
    expected = torch.autograd.grad(loss, list(scored.parameters()))
    twin, loop, sums = copy.deepcopy(scored), Loop("toy"), 0.0
    for part, share in in_parts(loop, twin, batch, None, size):
        value, right = loss_of(twin, part)
        (share * value).backward()
        loop.add(share, loss=value, accuracy=right)
        sums += share
    assert sums == pytest.approx(1)
    for gradient, parameter in zip(expected, twin.parameters()):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-5)
    means = {"loss": loss.item(), "accuracy": accuracy.item()}
    assert loop.means() == pytest.approx(means, rel=1e-5)


def test_a_batch_in_one_piece_is_the_very_batch():
    ids, mask = right_pad(ROWS, PAD)
    loop, gpt = Loop("toy"), model()
    ((part, share),) = in_parts(loop, gpt, (ids, mask), token_counts, 0)
    assert part[0] is ids and part[1] is mask and share == 1.0
    pairs = pair_batch(PAIRS, PAD)
    ((part, share),) = in_parts(loop, gpt, pairs, None, 0)
    assert torch.equal(part.attention_mask, pairs.attention_mask) and share == 1.0
    assert [len(range(23)[rows]) for rows in row_slices(23, 8)] == [8, 8, 7]


def test_rows_of_every_kind_of_batch():
    ids, mask = right_pad(ROWS, PAD)
    pairs = pair_batch(PAIRS, PAD)
    for batch in (ids, (ids, mask), pairs):
        assert rows_of(batch) == 25
    assert torch.equal(select(ids, slice(2, 9, 3)), ids[[2, 5, 8]])
    assert torch.equal(select((ids, mask), slice(0, 2))[1], mask[:2])
    part = select(pairs, slice(1, 25, 2))
    assert type(part) is type(pairs) and torch.equal(part.ends, pairs.ends[1::2])


def test_what_a_row_counts_by_hand():
    ids, mask = right_pad([[5, 6, 7, 0], [8, 9]], PAD)
    assert token_counts((ids, mask)).tolist() == [3, 1]
    batch = next(iter(sft.demonstration_batches([([5, 6, 7, 0], 2), ([8, 9], 1)], 2, 1, PAD, 0)))
    assert sorted(sft.completion_counts(batch).tolist()) == [1, 2]


def test_shares_by_hand():
    counts = torch.tensor([3.0, 1.0, 0.0, 4.0])
    assert share_of(counts, slice(0, 2)) == share_of(counts, slice(3, 4)) == 0.5
    assert share_of(torch.zeros(4), slice(0, 2)) == 0.0  # nothing is counted: nothing is learned


@pytest.mark.parametrize("name", STAGES)
def test_the_optimisers_of_a_stage_have_the_number_format_of_its_loop(name, capsys):
    """In float16 the loss is scaled, and Muon multiplies in it."""

    class Watched(Loop):
        def run(self, steps, **objects):
            self.optimizers = objects["optimizers"]
            return super().run(steps, **objects)

    loop = Watched(name, dtype=torch.float16)
    trained(name, loop, epochs=0.25)
    assert loop.optimizers.scaler.is_enabled() and len(loop.history) == 1
    assert all(muon.dtype == torch.float16 for muon in loop.optimizers.optimizers[1:])


# ---------------------------------------------------------------- several processes


def as_process(monkeypatch, rank: int, world: int) -> None:
    """Rows as they fall to one of several processes."""
    local = lambda rows: range(rank, rows, world)  # noqa: E731
    monkeypatch.setattr(engine_loop, "own_rows", local)


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
@pytest.mark.parametrize("world, size", [(1, 0), (2, 0), (2, 1), (3, 2)])
def test_processes_share_a_batch(rows, world, size, monkeypatch):
    """Every row is somebody's, once, and the shares of all are 1; who has none adds nothing."""
    batch, gpt = (torch.arange(rows) + 1.0, torch.arange(rows)), nn.Linear(1, 1)
    seen, total, means = [], 0.0, 0.0
    for rank in range(world):
        as_process(monkeypatch, rank, world)
        loop = Loop("toy")
        for (values, index), share in in_parts(loop, gpt, batch, lambda b: b[0], size):
            assert size == 0 or len(index) <= size
            mean = (values * index).sum() / values.sum()  # a mean over what the rows count
            loop.add(share, mean=mean)
            seen += index.tolist() if share else []
            total += share
        means += loop.means()["mean"]
    assert sorted(seen) == list(range(rows)) and total == pytest.approx(1)
    assert means == pytest.approx(((batch[0] * batch[1]).sum() / batch[0].sum()).item())


def test_a_process_without_rows_takes_part(monkeypatch):
    as_process(monkeypatch, 2, 3)
    ids, mask = right_pad(ROWS[:2], PAD)
    loop, gpt = Loop("toy"), model()
    (((row, _), share),) = in_parts(loop, gpt, (ids, mask), token_counts, 0)
    assert len(row) == 1 and share == 0
    ((_, share),) = in_parts(loop, gpt, (ids, mask), None, 0)
    assert share == 0


def test_metrics_are_added_up_over_processes(monkeypatch):
    monkeypatch.setattr(engine_loop, "add_numbers", lambda numbers: [3 * n for n in numbers])
    loop = Loop("toy")
    in_parts(loop, nn.Linear(1, 1), torch.ones(2), lambda b: b, 0)
    loop.device = torch.device("cpu")
    loop.add(0.25, loss=torch.tensor(2.0), other=1.0)
    loop.add(0.5, loss=torch.tensor(4.0))
    assert loop.means() == {"loss": 7.5, "other": 0.75}


def test_the_largest_value_of_all_parts_and_processes_is_kept(monkeypatch):
    loop = Loop("toy")
    monkeypatch.setattr(engine_loop, "largest_numbers", lambda x: [max(n, 4.0) for n in x])
    for _ in range(2):  # a batch does not see the values of the one before
        for _, share in in_parts(loop, nn.Linear(1, 1), torch.ones(3), lambda b: b, 1):
            loop.add_largest(off=torch.tensor(5.0 if share == 0 else 3.0))
            loop.add(share, loss=1.0)
        assert loop.means() == {"loss": pytest.approx(1.0), "off": 4.0}


# ---------------------------------------------------------------- when the memory runs out


LACKS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


def tight(monkeypatch, most: int, error: Exception) -> None:
    """A machine that holds at most so many rows."""
    hidden = GPT.hidden

    def limited(self, ids, *rest, **options):
        if len(ids) > most:
            raise error
        return hidden(self, ids, *rest, **options)

    monkeypatch.setattr(GPT, "hidden", limited)


@pytest.mark.parametrize(
    "name, error", [*((name, LACKS[0]) for name in STAGES), ("pretrain", LACKS[1])]
)
def test_parts_get_smaller_until_they_fit(name, error, unsplit, monkeypatch, capsys):
    """A machine that holds at most three rows at once: the run is the one in small parts."""
    expected, _ = trained(name, micro_batch=2)
    tight(monkeypatch, 3, error)
    capsys.readouterr()
    loop = Loop(name)
    history, _ = trained(name, loop)
    message = r"out of memory with (\d) rows at once; from now on (\d)"
    assert re.findall(message, capsys.readouterr().out) == [("8", "4"), ("4", "2")]
    assert loop.size == 2 and history == expected


def failing(at: int):
    """A call that fails the n-th time, when earlier parts have left their gradients."""
    calls = iter(range(1, 99))

    def fail() -> None:
        if next(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return fail


def test_a_retry_begins_the_batch_again():
    """What the parts before the failure had left, gradients and metrics, is gone."""
    ids, mask = right_pad(ROWS[:8], PAD)
    gpt, twin = shaken(model()), shaken(model())
    twin.load_state_dict(gpt.state_dict())
    loss = next_token_loss(twin, ids, mask)
    loss.backward()
    loop, fails, sizes = Loop("toy"), failing(2), []
    for (part, seen), share in in_parts(loop, gpt, (ids, mask), token_counts, 4):
        with loop.retry_smaller():
            fails()
            mean = next_token_loss(gpt, part, seen)
            (share * mean).backward()
            loop.add(share, loss=mean)
            loop.add_largest(rows=torch.tensor(float(len(part))))
            sizes.append(len(part))
    assert sizes == [4, 2, 2, 2, 2]
    assert loop.means() == pytest.approx({"loss": loss.item(), "rows": 2}, rel=1e-5)
    for a, b in zip(gpt.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def norms_of(monkeypatch) -> list[float]:
    """The norms of PPO's gradients, of policy and value model in turn, as its steps find them."""
    norms, step = [], ppo.Optimizers.step

    def watched(self, *args):
        norms.append(step(self, *args))

    monkeypatch.setattr(ppo.Optimizers, "step", watched)
    return norms


@pytest.mark.parametrize("size, call", [(0, 3), (4, 2)])  # the third minibatch; a second part
def test_ppo_retries_a_minibatch(size, call, monkeypatch):
    """Both models' gradients are dropped, and the random numbers stay those of the run."""
    settings = {"iterations": 2, "micro_batch": size}
    norms = norms_of(monkeypatch)
    expected, weights = trained("ppo", **settings)
    of_expected = norms.copy()
    norms.clear()
    fails, minibatch_losses = failing(call), ppo.minibatch_losses

    def limited(*args):
        losses = minibatch_losses(*args)
        fails()
        return losses

    monkeypatch.setattr(ppo, "minibatch_losses", limited)
    loop = Loop("ppo")
    history, same = trained("ppo", loop, **settings)
    assert loop.size == (size or 8) / 2
    assert norms == pytest.approx(of_expected, rel=0.02)
    for a, b in zip(expected, history):
        assert b == pytest.approx(a, rel=2e-3, abs=2e-4)
    for a, b in zip(weights.parameters(), same.parameters()):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)


@pytest.mark.parametrize("rows, error", [(1, LACKS[0]), (8, RuntimeError("mat1 and mat2"))])
def test_one_row_that_does_not_fit_and_other_errors_go_through(rows, error):
    loop, gpt = Loop("toy"), model()
    with pytest.raises(type(error), match=str(error)):
        for _ in in_parts(loop, gpt, right_pad(ROWS[:rows], PAD), token_counts, 0):
            with loop.retry_smaller():
                raise error


# ---------------------------------------------------------------- steps


def toy_run(loop: Loop, steps: int, spoil=None):
    """Fit a linear layer; spoil(step, loss) may change a step's loss. Returns the layer."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 1)
    x = torch.randn(steps, 16, 3)
    batches = [(rows, rows @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3) for rows in x]
    optimizers, ones = Optimizers(layer, 0.05), lambda batch: torch.ones(len(batch[0]))
    with loop.run(steps, model=layer, optimizers=optimizers) as left:
        for step in left:
            for (rows, targets), share in loop.parts(batches[step], ones):
                loss = ((layer(rows) - targets) ** 2).mean()
                loss = spoil(step, loss) if spoil else loss
                optimizers.backward(share * loss)
                loop.add(share, loss=loss)
            loop.log(**loop.means(), grad_norm=optimizers.step())
    return layer


def snapshots_in(folder: Path) -> Snapshots:
    return Snapshots(folder / "logs" / "toy.jsonl", folder / "snapshots")


def test_every_step_is_taken_and_reported(capsys):
    loop, seen = Loop("toy", watch=lambda history: seen.append(len(history))), []
    toy_run(loop, 300)
    assert [row["step"] for row in loop.history] == list(range(1, 301)) == seen
    assert loop.history[-1]["loss"] < 0.01 * loop.history[0]["loss"]
    assert set(loop.history[0]) == {"step", "loss", "grad_norm"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(bad, capsys):
    loop = Loop("toy")
    with pytest.raises(FloatingPointError, match="toy: the loss is (nan|-?inf) at step 3; lower"):
        toy_run(loop, 9, lambda step, loss: loss * bad if step == 2 else loss)
    assert len(loop.history) == 2
    assert all(p.isfinite().all() for p in loop.modules[0].parameters())


@pytest.mark.parametrize("name", ["pretrain", "pairs"])
def test_the_batch_that_led_to_nan_is_saved(name, tmp_path, monkeypatch, capsys):
    """As a whole, not the part in which it showed: a tuple as it is, an object by name."""
    loop, hidden = Loop(name, snapshots=snapshots_in(tmp_path)), GPT.hidden

    def broken(self, ids, *rest, **options):
        return hidden(self, ids, *rest, **options) * (float("nan") if len(loop.history) == 2 else 1)

    monkeypatch.setattr(GPT, "hidden", broken)
    with pytest.raises(FloatingPointError, match="is nan at step 3;.* saved in ") as error:
        trained(name, loop, micro_batch=3)
    folder = Path(str(error.value).split(" saved in ")[1].removesuffix("."))
    assert folder == tmp_path / "logs" / "toy-batch-of-step-3"
    state, pairs = read_state(folder), name == "pairs"
    ids = state["batch"]["ids"] if pairs else state["batch"][0]
    assert state["step"] == 3 and torch.equal(ids, loop.batch.ids if pairs else loop.batch[0])
    assert len(ids) > 3 and len(loop.history) == 2


# ---------------------------------------------------------------- the log


def started(steps: int, **options) -> Loop:
    """A loop whose run has begun."""
    loop = Loop("toy", **options)
    with loop.run(steps, model=nn.Linear(1, 1)):
        pass
    return loop


def lines_of(path: Path) -> list[dict]:
    strict = {"parse_constant": lambda name: pytest.fail(f"{name} is not JSON")}
    return [json.loads(line, **strict) for line in path.read_text("utf-8").splitlines()]


def test_a_line_a_step_at_once(tmp_path, capsys):
    snapshots = snapshots_in(tmp_path)
    for _ in range(2):  # a new run starts a new log
        loop = started(3, snapshots=snapshots)
        for step in range(3):
            loop.log(loss=1.0 / (step + 1), rate=0.5)
            assert len(lines_of(snapshots.log)) == step + 1  # an interrupted run keeps what it had
        assert lines_of(snapshots.log) == loop.history
    assert loop.history[2] == {"step": 3, "loss": pytest.approx(1 / 3), "rate": 0.5}


def test_a_number_that_is_not_finite_is_null_in_the_log(tmp_path, capsys):
    snapshots = snapshots_in(tmp_path)
    started(1, snapshots=snapshots).log(explained=float("nan"), ratio=float("inf"), loss=1.0)
    assert lines_of(snapshots.log) == [{"step": 1, "explained": None, "ratio": None, "loss": 1.0}]


def test_only_the_first_process_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine_loop, "is_main", lambda: False)
    loop = started(2, snapshots=snapshots_in(tmp_path))
    loop.log(loss=1.0)
    assert len(loop.history) == 1 and not snapshots_in(tmp_path).log.exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("lines, expected", [(10, 11), (2, 3)])
def test_some_lines_are_printed(lines, expected, capsys):
    loop = started(200, lines=lines)
    for _ in range(200):
        loop.log(loss=0.25)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == expected
    assert printed[0].startswith("toy    1/200  loss 0.25")
    assert printed[-1].startswith("toy  200/200")
    assert all("left]" in line for line in printed) and printed[-1].endswith(" 0s left]")


@pytest.mark.parametrize("resumed, left", [(0, 30), (5, 60)])
def test_the_time_that_is_left(resumed, left, monkeypatch, capsys):
    """Ten steps of 40 took ten seconds: 30 s for the others. Of a run that went on after step 5
    five steps took them: 60 s.
    """
    now = [0.0]
    monkeypatch.setattr(engine_loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    loop = started(40, lines=4)
    loop.load_state_dict({"history": [{"step": i + 1, "loss": 1.0} for i in range(resumed)]})
    now[0] = 10.0
    for _ in range(10 - resumed):
        loop.log(loss=1.0)
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"[10s, {left}s left]")


def test_a_run_that_goes_on_has_its_whole_log(tmp_path, capsys):
    snapshots = snapshots_in(tmp_path)
    first = started(3, snapshots=snapshots)
    first.log(loss=3.0)
    state = copy.deepcopy(first.state_dict())
    first.log(loss=2.0)  # never saved: taken again
    second = started(3, snapshots=snapshots)
    second.load_state_dict(state)
    second.log(loss=2.5)
    assert [row["loss"] for row in lines_of(snapshots.log)] == [3.0, 2.5]


def test_values_are_taken_off_the_graph():
    loop = Loop("toy")
    weight = nn.Parameter(torch.ones(()))
    loop.add(0.5, loss=2 * weight)
    assert isinstance(loop.totals["loss"], Tensor) and not loop.totals["loss"].requires_grad
