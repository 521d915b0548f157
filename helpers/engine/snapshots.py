"""Snapshots: training that can be stopped, or killed, at any moment and resumed exactly.

A snapshot holds everything that the next step depends on: weights, optimisers, scaler, history and
random generators. Which rows a step reads is a function of the seed and the step, so of the data
only the step number is saved. On a CPU a resumed run has exactly the losses of an undisturbed one:
it also takes the number of threads, unless that was chosen.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from helpers.engine import distributed
from helpers.engine.files import OUT_OF_TIME, discard, only_writer, tell
from helpers.engine.room import check_room
from helpers.engine.state import (
    DamagedState,
    random_state,
    read_state,
    set_random_state,
    write_state,
)

VERSION = 2  # of the content of a snapshot


class ResumeError(RuntimeError):
    """A snapshot that this run can't resume from."""


class Stopped(Exception):
    """A run that ended early on request. `code` is the exit code of its command."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Snapshots:
    """Where one training run writes its log and its snapshots, and how often."""

    log: Path  # a JSON line per step
    folder: Path  # of the snapshots
    settings: dict = field(default_factory=dict)  # a run resumes only with the same ones
    every: float = 600.0  # seconds between snapshots
    every_steps: int = 0  # steps between snapshots; 0: by time only
    deadline: float | None = None  # the end of the session, by `time.perf_counter()`
    limit: int = 0  # a trial of so many steps; 0: none
    hand_over: bool = False  # stop after the last step, with a snapshot for another run to resume
    run_folder: Path | None = None  # in which no other process may write meanwhile
    own_threads: bool = False  # keep this process's number of threads when a run is resumed

    def path(self, step: int) -> Path:
        """The folder of the snapshot after `step` steps."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The step numbers of the snapshots on disk, in order."""
        numbers = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def save(self, step: int, objects: dict[str, Any]) -> None:
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
        state["threads"] = torch.get_num_threads()
        state["parts"] = {name: state_of(item) for name, item in objects.items()}
        try:
            write_state(self.path(step), state)
        except OSError:  # the disk may be full: write in the place of the older of two
            older = [number for number in self.steps() if number != step]
            if len(older) < 2:
                raise
            discard(self.path(older[0]))
            write_state(self.path(step), state)
        for old in self.steps()[:-2]:  # the last might be damaged
            discard(self.path(old))

    def newest(self) -> dict | None:
        """The newest intact snapshot, or None. A damaged one is deleted, with a printed line: its
        number would make it outlive those that are written from now on.
        """
        for step in reversed(self.steps()):
            try:
                return read_state(self.path(step))
            except DamagedState as error:
                tell(f"{error}; taking the snapshot before it, and deleting this one")
                if distributed.is_main():
                    discard(self.path(step))
        return None

    def load(self, objects: dict[str, Any]) -> int:
        """Restore the objects from the newest snapshot; returns its step, 0 without a snapshot.

        Raises ResumeError for a snapshot of other settings or another version.
        """
        state = distributed.furthest(self.newest(), lambda state: state["step"])
        if state is None:
            return 0
        self.check(state)
        for name, item in objects.items():
            set_state_of(item, state["parts"][name])
        if not self.own_threads and distributed.world() == 1:  # sums depend on them
            torch.set_num_threads(state.get("threads", torch.get_num_threads()))
        random, rank = state["random"], distributed.rank()
        row = rank if rank < len(random["cpu"]) else 0  # it was saved by fewer processes
        # clone: torch ignores the offset of a view, and would crash
        set_random_state({name: rows[row].cpu().clone() for name, rows in random.items()})
        return state["step"]

    def check(self, state: dict) -> None:
        """Raise ResumeError, naming what differs, if a snapshot is of another run."""
        old = {**state["settings"], "snapshot version": state["version"]}
        new = {**self.settings, "snapshot version": VERSION}
        differences = ", ".join(
            f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        )
        if differences:
            raise ResumeError(
                f"{self.folder} was saved by a run with other settings ({differences}): delete it "
                "or give --no-resume to start over, or choose another run folder (RLHF_OUT)"
            )

    def clear(self) -> None:
        """Delete the snapshots."""
        if distributed.is_main():
            discard(self.folder)


def discard_older(folder: Path) -> None:
    """Delete all but the last snapshot of each run in a stage's folder of snapshots."""
    for run in folder.glob("*"):
        snapshots = Snapshots(run, run)
        for step in snapshots.steps()[:-1]:
            discard(snapshots.path(step))


def state_of(item: Any) -> Any:
    """The state of a model, an optimiser, a history or a random generator."""
    return item.get_state() if isinstance(item, torch.Generator) else item.state_dict()


