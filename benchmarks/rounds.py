"""Several ways to do one piece of work, each in a process of its own, timed in turns.

On a shared machine a time says little and a ratio of times taken side by side says much. So the
ways take turns, round by round, and what is compared are medians. A process of its own gives each
way its own settings and its own memory high-water mark. CPU time, that of all threads of the
process, hardly depends on what else runs; wall time stands beside it.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def cpu_name() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


class Worker:
    """A process that repeats one piece of work whenever it is asked to: `benchmarks/worker.py` runs
    in it.

    way: "module:function", the function that prepares the work, and its arguments. threads: how
    many it may use.
    """

    def __init__(self, way: str, arguments: dict, threads: int = 1, python: str = sys.executable):
        command = [python, "-m", "benchmarks.worker", way, json.dumps(arguments)]
        limit = {
            "OMP_NUM_THREADS": str(threads),
            "RLHF_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        self.name = f"{way} {arguments}"
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | limit,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, word: str) -> dict:
        """Send a line, wait for the answer. Raises RuntimeError when the process has ended
        instead.
        """
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: nothing will be read below
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"{self.name} ended with exit status {self.process.wait()}; its error stands above"
            )
        return json.loads(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@dataclass(frozen=True)
class Times:
    """Seconds of one way, a number for each round, and the most memory its process held beyond what
    imports take.
    """

    cpu: list[float]
    wall: list[float]
    megabytes: int

    def __add__(self, other: "Times") -> "Times":
        return Times(
            self.cpu + other.cpu, self.wall + other.wall, max(self.megabytes, other.megabytes)
        )

    def speed(self, amount: float) -> float:
        """Amount of work, such as tokens, a second of wall time, at the median."""
        return round(amount / statistics.median(self.wall), 1)


def in_turns(workers: dict[str, Worker], rounds: int, warm: int = 1) -> dict[str, Times]:
    """The times of every way; the first `warm` rounds don't count. Ends the processes."""
    names, taken = list(workers), {name: [] for name in workers}
    try:
        for turn in range(warm + rounds):
            first = turn % len(names)  # each begins a round now and then
            for name in names[first:] + names[:first]:
                taken[name].append(workers[name].ask("go"))
    finally:
        for worker in workers.values():
            worker.close()
    found = {}
    for name, answers in taken.items():
        kept = answers[warm:]
        cpu, wall = [a["cpu"] for a in kept], [a["wall"] for a in kept]
        found[name] = Times(cpu, wall, max(a["megabytes"] for a in answers))
    return found


def ratio(theirs: Times, ours: Times) -> dict:
    """How many times as long theirs takes: ratio of the medians; smallest and largest ratio within
    a round.
    """
    found = {}
    for kind in ("cpu", "wall"):
        slow, fast = getattr(theirs, kind), getattr(ours, kind)
        each = [a / b for a, b in zip(slow, fast, strict=True)]
        found[kind] = round(statistics.median(slow) / statistics.median(fast), 2)
        found[f"{kind}_spread"] = [round(min(each), 2), round(max(each), 2)]
    return found
