"""Blind votes between two policies, written as rows that the course learns from.

The folder of a run's votes is laid out like a folder of local rows (data/README.md), so that
`RLHF_DATA_DIR=runs/NAME/votes` trains a reward model on them (docs/running.md).
"""

import json
import os
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from uuid import uuid4

from filelock import FileLock

from helpers.demo.answers import Answer
from helpers.records import Comparison
from helpers.rows.tracks import TRACKS


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, in random order."""

    prompt: str
    answers: tuple[Answer, Answer]  # A and B
    id: str = field(default_factory=lambda: uuid4().hex)


def blind(prompt: str, first: Answer, second: Answer) -> Pair | None:
    """Two answers without their order; None where there is nothing to choose between."""
    if first.text == second.text or not (first.text and second.text):
        return None
    answers = random.sample((first, second), 2)
    return Pair(prompt, tuple(answers))


def rows_of(track: str, vote: Comparison) -> dict[str, list[dict]]:
    """A vote as rows of the track's public data sets, {data set: rows}: its comparison, and its
    prompt with the chosen answer, from which the reward model's scores are normalised.
    """
    start, _, end = TRACKS[track].template.partition("{request}")
    request = vote.prompt.removeprefix(start).removesuffix(end)
    pair = {"prompt": vote.prompt, "chosen": vote.chosen, "rejected": vote.rejected}
    roles = TRACKS[track].roles
    comparisons, prompts = roles["comparisons"].data.name, roles["prompts"].data.name
    if track == "tldr":
        return {comparisons: [pair], prompts: [{"prompt": vote.prompt, "label": vote.chosen}]}
    if track == "sentiment":  # learns from labels, one text at a time
        texts = {vote.chosen: 1, vote.rejected: 0}
        return {comparisons: [{"sentence": f"{request} {t}", "label": n} for t, n in texts.items()]}
    if track == "assistant":
        demonstration = {"instruction": request, "output": vote.chosen}
        pair["prompt"] = f"\n\n{vote.prompt}"
        return {comparisons: [pair], prompts: [demonstration]}
    return {comparisons: [pair | {"prompt": request}]}


class Votes:
    """The votes of one run, in files that many users write at once."""

    def __init__(self, folder: Path, track: str):
        self.folder, self.track = folder, track
        self.lock, self.counted = Lock(), set()

    @property
    def log(self) -> Path:
        """Every vote as a comparison, with the two policies."""
        return self.folder / "votes.jsonl"

    def cast(self, pair: Pair, choice: int) -> bool:
        """Count a vote for answer 0 or 1 of a pair; False if the pair has been voted on. Raises
        OSError where it can't be written.
        """
        chosen, rejected = pair.answers[choice], pair.answers[1 - choice]
        vote = Comparison(pair.prompt, chosen.text, rejected.text)
        names = {"chosen_by": chosen.policy, "rejected_by": rejected.policy}
        record = {name: getattr(vote, name) for name in ("prompt", "chosen", "rejected")}
        with self.lock:
            if pair.id in self.counted:
                return False
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):  # other processes may vote in the same run
                for name, rows in rows_of(self.track, vote).items():
                    append(self.folder / name / "train-votes.jsonl", rows)
                append(self.log, [record | names])
            self.counted.add(pair.id)
        return True

    def tally(self) -> Counter:
        """How often each policy was chosen over which other: {(chosen, rejected): votes}. A line
        that is no vote, as a full disk may leave it, is not counted.
        """
        with self.lock:
            lines = self.log.read_bytes().splitlines() if self.log.exists() else []
        counts: Counter = Counter()
        for line in lines:
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                vote = json.loads(line)
                counts[str(vote["chosen_by"]), str(vote["rejected_by"])] += 1
        return counts


def append(path: Path, rows: list[dict]) -> None:
    """Add rows to a JSONL file, in one write, behind whole lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read() == b"\n" else "\n" + lines
        file.write(lines.encode("utf-8", "replace"))
