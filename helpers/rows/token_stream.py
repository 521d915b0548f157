"""A stream of documents as tokens: read from a source, shuffled, tokenised by several threads,
never all in memory.
"""

import random
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.rows.common import Unusable, split_of
from helpers.rows.embedded import load_rows
from helpers.rows.load import READERS, Report, checked, find_role, splits_wanted
from helpers.tokenizer import Tokenizer

if TYPE_CHECKING:  # only to name it
    from helpers.rows.shards import Shard

BUFFER = 10_000  # documents among which the next one is drawn: about 50 MB of FineWeb-Edu
CHUNK = 32  # documents that a thread tokenises at a time
BLANKS = re.compile(r"\s{100000}")  # tiktoken gives up on a million in a row


def document_texts(
    track: str, source: str, split: str, report: Report, data_dir: Path | None = None
) -> Iterator[str]:
    """The texts of a split, in the order of their source; rows that are none are counted in the
    report.

    Nothing is remembered, so a text that the source repeats comes again. Raises SourceError.
    """
    role = find_role(track, "documents", split, source)
    if source == "embedded":
        yield from (document.text for document in load_rows("documents", split, track))
        return
    rows, apart, _ = READERS[source](role.data, split, data_dir)
    wanted = splits_wanted(role, "documents", split, apart)
    for row in checked(rows, role.data):
        try:
            if isinstance(row, Unusable):
                raise row
            text = role.key(row)
            if BLANKS.search(text):
                raise Unusable("100,000 blanks in a row")
        except Unusable as reason:
            report.left_out[str(reason)] += 1
            continue
        if split_of(text) in wanted:
            yield text


def shuffled(texts: Iterable[str], seed: int, buffer: int = BUFFER) -> Iterator[str]:
    """The same texts, each drawn at random from `buffer` of them: that is as far as one comes too
    early.
    """
    texts, draw = iter(texts), random.Random(seed)
    waiting = list(islice(texts, buffer))
    for text in texts:
        i = draw.randrange(buffer)
        yield waiting[i]
        waiting[i] = text
    draw.shuffle(waiting)
    yield from waiting


def tokenised(texts: Iterable[str], tokenizer: Tokenizer, threads: int) -> Iterator[np.ndarray]:
    """The tokens (uint16) of each text with the end of text behind them, in order.

    Threads are enough: tiktoken lets go of Python's lock while it works, and a run that is killed
    leaves none behind.
    """

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [
            np.array(tokenizer.encode(text) + [tokenizer.eos_id], dtype="<u2") for text in texts
        ]

    texts = iter(texts)
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        while chunk := list(islice(texts, CHUNK)):
            waiting.append(pool.submit(encode, chunk))
            if (
                len(waiting) > 2 * threads
            ):  # no more than these: a fast source must not fill the memory
                yield from waiting.pop(0).result()
        for future in waiting:
            yield from future.result()


class TokenStream:
    """Tokens of documents one after the other, from where a shard stopped; knows how far it has
    come.
    """

    def __init__(
        self, texts: Iterable[str], tokenizer: Tokenizer, threads: int, after: "Shard | None" = None
    ):
        """after: the last complete shard, whose documents are passed over."""
        self.documents, left = (after.documents, after.left) if after else (0, 0)
        texts = islice(texts, self.documents - bool(left), None)
        self.arrays = tokenised(texts, tokenizer, threads)
        self.rest = next(self.arrays)[-left:] if left else np.empty(0, "<u2")

    def read(self, most: int) -> np.ndarray:
        """The next tokens of one document, at most so many; none when the documents are at an
        end.
        """
        if not len(self.rest):
            self.rest = next(self.arrays, self.rest)
            self.documents += bool(len(self.rest))
        tokens, self.rest = self.rest[:most], self.rest[most:]
        return tokens
