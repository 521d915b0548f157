"""Token shards on disk: the manifest that describes them, and batches in an order that (seed, step)
alone decides.

A folder that `python -m helpers.rows.build_shards` has made. A shard is a file of uint16 tokens,
little-endian, without a header, that is mapped into memory, not read: only the pages that a batch
touches are loaded. Shapes: B rows, T tokens.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from helpers.engine.files import write_json
from helpers.run.checkpoints import sha256

if TYPE_CHECKING:  # only to name it
    from helpers.tokenizer import Tokenizer

MANIFEST, VERSION = "manifest.json", 1
TOKEN_BYTES = 2  # uint16
ROUNDS = 4  # of the Feistel network: from 4 on it looks random to whoever does not know the key


class ShardError(RuntimeError):
    """Shards that are missing, damaged, or made for something else: one line with the file and what
    to do.
    """


@dataclass(frozen=True)
class Shard:
    """One file of tokens, and where in the stream of documents it stops."""

    file: str
    tokens: int
    sha256: str
    # of the stream that were begun up to the end of this shard, those of earlier shards included
    documents: int
    left: int  # tokens of the last of them that the next shard begins with

    def fault(self, folder: Path, checksum: bool = True) -> str | None:
        """What is wrong with the file, or None. checksum: read it whole; else only its length is
        looked at.
        """
        path = folder / self.file
        if not path.is_file():
            return "is missing"
        size, expected = path.stat().st_size, self.tokens * TOKEN_BYTES
        if size != expected:
            return f"has {size:,} bytes instead of {expected:,}"
        return (
            "has changed since it was made (checksum mismatch)"
            if checksum and sha256(path) != self.sha256
            else None
        )


@dataclass(frozen=True)
class Manifest:
    """What lies in a folder of shards and what it was made from (tokenizer, rows, revision, seed,
    sizes).
    """

    made_from: dict
    heldout: Shard | None = None
    shards: tuple[Shard, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens to train on."""
        return sum(shard.tokens for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Write manifest.json, so that a reader sees the old one or the new one."""
        documents = self.shards[-1].documents if self.shards else 0
        counts = {"version": VERSION, "tokens": self.tokens, "documents": documents}
        write_json(folder / MANIFEST, counts | asdict(self))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises ShardError when there is none, or none that this version can
    read.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["version"] > VERSION:
            raise ShardError(
                f"{folder} was made by a newer version of the course: update it, or take another "
                "folder"
            )
        heldout = Shard(**content["heldout"]) if content["heldout"] else None
        return Manifest(
            content["made_from"], heldout, tuple(Shard(**shard) for shard in content["shards"])
        )
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(
            f"no shards in {folder}: `python -m helpers.rows.build_shards --out {folder}` makes "
            "them"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ShardError(
            f"{folder / MANIFEST} is damaged ({why}): delete it and make the shards again"
        ) from None


def named(setting: object) -> str:
    """What shards were made with, in a message: a tokenizer by its name and the first digits of its
    fingerprint.
    """
    return (
        f"{setting['name']!r} ({setting['fingerprint'][:8]})"
        if isinstance(setting, dict)
        else repr(setting)
    )


def permuted(index: int, size: int, key: str) -> int:
    """Where a random permutation of range(size), one for each key, puts `index`; nothing of its
    length is ever stored.

    A Feistel network (Luby and Rackoff 1988) on numbers of 2 x `half` bits: whatever the hash
    gives, a round can be undone, so no two numbers meet. What falls outside of range(size) is put
    in again until it falls inside.
    """
    half = max(1, -(-(size - 1).bit_length() // 2))
    while True:
        left, right = divmod(index, 1 << half)
        for turn in range(ROUNDS):
            word = hashlib.blake2b(f"{key}/{turn}/{right}".encode(), digest_size=8).digest()
            left, right = right, left ^ int.from_bytes(word, "big") % (1 << half)
        index = (left << half) + right
        if index < size:
            return index


class ShardSet:
    """The tokens of a folder of shards as rows for training and for measuring.

    A row of T = `context` tokens is a window of one shard. It starts with the last token of the
    window before, so that in an epoch every token (but the first of a shard and the few that fill
    no window at its end) is guessed once.
    """

    def __init__(
        self, folder: str | Path, tokenizer: "Tokenizer | None" = None, checksums: bool = True
    ):
        """Raises ShardError for a folder without shards, another tokenizer, and a shard that has
        changed.

        checksums=False looks at lengths only: for all but the first of several processes.
        """
        self.folder = Path(folder).expanduser()
        self.manifest = read_manifest(self.folder)
        made_with = self.manifest.made_from["tokenizer"]
        if tokenizer is not None and made_with["fingerprint"] != tokenizer.fingerprint:
            mine = named({"name": tokenizer.name, "fingerprint": tokenizer.fingerprint})
            raise ShardError(
                f"{folder} was made with tokenizer {named(made_with)}, but this run uses {mine}"
            )
        if self.manifest.heldout is None or not self.manifest.shards:
            raise ShardError(
                f"{folder} is not complete: run `python -m helpers.rows.build_shards` with the "
                "same options again"
            )
        for shard in (self.manifest.heldout, *self.manifest.shards):
            fault = shard.fault(self.folder, checksums)
            if fault:
                raise ShardError(
                    f"{self.folder / shard.file} {fault}: run `python -m "
                    "helpers.rows.build_shards` again"
                )

    @cached_property
    def mapped(self) -> list[Tensor]:
        """The shards to train on, uint16, as memory that the system loads when it is read."""
        return [self._map(shard) for shard in self.manifest.shards]

    def _map(self, shard: Shard) -> Tensor:
        return torch.from_file(str(self.folder / shard.file), size=shard.tokens, dtype=torch.uint16)

    @property
    def tokens(self) -> int:
        """Tokens to train on."""
        return self.manifest.tokens

    @property
    def fingerprint(self) -> str:
        """A checksum of all that can be trained on."""
        return hashlib.sha256(
            "".join(shard.sha256 for shard in self.manifest.shards).encode()
        ).hexdigest()

    def windows(self, context: int) -> int:
        """How many rows of `context` tokens an epoch has. Raises ShardError where not one fits."""
        if context < 2:
            raise ValueError(
                f"context must be at least 2 tokens, one to read and one to guess, not {context}"
            )
        number = sum(fitting(shard.tokens, context) for shard in self.manifest.shards)
        if not number:
            raise ShardError(
                f"{self.folder} has {self.tokens:,} tokens: too few for one row of {context}"
            )
        return number

    def window(self, number: int, context: int) -> Tensor:
        """Row `number` of range(windows(context)), in the order of the files: int64, (T,)."""
        before = 0  # rows of earlier shards
        for shard in self.mapped:
            start = (number - before) * (context - 1)
            before += fitting(len(shard), context)
            if number < before:
                return shard[start : start + context].long()
        raise IndexError(f"the shards have no row {number} of {context} tokens")

    def batch(
        self, step: int, batch_size: int, context: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> tuple[Tensor, Tensor]:
        """ids and mask (B, T) of a step, counted from 0: the same on any machine, after any
        restart.

        The windows come in a new random order every epoch; a batch may end one epoch and begin the
        next. Of `world` processes, `rank` gets rows rank, rank + world, ... of the batch, as
        `helpers.engine.distributed.own_rows` says.
        """
        if not 0 <= rank < world <= batch_size:
            raise ValueError(f"a batch of {batch_size} rows has none for process {rank} of {world}")
        windows, rows = self.windows(context), []
        for i in range(rank, batch_size, world):
            epoch, index = divmod(step * batch_size + i, windows)
            rows.append(self.window(permuted(index, windows, f"{seed}/{epoch}"), context))
        ids = torch.stack(rows)
        return ids, torch.ones_like(ids, dtype=torch.bool)

    def heldout_rows(self, context: int, tokens: int | None = None) -> list[list[int]]:
        """The first `tokens` held-out tokens (None: all) as rows of at most `context`: the same
        ones every time.
        """
        shard = self._map(self.manifest.heldout)[:tokens].tolist()
        return [
            shard[start : start + context]
            for start in range(0, max(1, len(shard) - 1), context - 1)
        ]


def fitting(tokens: int, context: int) -> int:
    """How many windows of `context` tokens fit, each of which begins with the last token of the one
    before.
    """
    return max(0, (tokens - 1) // (context - 1))
