"""Snapshots: training that can be stopped, or killed, at any moment and resumed exactly.

A snapshot holds everything that the next step depends on: weights, optimisers, scaler, history and
random generators. Which rows a step reads is a function of the seed and the step, so of the data
only the step number is saved. On a CPU a resumed run has exactly the losses of an undisturbed one.
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

VERSION = 2  # of the content of a snapshot
KEPT = 2  # snapshots: the last one, and the one before in case the last is damaged


class ResumeError(RuntimeError):
    """A snapshot that this run can't resume from."""


class Stopped(Exception):
    """A run that ended early on request. `code` is the exit code of its command."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Keeper:
    """Where one training run writes its log and its snapshots, and how often."""

    log: Path  # a JSON line per step
    folder: Path  # of the snapshots
    settings: dict = field(default_factory=dict)  # a run resumes only with the same ones
    every: float = 600.0  # seconds between snapshots
    every_steps: int = 0  # steps between snapshots; 0: by time only
    deadline: float | None = None  # the end of the session, by `time.perf_counter()`
    limit: int = 0  # a trial of so many steps; 0: none
    hand_over: bool = False  # stop after the last step, with a snapshot for another run to resume

    def named(self, name: str) -> "Keeper":
        """The keeper of another run in the same stage, such as the second judge's."""
        log, folder = self.log.with_name(f"{name}.jsonl"), self.folder.with_name(name)
        return replace(self, log=log, folder=folder, hand_over=False)

    def place(self, step: int) -> Path:
        """The folder of the snapshot after `step` steps."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The step numbers of the snapshots on disk, in order."""
        numbers = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def save(self, step: int, parts: dict[str, Any]) -> None:
        """Write a snapshot and delete all but the last two. Every process must call it.

        Raises OSError, with older snapshots untouched, when it can't be written.
        """
        device = distributed.device()
        random = {
            name: distributed.gather_rows(row[None].to(device)).cpu()
            for name, row in random_state().items()
        }
        if not distributed.is_main():
            return
        state = {"version": VERSION, "step": step, "settings": self.settings, "random": random}
        state["parts"] = {name: state_of(part) for name, part in parts.items()}
        write_state(self.place(step), state)
        for old in self.steps()[:-KEPT]:
            discard(self.place(old))

    def newest(self) -> dict | None:
        """The newest intact snapshot, or None. A damaged one is skipped with a printed line."""
        for step in reversed(self.steps()):
            try:
                return read_state(self.place(step))
            except DamagedState as error:
                print(f"{error}; taking the snapshot before it")
        return None

    def load(self, parts: dict[str, Any]) -> int:
        """Restore the parts from the newest snapshot; returns its step, 0 without a snapshot.

        Raises ResumeError for a snapshot of other settings or another version.
        """
        state = distributed.furthest(self.newest(), lambda state: state["step"])
        if state is None:
            return 0
        self.check(state)
        for name, part in parts.items():
            set_state_of(part, state["parts"][name])
        random, rank = state["random"], distributed.rank()
        row = rank if rank < len(random["cpu"]) else 0  # there were fewer processes
        # clone: torch ignores the offset of a view, and would crash
        set_random_state({name: rows[row].cpu().clone() for name, rows in random.items()})
        return state["step"]

    def check(self, state: dict) -> None:
        """Raise ResumeError, naming what differs, if a snapshot is of another run."""
        remedy = (
            f"delete {self.folder} or give --no-resume to start over, or choose another run "
            "folder (RLHF_OUT)"
        )
        if state["version"] != VERSION:
            raise ResumeError(
                f"{self.folder} was saved by version {state['version']} of snapshots, this is "
                f"{VERSION}: use the version of the course that saved it; or {remedy}"
            )
        old, new = state["settings"], self.settings
        differ = ", ".join(
            f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        )
        if differ:
            raise ResumeError(
                f"{self.folder} was saved by a run with other settings ({differ}): {remedy}"
            )

    def clear(self) -> None:
        """Delete the snapshots."""
        if distributed.is_main():
            discard(self.folder)


