"""Token shards for training: batches whose order depends on the seed and the step alone.

A shard of a folder from `python -m helpers shards` is a file of uint16 tokens without a header
(little-endian), read through numpy.memmap: only the pages that a batch touches are loaded.
Shapes: B rows, T tokens.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.engine.files import sha256
from helpers.tokenizer import Tokenizer

MANIFEST, VERSION = "manifest.json", 2
DTYPE = np.dtype("<u2")
BUILD = "python -m helpers shards"


class ShardError(RuntimeError):
    """Shards that are missing, damaged or made for something else: one line with what to do."""


def read_manifest(folder: Path) -> dict:
    """The manifest of a folder: what its shards were made from, and each one's file, tokens,
    documents and SHA-256. Raises ShardError when there is none that this version can read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["version"] != VERSION:
            raise ShardError(f"{folder} is from another version of the course: make it again")
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(f"no shards in {folder}: `{BUILD} --out {folder}` makes them") from None
    except (ValueError, KeyError, TypeError):
        advice = "delete it and make the shards again"
        raise ShardError(f"{folder / MANIFEST} is damaged: {advice}") from None


def fault(folder: Path, shard: dict, checksum: bool = True) -> str | None:
    """What is wrong with a shard's file, or None. checksum=False compares the length alone."""
    path = folder / shard["file"]
    if not path.is_file():
        return "is missing"
    size, expected = path.stat().st_size, shard["tokens"] * DTYPE.itemsize
    if size != expected:
        return f"has {size:,} bytes instead of {expected:,}"
    if checksum and sha256(path) != shard["sha256"]:
        return "has changed since it was made (checksum mismatch)"
    return None


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The random order of an epoch's rows."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


class ShardSet:
    """The tokens of a folder of shards as rows for training and evaluation.

    A row of T = `context` tokens is a window of one shard. It starts with the last token of the
    window before, so every token is predicted once per epoch (except the first of a shard and the
    remainder at its end).
    """

    def __init__(
        self, folder: str | Path, tokenizer: Tokenizer | None = None, checksums: bool = True
    ):
        """Raises ShardError for an incomplete folder, another tokenizer or a changed shard.

        checksums=False compares lengths only: for all but the first of several processes.
        """
        self.folder = Path(folder).expanduser()
        manifest = read_manifest(self.folder)
        made_with = manifest["made_from"]["tokenizer"]
        if tokenizer is not None and made_with != tokenizer.fingerprint:
            ours = f"{tokenizer.name!r} ({tokenizer.fingerprint[:8]})"
            theirs = f"another tokenizer ({made_with[:8]})"
            raise ShardError(f"{folder} was made with {theirs} than this run's {ours}")
        self.shards, self.heldout = manifest["shards"], manifest["heldout"]
        if not self.heldout or not self.shards:
            raise ShardError(f"{folder} is not complete: run `{BUILD}` with the same options again")
        for shard in (self.heldout, *self.shards):
            if problem := fault(self.folder, shard, checksums):
                raise ShardError(f"{self.folder / shard['file']} {problem}: run `{BUILD}` again")
        self.mapped = [self._map(shard) for shard in self.shards]
        self.tokens = sum(shard["tokens"] for shard in self.shards)
        checksums_text = "".join(shard["sha256"] for shard in self.shards)
        self.fingerprint = hashlib.sha256(checksums_text.encode()).hexdigest()

    def _map(self, shard: dict) -> np.ndarray:
        return np.memmap(self.folder / shard["file"], DTYPE, mode="r")

    def windows(self, context: int) -> int:
        """The number of rows of `context` tokens. Raises ShardError if not even one fits."""
        number = sum((len(shard) - 1) // (context - 1) for shard in self.mapped)
        if not number:
            size = f"{self.tokens:,} tokens"
            raise ShardError(f"{self.folder} has {size}: too few for one row of {context}")
        return number

    def window(self, number: int, context: int) -> Tensor:
        """Row `number` of range(windows(context)), in the order of the files: int64, (T,)."""
        for shard in self.mapped:
            windows = (len(shard) - 1) // (context - 1)
            if number < windows:
                start = number * (context - 1)
                return torch.from_numpy(shard[start : start + context].astype(np.int64))
            number -= windows
        raise IndexError(f"the shards have no such row of {context} tokens")

    def batch(
        self, step: int, batch_size: int, context: int, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """ids and mask (B, T) of a step, counted from 0: the same on any machine and after any
        restart. Every epoch has its own random order; a batch may end one and begin the next.
        """
        windows, rows = self.windows(context), []
        for i in range(step * batch_size, (step + 1) * batch_size):
            epoch, index = divmod(i, windows)
            rows.append(self.window(epoch_order(seed, epoch, windows)[index], context))
        ids = torch.stack(rows)
        return ids, torch.ones_like(ids, dtype=torch.bool)

    def heldout_rows(self, context: int, tokens: int | None = None) -> list[list[int]]:
        """The first `tokens` held-out tokens (None: all) as rows of at most `context`."""
        ids = self._map(self.heldout)[:tokens].tolist()
        starts = range(0, max(1, len(ids) - 1), context - 1)
        return [ids[start : start + context] for start in starts]
