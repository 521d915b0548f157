"""Learners' training loops: what a real run needs around them, and what is refused."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from helpers.config import PPOConfig, SFTConfig
from helpers.engine import progress
from helpers.engine.loop import Loop
from helpers.engine.snapshots import Snapshots
from helpers.lesson.checks import loops
from helpers.lesson.checks.own_loops import needs_the_library
from helpers.pretrain import next_token_loss
from helpers.training import schedule
from tests.support import runs
from tests.support.courses import course_in
from tests.support.notebook_code import solution_of

CHECKS = {
    "pretrain": loops.check_training_loop,
    "sft": loops.check_masked_loop,
    "reward": loops.check_pair_loop,
    "ppo": loops.check_ppo_loop,
}
RUNS = {"pretrain": "pretrain", "sft": "sft", "reward": "pairs", "ppo": "ppo"}


def with_loop(stage: str, mine, tmp_path):
    """`train` of a stage with a learner's loop in its place."""
    library = getattr(runs, stage).train
    used = course_in(tmp_path, stage).use(mine, library, CHECKS[stage])
    assert used is not library
    return used


@pytest.mark.parametrize("stage", CHECKS)
def test_a_stopped_run_goes_on_and_ends_with_the_librarys_numbers(stage, tmp_path, monkeypatch):
    run = runs.ALL[RUNS[stage]]
    loop = Loop(stage)
    run(loop, 0.01)
    solution, stop = solution_of(CHECKS[stage].name), [None]

    def mine(*arguments):
        for step, measured in enumerate(solution(*arguments)):
            if step == stop[0]:
                raise KeyboardInterrupt
            yield measured

    monkeypatch.setattr(runs, stage, SimpleNamespace(**vars(getattr(runs, stage))))
    getattr(runs, stage).train = with_loop(stage, mine, tmp_path)
    snapshots = Snapshots(tmp_path / "log.jsonl", tmp_path / "snapshots")
    stop[0] = 5
    first = Loop(stage, snapshots=snapshots)
    with pytest.raises(KeyboardInterrupt):
        run(first, 0.01)
    assert len(first.history) == 5
    stop[0] = None
    again = Loop(stage, snapshots=snapshots)
    run(again, 0.01)
    for ours, theirs in zip(again.history, loop.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def ends_early(model, batches, optimizer):
    rows = solution_of("training_loop")(model, batches, optimizer)
    yield from (row for row, _ in zip(rows, range(2), strict=False))


def reads_ahead(model, batches, optimizer):
    yield from solution_of("training_loop")(model, [*batches], optimizer)


def counts_batches(model, batches, optimizer):
    assert len(batches)
    yield from solution_of("training_loop")(model, batches, optimizer)


@pytest.mark.parametrize(
    "mine, reason",
    [
        (ends_early, "the shape is (2,), expected (3,)"),
        (reads_ahead, "its log, written at each `yield` after a step, differs from the library's"),
        (counts_batches, "object of type 'generator' has no len()"),
    ],
)
def test_a_loop_that_would_not_train_as_the_librarys_is_refused(mine, reason, tmp_path, capsys):
    library = runs.pretrain.train
    course = course_in(tmp_path, "pretrain")
    assert course.use(mine, library, loops.check_training_loop) is library
    assert reason in capsys.readouterr().out


def plain(model, batches, optimizer, measured):
    for ids, mask in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = next_token_loss(model, ids, mask)
        loss.backward()
        optimizer.step()
        yield measured(loss)


@pytest.mark.parametrize(
    "measured",
    [
        lambda loss: loss,
        lambda loss: {"loss": loss.item()},
        lambda loss: loss.view(1),
        lambda loss: loss.detach().numpy(),
    ],
)
def test_a_loop_may_yield_its_loss_in_another_form(measured, tmp_path):
    mine = partial(plain, measured=measured)
    assert loops.check_training_loop(mine) is True
    with_loop("pretrain", mine, tmp_path)


def test_a_loop_may_step_at_the_rate_of_the_schedule(tmp_path):
    def mine(models, run, prompts, config, tokenizer):
        for optimizer in (run.policy_optimizer, run.value_optimizer):
            optimizer.step = partial(optimizer.step, schedule(0, config.iterations))
        yield from solution_of("ppo_loop")(models, run, prompts, config, tokenizer)

    assert loops.check_ppo_loop(mine) is True
    with_loop("ppo", mine, tmp_path)


def test_a_trial_draws_no_progress_table(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(progress.LiveOutput, "show", lambda self, table: drawn.append(table))
    with_loop("pretrain", solution_of("training_loop"), tmp_path)
    assert not drawn


@pytest.mark.parametrize(
    "stage, config, dtype, reason",
    [
        ("sft", SFTConfig(), torch.float32, ""),
        ("sft", SFTConfig(micro_batch=4), torch.float32, "do not fit in memory"),
        ("sft", SFTConfig(), torch.float16, "float16"),
        ("ppo", PPOConfig(), torch.float16, ""),  # `backward` of its optimisers scales the loss
        ("ppo", PPOConfig(minibatch_size=8, micro_batch=8), torch.float32, ""),
        ("ppo", PPOConfig(minibatch_size=8, micro_batch=4), torch.float32, "do not fit in memory"),
    ],
)
def test_where_the_machine_needs_the_librarys_loop(stage, config, dtype, reason):
    course = SimpleNamespace(stage=stage, config=config, dtype=dtype)
    assert reason in needs_the_library(course) and bool(reason) == bool(needs_the_library(course))