def state_of(part: Any) -> Any:
    """The state of a model, an optimiser, a history or a random generator."""
    return part.get_state() if isinstance(part, torch.Generator) else part.state_dict()


def set_state_of(part: Any, state: Any) -> None:
    """Restore what `state_of` gave."""
    part.set_state(state) if isinstance(part, torch.Generator) else part.load_state_dict(state)


class Signals:
    """Notes Ctrl-C and SIGTERM, so that the running step can end and be saved; a second Ctrl-C
    interrupts at once.
    """

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        # Python allows handlers in the main thread only
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.old[number] = signal.signal(number, self.note)
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
    """The steps after the newest snapshot; saves the parts on the way.

    Ends early, saved, with KeyboardInterrupt, SystemExit or Stopped, in all processes after the
    same step.
    """
    first, is_main = keeper.load(parts), distributed.is_main()
    if first and is_main:
        print(
            f"{title}: going on after step {first} of {steps} (--no-resume starts over)", flush=True
        )
    clock = Clock(keeper)
    for done in range(first + 1, steps + 1):
        yield done - 1
        if done == keeper.limit:
            keeper.clear()
            distributed.barrier()
            raise Stopped(f"{title}: a trial of {done} of {steps} steps", code=0)
        sigint, sigterm = signal.SIGINT in signals.seen, signal.SIGTERM in signals.seen
        votes = [float(vote) for vote in (sigint, sigterm, clock.is_over(), clock.is_due(done))]
        sigint, sigterm, over, due = (votes > 0 for votes in distributed.add_numbers(votes))
        stop = (sigint or sigterm or over) and done < steps
        if due or stop or done == steps:
            clock.save(title, done, parts, must=stop or keeper.hand_over)
        if stop:
            distributed.barrier()  # no process leaves before the first one has saved
            message = (
                f"{title}: stopped after step {done} of {steps}, saved; the same run goes on from "
                "there"
            )
            if is_main and not over:
                print(message, flush=True)
            if sigint:
                raise KeyboardInterrupt
            raise SystemExit(143) if sigterm else Stopped(message, OUT_OF_TIME)
    if keeper.hand_over:
        distributed.barrier()
        raise Stopped(f"{title}: all {steps} steps are taken and saved", code=0)


class Clock:
    """When a run must save, and when its session is over."""

    def __init__(self, keeper: Keeper):
        self.keeper = keeper
        self.last_save = self.last_step = time.perf_counter()
        self.longest_step = self.longest_save = 0.0  # seconds

    def is_over(self) -> bool:
        """Whether another step and a snapshot might miss the deadline; to be called once a step."""
        now, deadline = time.perf_counter(), self.keeper.deadline
        self.longest_step = max(self.longest_step, now - self.last_step)
        self.last_step = now
        margin = 2 * (self.longest_step + self.longest_save) + 1
        return deadline is not None and now + margin > deadline

    def is_due(self, step: int) -> bool:
        """Whether it is time for a snapshot, by the clock of the first process."""
        every = self.keeper.every_steps
        late = time.perf_counter() - self.last_save > self.keeper.every
        return distributed.is_main() and (late or bool(every and step % every == 0))

    def save(self, title: str, step: int, parts: dict[str, Any], must: bool) -> None:
        """Write a snapshot. If that fails, training goes on unless `must`: it is about to stop."""
        start = time.perf_counter()
        try:
            self.keeper.save(step, parts)
        except OSError as error:
            if must:
                raise
            print(f"{title}: {error}; the run goes on, and older snapshots are kept", flush=True)
        self.last_save = self.last_step = time.perf_counter()
        self.longest_save = max(self.longest_save, self.last_save - start)


@contextmanager
def resumable(
    title: str, steps: int, keeper: Keeper | None, parts: dict[str, Any]
) -> Iterator[Iterator[int]]:
    """For `with`: gives the step numbers that are left. Without a keeper it gives all of them, and
    nothing is saved.
    """
    if keeper is None:
        yield iter(range(steps))
        return
    settings = {**keeper.settings, "run": title, "steps": steps}  # other rows mean other steps
    with Signals() as signals:
        yield remaining_steps(title, steps, replace(keeper, settings=settings), parts, signals)
