"""Training that can be stopped at any moment and later goes on as if nothing had happened.

A snapshot holds whatever the next step depends on: weights, optimisers, scaler, the history so far
and every random generator. Which rows a step reads is a function of the seed and the step, so the
step's number is all there is to know of the data. On a CPU the run that was stopped, or killed, has
the very losses of one that was not.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from helpers.engine import distributed
from helpers.engine.files import OUT_OF_TIME, discard
from helpers.engine.state import (
    DamagedState,
    random_state,
    read_state,
    set_random_state,
    write_state,
)

VERSION = 1  # of what a snapshot holds
KEPT = 2  # snapshots: should the newest be damaged, there is the one before


class ResumeError(RuntimeError):
    """A snapshot that this run can't go on from."""


class Stopped(Exception):
    """A run that ended early as it was asked to. `code` is what its command ends with."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Keeper:
    """Where one training run writes its log and its snapshots, and how often."""

    log: Path  # a JSON line a step
    folder: Path  # of the snapshots
    settings: dict = field(
        default_factory=dict
    )  # what a run must share with the one that it goes on from
    every: float = 600.0  # seconds between snapshots
    every_steps: int = 0  # and steps between them; 0: only the time counts
    deadline: float | None = None  # `time.perf_counter()` at which the session ends
    limit: int = 0  # a trial: end after so many steps; 0: run to the end
    hand_over: bool = (
        False  # end once all steps are taken, with their snapshot for the run that goes on from it
    )

    def named(self, name: str) -> "Keeper":
        """The keeper of another run in the same stage, such as the second judge's."""
        log, folder = self.log.with_name(f"{name}.jsonl"), self.folder.with_name(name)
        return replace(self, log=log, folder=folder, hand_over=False)

    # ------------------------------------------------------------ snapshots

    def place(self, step: int) -> Path:
        """The folder of the snapshot after so many steps."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The snapshots that are there, by their number of steps, oldest first."""
        return sorted(
            int(path.name[5:]) for path in self.folder.glob("step-*") if path.name[5:].isdecimal()
        )

    def save(self, step: int, parts: dict[str, Any]) -> None:
        """Write a snapshot after so many steps and drop all but the last two. Every process must
        call it.

        Raises OSError, with older snapshots untouched, when it can't be written.
        """
        device = distributed.device()
        random = {
            name: distributed.gather_rows(row[None].to(device)).cpu()
            for name, row in random_state().items()
        }
        if not distributed.is_main():
            return
        states = {name: state_of(part) for name, part in parts.items()}
        state = {
            "version": VERSION,
            "step": step,
            "settings": self.settings,
            "random": random,
            "parts": states,
        }
        write_state(self.place(step), state)
        for old in self.steps()[:-KEPT]:
            discard(self.place(old))

    def newest(self) -> dict | None:
        """The newest whole snapshot, or None. A damaged one is passed over with a printed line."""
        for step in reversed(self.steps()):
            try:
                return read_state(self.place(step))
            except DamagedState as error:
                print(f"{error}; taking the snapshot before it")
        return None

    def load(self, parts: dict[str, Any]) -> int:
        """Put the newest snapshot's state into the parts; returns its number of steps, 0 without a
        snapshot.

        Raises ResumeError when it was made with other settings or by another version of snapshots.
        """
        state = distributed.furthest(self.newest(), lambda found: found["step"])
        if state is None:
            return 0
        self.check(state)
        for name, part in parts.items():
            set_state_of(part, state["parts"][name])
        rows = state["random"]
        mine = (
            distributed.rank() if distributed.rank() < len(rows["cpu"]) else 0
        )  # there were fewer processes
        # clone: of a view torch would read the memory before it, and crash
        set_random_state({name: of_ranks[mine].cpu().clone() for name, of_ranks in rows.items()})
        return state["step"]

    def check(self, state: dict) -> None:
        """Raise ResumeError, with what differs, for a snapshot that is not this run's."""
        again = (
            f"delete {self.folder} or set RLHF_RESUME=0 to start over, or choose another run "
            "folder (RLHF_OUT)"
        )
        if state["version"] != VERSION:
            raise ResumeError(
                f"{self.folder} was saved by version {state['version']} of snapshots, this is "
                f"{VERSION}: "
                f"use the version of the course that saved it; or {again}"
            )
        theirs, ours = state["settings"], self.settings
        names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        if names:
            differ = ", ".join(
                f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r}" for name in names
            )
            raise ResumeError(
                f"{self.folder} was saved by a run with other settings ({differ}): {again}"
            )

    def clear(self) -> None:
        """Remove the snapshots."""
        if distributed.is_main():
            discard(self.folder)


