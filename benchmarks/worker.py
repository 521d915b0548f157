"""The other end of `rounds.Worker`: prepares a piece of work, and does it once for every line that
it is sent.

    python -m benchmarks.worker MODULE:FUNCTION JSON-OF-ITS-ARGUMENTS

The function returns the work, a function without arguments. A trainer that can't be taken step by
step is given the `Turns` instead, as the argument `turns`, and runs to its end, waiting at each
step. Answers go to standard output, a JSON line a turn: CPU and wall seconds, and the most memory
so far. What the work prints goes to standard error.
"""

import contextlib
import importlib
import inspect
import json
import os
import resource
import sys
import time

from torch import set_num_threads


def resident() -> int:
    """The most megabytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Turns:
    """One turn after the other, for as long as the parent asks."""

    def __init__(self, answers):
        self.answers, self.before = answers, resident()

    def start(self) -> None:
        """Wait to be asked; ends the process when nobody will."""
        if not sys.stdin.readline():
            os._exit(0)  # at once, from wherever a trainer called
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def finish(self) -> None:
        """Answer with what the turn took."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        print(
            json.dumps({"cpu": cpu, "wall": wall, "megabytes": resident() - self.before}),
            file=self.answers,
        )
        self.answers.flush()


def main(way: str, arguments: dict) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    module, _, name = way.partition(":")
    prepare = getattr(importlib.import_module(module), name)
    turns = Turns(answers)
    if "turns" in inspect.signature(prepare).parameters:
        prepare(turns=turns, **arguments)
        return
    work = prepare(**arguments)
    while True:
        turns.start()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            work()
        turns.finish()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
