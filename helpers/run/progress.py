"""Progress of several notebooks, with the time that is left."""

import re
import shutil
import sys
import time
from collections.abc import Sequence

from helpers.run.notebook import Progress
from helpers.run.report import duration

# Seconds that each notebook takes on two CPU cores, on the default track's embedded world, and the
# fraction of that on the other tracks. Once the first notebook has run, only the ratios matter.
EXPECTED = {
    "smoke": {"pretrain": 70, "sft": 47, "reward": 75, "ppo": 75},
    "cpu": {"pretrain": 121, "sft": 123, "reward": 175, "ppo": 333},
}
FRACTION = {"tldr": 1.0, "sentiment": 0.42, "assistant": 0.64, "instruct": 0.64}
HEARTBEAT = 20  # seconds between progress lines where output is not a terminal


class Display:
    """One live line on a terminal; elsewhere a line every 20 seconds."""

    def __init__(self, preset: str, track: str, source: str, stages: Sequence[str]):
        # on real rows the time depends on their number
        self.known = preset in EXPECTED and source == "embedded"
        seconds = EXPECTED[preset] if self.known else {}
        self.expected = {stage: FRACTION[track] * seconds.get(stage, 60.0) for stage in stages}
        self.done: dict[str, float] = {}  # stage: seconds it took
        self.stage = ""
        self.terminal = sys.stdout.isatty()
        self.started = self.printed = 0.0  # when the notebook began, when the last line was printed

    def start(self, stage: str) -> None:
        self.stage = stage
        self.started = self.printed = time.perf_counter()

    def left(self, seconds: float, line: str = "", age: float = 0.0) -> float | None:
        """Seconds left once the running notebook has run for `seconds`; None while unknown. line:
        the last line it printed, in which a training loop says how long it still takes; age: how
        many seconds ago.
        """
        if not self.done and not self.known:
            return None
        speed = 1.0  # of this machine, from the notebooks that are done
        if self.done:
            speed = sum(self.done.values()) / sum(self.expected[stage] for stage in self.done)
        ahead = {s: speed * self.expected[s] for s in self.expected if s not in self.done}
        running = ahead.pop(self.stage, 0.0)
        rest = max(running - seconds, 0.0)
        if said := re.search(r"\[(\d+)s, (\d+)s left\]", line):
            rest = max(rest, abs(float(said[2]) - age))  # overdue: slower than it said
        late = max(1.0, seconds / running) if running else 1.0  # slower than expected: the rest too
        return rest + late * sum(ahead.values())

    def tick(self, progress: Progress) -> None:
        """Show where the running notebook is (called a few times per second)."""
        now = time.perf_counter()
        if now - self.printed < (0.5 if self.terminal else HEARTBEAT):
            return
        self.printed = now
        place = f"cell {progress.number}/{progress.total}  {duration(progress.seconds)}"
        left = self.left(progress.seconds, progress.line, now - progress.line_at)
        eta = "" if left is None else f"  ETA {duration(left)}"
        line = f"  | {progress.line}" if progress.line else ""
        self.show(f"{self.head(progress.notebook)} {place}{eta}{line}"[:160], live=True)

    def finish(self, notebook: str, cells: int) -> float:
        """Show that the running notebook is done; return the seconds it took."""
        seconds = self.done[self.stage] = time.perf_counter() - self.started
        self.stage = ""
        eta = f"  ETA {duration(self.left(0))}" if len(self.done) < len(self.expected) else ""
        self.show(f"{self.head(notebook)} done, {cells} cells in {duration(seconds)}{eta}")
        return seconds

    def head(self, notebook: str) -> str:
        place = len(self.done) + (1 if self.stage else 0)
        return f"[{place}/{len(self.expected)}] {notebook:<13}"

    def show(self, text: str, live: bool = False) -> None:
        if self.terminal:  # "\x1b[K" clears the rest of the line
            text = f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K"
        print(text, end="" if self.terminal and live else "\n", flush=True)