def state_of(part: Any) -> Any:
    """The state of a model, an optimiser, a history or a random generator."""
    return part.get_state() if isinstance(part, torch.Generator) else part.state_dict()


def set_state_of(part: Any, state: Any) -> None:
    """Put back what `state_of` gave."""
    part.set_state(state) if isinstance(part, torch.Generator) else part.load_state_dict(state)


# ---------------------------------------------------------------- stopping


class Signals:
    """Notes Ctrl-C and SIGTERM instead of obeying at once, so that the running step ends and its
    state is saved.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if (
            threading.current_thread() is threading.main_thread()
        ):  # Python allows handlers nowhere else
            self.old = {
                number: signal.signal(number, self.note)
                for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and number in self.seen:
            raise KeyboardInterrupt
        self.seen.add(number)
        print("stopping after this step, then saving (Ctrl-C once more: at once)", flush=True)


def remaining_steps(
    title: str, steps: int, keeper: Keeper, parts: dict[str, Any], signals: Signals
) -> Iterator[int]:
    """The steps that are left, from where the newest snapshot of the parts stands; saves while they
    are taken.

    Ends early, saved, with KeyboardInterrupt, SystemExit or Stopped; all processes end after the
    same step.
    """
    first = keeper.load(parts)
    if first and distributed.is_main():
        print(
            f"{title}: going on after step {first} of {steps} (RLHF_RESUME=0 starts over)",
            flush=True,
        )
    clock = Clock(keeper)
    for step in range(first, steps):
        yield step
        done = step + 1
        if done == keeper.limit:
            keeper.clear()
            distributed.barrier()
            raise Stopped(f"{title}: a trial of {done} of {steps} steps", code=0)
        votes = (
            signal.SIGINT in signals.seen,
            signal.SIGTERM in signals.seen,
            clock.is_over(),
            clock.is_due(done),
        )
        interrupted, ended, over, due = (
            number > 0 for number in distributed.add_numbers(list(map(float, votes)))
        )
        stop = (interrupted or ended or over) and done < steps
        if due or stop or done == steps:
            clock.save(title, done, parts, must=stop or keeper.hand_over)
        if stop:
            distributed.barrier()  # nobody leaves before the first process has saved
            message = (
                f"{title}: stopped after step {done} of {steps}, saved; the same run goes "
                "on from there"
            )
            if distributed.is_main() and not over:
                print(message, flush=True)
            raise (
                KeyboardInterrupt
                if interrupted
                else SystemExit(143)
                if ended
                else Stopped(message, OUT_OF_TIME)
            )
    if keeper.hand_over:
        distributed.barrier()
        raise Stopped(f"{title}: all {steps} steps are taken and saved", code=0)


class Clock:
    """When a run must save, and when its session is over."""

    def __init__(self, keeper: Keeper):
        self.keeper = keeper
        self.saved = self.before = (
            time.perf_counter()
        )  # the last snapshot, the end of the last step
        self.longest_step = self.longest_save = 0.0  # seconds

    def is_over(self) -> bool:
        """Whether another step and a snapshot might not fit before the deadline. To be asked once a
        step.
        """
        now = time.perf_counter()
        self.longest_step, self.before = max(self.longest_step, now - self.before), now
        deadline = self.keeper.deadline
        return (
            deadline is not None
            and now + 2 * (self.longest_step + self.longest_save) + 1 > deadline
        )

    def is_due(self, step: int) -> bool:
        """Whether it is time for a snapshot. The first process's clock counts."""
        every = self.keeper.every_steps
        late = time.perf_counter() - self.saved > self.keeper.every
        return distributed.is_main() and (late or bool(every and step % every == 0))

    def save(self, title: str, step: int, parts: dict[str, Any], must: bool) -> None:
        """Write a snapshot. If that fails the run goes on, unless it `must` be saved as it stops
        now.
        """
        start = time.perf_counter()
        try:
            self.keeper.save(step, parts)
        except OSError as error:
            if must:
                raise
            print(f"{title}: {error}; the run goes on, and older snapshots are kept", flush=True)
        self.saved = self.before = time.perf_counter()
        self.longest_save = max(self.longest_save, self.saved - start)


@contextmanager
def resumable(
    title: str, steps: int, keeper: Keeper | None, parts: dict[str, Any]
) -> Iterator[Iterator[int]]:
    """Gives the numbers of the steps that are left. Without a keeper all of them, and nothing is
    saved.
    """
    if keeper is None:
        yield iter(range(steps))
        return
    keeper = replace(
        keeper, settings={**keeper.settings, "run": title, "steps": steps}
    )  # other rows: other steps
    with Signals() as signals:
        yield remaining_steps(title, steps, keeper, parts, signals)
