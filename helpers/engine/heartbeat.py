"""A sign of life between machines: who vanishes without a word (a cable, the power) is noticed in
half a minute.

A process that dies closes its connections, and the others know at once. A machine that is gone
closes nothing, and they would wait for its gradients as long as they would for a slow one. So every
process counts up a number of its own in the store that all have reached each other by, and watches
the numbers of the others.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

EVERY = 3.0  # seconds between two signs of life
PATIENCE = 30.0  # seconds without one, after which a process counts as gone


class Heartbeat:
    """Counts up the number of process `rank` and notes when those of all `world` processes last
    changed.
    """

    def __init__(self, store, rank: int, world: int):
        self.store, self.rank = store, rank
        self.counts = [0] * world
        self.heard = [time.monotonic()] * world
        self.over = threading.Event()

    def beat(self) -> None:
        """Give signs of life until it is over; in a thread of its own, as a store that is gone may
        never answer.
        """
        try:
            while not self.over.wait(EVERY):
                self.store.add(f"alive/{self.rank}", 1)
                for other in range(len(self.counts)):
                    count = self.store.add(f"alive/{other}", 0)
                    if count != self.counts[other]:
                        self.counts[other], self.heard[other] = count, time.monotonic()
        except RuntimeError:
            pass  # the connection is lost: nobody is heard from now on

    def silent(self) -> tuple[int, float]:
        """The other process that has been silent for longest, and for how many seconds."""
        others = [other for other in range(len(self.heard)) if other != self.rank]
        longest = min(others, key=lambda other: self.heard[other])
        return longest, time.monotonic() - self.heard[longest]

    def watch(self) -> None:
        """End this process at once when another has been silent for too long."""
        while not self.over.wait(EVERY):
            other, seconds = self.silent()
            if seconds > PATIENCE:
                print(
                    f"process {other}, on another machine, has given no sign of life for "
                    f"{seconds:.0f} seconds",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)  # no finally, no barrier: nobody would answer


@contextmanager
def heartbeat() -> Iterator[None]:
    """For `with`, inside a process group: watch the processes of other machines. With one machine
    nothing happens.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world == int(os.environ.get("LOCAL_WORLD_SIZE", world)):
        yield
        return
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(
        address, port, is_master=False, timeout=timedelta(seconds=PATIENCE)
    )  # a connection of its own
    signs = Heartbeat(store, rank, world)
    for work in (signs.beat, signs.watch):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield
    finally:
        signs.over.set()