def set_state_of(item: Any, state: Any) -> None:
    """Restore what `state_of` returned."""
    if getattr(item, "scaler", None) and not state["scaler"]:  # saved in a format that has no scale
        state = {**state, "scaler": item.scaler.state_dict()}
    item.set_state(state) if isinstance(item, torch.Generator) else item.load_state_dict(state)


class Signals:
    """Notes Ctrl-C, SIGTERM and a closed terminal, so that the step can end and be saved; Ctrl-C
    twice interrupts.
    """

    NOTED = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))

    def __init__(self) -> None:
        self.received: set[int] = set()
        self.old_handlers: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        # Python allows handlers in the main thread only
        if threading.current_thread() is threading.main_thread():
            for number in dict.fromkeys(self.NOTED):
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores the terminal's end
                    self.old_handlers[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and number in self.received:
            raise KeyboardInterrupt
        self.received.add(number)
        tell("stopping after this step, then saving (Ctrl-C once more: at once)")


class SaveSchedule:
    """When a run must save, and when its session is over."""

    def __init__(self, snapshots: Snapshots):
        self.snapshots = snapshots
        self.last_save = self.last_step = time.perf_counter()
        self.longest_step = self.longest_save = 0.0  # seconds

    def is_over(self) -> bool:
        """Whether another step and a snapshot might miss the deadline; to be called once a step."""
        now, deadline = time.perf_counter(), self.snapshots.deadline
        self.longest_step = max(self.longest_step, now - self.last_step)
        self.last_step = now
        margin = 2 * (self.longest_step + self.longest_save) + 1
        return deadline is not None and now + margin > deadline

    def is_due(self, step: int) -> bool:
        """Whether it is time for a snapshot, by the clock of the first process."""
        every = self.snapshots.every_steps
        late = time.perf_counter() - self.last_save > self.snapshots.every
        return distributed.is_main() and (late or bool(every and step % every == 0))

    def save(self, title: str, step: int, objects: dict[str, Any], must: bool) -> None:
        """Write a snapshot. If that fails, training continues, unless it is about to stop."""
        start = time.perf_counter()
        try:
            self.snapshots.save(step, objects)
        except OSError as error:
            if must:
                raise
            tell(f"{title}: {error}; the run goes on, and older snapshots are kept")
        self.last_save = self.last_step = time.perf_counter()
        self.longest_save = max(self.longest_save, self.last_save - start)


def remaining_steps(
    title: str, steps: int, snapshots: Snapshots, objects: dict[str, Any], signals: Signals
) -> Iterator[int]:
    """The steps after the newest snapshot; saves the objects on the way.

    Ends early, saved, with KeyboardInterrupt, SystemExit or Stopped, in all processes after the
    same step.
    """
    first, is_main = snapshots.load(objects), distributed.is_main()
    if first and is_main:
        tell(f"{title}: going on after step {first} of {steps} (--no-resume starts over)")
    schedule = SaveSchedule(snapshots)
    for done in range(first + 1, steps + 1):
        yield done - 1
        if done == snapshots.limit:
            snapshots.clear()
            distributed.barrier()
            raise Stopped(f"{title}: a trial of {done} of {steps} steps", code=0)
        votes = [number in signals.received for number in signals.NOTED]
        votes += [schedule.is_over(), schedule.is_due(done)]
        sums = distributed.add_numbers([float(vote) for vote in votes])
        *received, over, due = (votes > 0 for votes in sums)
        stop = (any(received) or over) and done < steps
        if due or stop or done == steps:
            schedule.save(title, done, objects, must=stop or snapshots.hand_over)
        if stop:
            distributed.barrier()  # no process leaves before the first one has saved
            where = f"stopped after step {done} of {steps}, saved"
            message = f"{title}: {where}; the same run goes on from there"
            if is_main and any(received):
                tell(message)
            for number, came in zip(signals.NOTED, received, strict=True):
                if came:
                    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
            raise Stopped(message, OUT_OF_TIME)
    if snapshots.hand_over:
        distributed.barrier()
        raise Stopped(f"{title}: all {steps} steps are taken and saved", code=0)


@contextmanager
def resumable(
    title: str, steps: int, snapshots: Snapshots | None, objects: dict[str, Any]
) -> Iterator[Iterator[int]]:
    """For `with`: the numbers of the steps that are left; without snapshots, of all steps.

    Raises NoRoom when the disk is too full for the run, FolderInUse when another process writes to
    its run folder.
    """
    if snapshots is None:
        yield iter(range(steps))
        return
    settings = {**snapshots.settings, "run": title, "steps": steps}  # other rows mean other steps
    snapshots = replace(snapshots, settings=settings)
    writes = distributed.is_main() and snapshots.run_folder
    with only_writer(snapshots.run_folder) if writes else nullcontext():
        if distributed.is_main() and not snapshots.limit:
            check_room(snapshots.folder, objects.values())
        with Signals() as signals:
            yield remaining_steps(title, steps, snapshots, objects, signals)
