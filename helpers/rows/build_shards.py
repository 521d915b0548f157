"""Pretraining data at scale: documents as shards of tokens on disk.

    python -m helpers shards --out DIR --tokens 100M

Documents of the Hub (streamed, at a pinned revision), of a local folder or of an embedded world are
shuffled, tokenised and written as uint16, each followed by the end-of-text token. In DIR:

    manifest.json    token counts, checksums, and what the shards were made from
    tokenizer.json   the tokenizer
    heldout.bin      documents that no training step sees (the notebooks hold out the same ones)
    train-00000.bin  whole documents, about `shard_tokens` tokens a file

The same command resumes an interrupted run: it skips the documents that are in complete shards and
ends with the same files, bit for bit. A larger --tokens adds shards.
"""

import argparse
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from helpers.config import SOURCES
from helpers.engine.files import sha256, write_json
from helpers.engine.parser import Parser, output_folder, user_path
from helpers.rows.common import split_of, usable
from helpers.rows.embedded import load_rows, load_tokenizer
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.rows.load import READERS, Report, checked, find_role, splits_wanted
from helpers.rows.local import local_origin
from helpers.rows.shards import DTYPE, MANIFEST, VERSION, ShardError, fault, read_manifest
from helpers.rows.tracks import TRACKS, SourceError
from helpers.rows.vocabulary import read_tokenizer
from helpers.tokenizer import Tokenizer

BUFFER = 10_000  # documents of the shuffle buffer: about 50 MB of FineWeb-Edu
CHUNK = 256  # documents tokenised at a time
Settled = Callable[[str | None, Path | None], tuple[str, Path | None]]
UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def build(
    out: str | Path,
    tokens: int,
    tokenizer: Tokenizer,
    *,
    track: str = "tldr",
    source: str = "embedded",
    data_dir: Path | None = None,
    heldout_tokens: int = 10**6,
    shard_tokens: int = 10**7,
    seed: int = 0,
) -> Iterator[str]:
    """Write the shards that are missing for `tokens` training tokens; yields a line per file.

    source: "hub", "local" (the folder data_dir) or "embedded". Raises SourceError, and
    ShardError if the folder was made from something else, the documents have too few tokens, or
    the disk is full.
    """
    out, rows = Path(out).expanduser(), (track, source, data_dir)
    sizes = {"heldout_tokens": heldout_tokens, "shard_tokens": shard_tokens}
    check_sizes({"tokens": tokens, **sizes}, tokenizer)
    made_from = {**origin(*rows), **sizes, "seed": seed, "tokenizer": tokenizer.fingerprint}
    manifest, lines = open_folder(out, made_from)
    yield from lines
    present = count([*manifest["shards"], *filter(None, [manifest["heldout"]])])
    check_room(out, tokens + heldout_tokens - present)
    saved = out / "tokenizer.json"
    if not saved.is_file() or sha256(saved) != tokenizer.fingerprint:
        tokenizer.save(out)
    if not manifest["heldout"]:
        report = Report("heldout", source)
        texts = document_texts(*rows, "heldout", report)
        shard = write_shard(out / "heldout.bin", tokenised(texts, tokenizer), heldout_tokens)
        if shard["tokens"] < heldout_tokens:
            raise ShardError(
                f"the rows have only {shard['tokens']:,} tokens to hold out (a tenth of the "
                f"documents, or a split of their own), not {heldout_tokens:,}: ask for fewer with "
                "--heldout-tokens, or give more rows"
            )
        manifest["heldout"] = shard
        write_json(out / MANIFEST, manifest)
        yield f"{shard['file']}: {shard['tokens']:,} held-out tokens"
        yield from what_was_read(report)
    report = Report("train", source)
    texts = shuffled(document_texts(*rows, "train", report), seed)
    yield from write_train(out, manifest, texts, tokenizer, tokens)
    yield from what_was_read(report)
    if count(manifest["shards"]) < tokens:
        raise ShardError(
            f"the rows have only {count(manifest['shards']):,} tokens to train on, not {tokens:,}: "
            f"all of them are in {out} now and can be used"
        )


def write_train(
    out: Path, manifest: dict, texts: Iterator[str], tokenizer: Tokenizer, tokens: int
) -> Iterator[str]:
    """Add shards until there are `tokens` tokens, or no text is left; yields a line per file."""
    shards, shard_tokens = manifest["shards"], manifest["made_from"]["shard_tokens"]
    if count(shards) < tokens and shards and shards[-1]["tokens"] < shard_tokens:
        shards.pop()  # the short last shard of a smaller --tokens: made again, longer
    done = sum(shard["documents"] for shard in shards)
    documents = tokenised(islice(texts, done, None), tokenizer)
    while count(shards) < tokens:
        path = out / f"train-{len(shards):05d}.bin"
        shard = write_shard(path, documents, min(shard_tokens, tokens - count(shards)))
        if not shard["documents"]:
            path.unlink()
            break
        shards.append(shard)
        write_json(out / MANIFEST, manifest)
        yield f"{path.name}: {shard['tokens']:,} tokens, {count(shards):,} of {tokens:,}"


def what_was_read(report: Report) -> Iterator[str]:
    """A line with the rows' place and those that could not be used, by reason, if any were read."""
    if report.read:
        reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in report.left_out.items())
        yield f"{report.what} rows left out of {report.place}: {reasons or 'none'}"


def count(shards: list[dict]) -> int:
    """The tokens of several shards."""
    return sum(shard["tokens"] for shard in shards)


# ---------------------------------------------------------------- documents to tokens


def document_texts(
    track: str, source: str, data_dir: Path | None, split: str, report: Report
) -> Iterator[str]:
    """The texts of a split in the order of their source; the report counts unusable rows."""
    role = find_role(track, "documents", split, source)
    if source == "embedded":
        yield from (document.text for document in load_rows("documents", split, track))
        return
    rows, separate, report.place = READERS[source](role.data, split, data_dir)
    wanted = splits_wanted(role, "documents", split, separate)

    texts = usable(checked(rows, role.data), role.key, report)
    yield from (text for text in texts if split_of(text) in wanted)


def shuffled(texts: Iterable[str], seed: int, buffer: int = BUFFER) -> Iterator[str]:
    """The same texts in random order, each drawn from the next `buffer` of them."""
    texts, rng = iter(texts), random.Random(seed)
    waiting = list(islice(texts, buffer))
    for text in texts:
        i = rng.randrange(buffer)
        yield waiting[i]
        waiting[i] = text
    rng.shuffle(waiting)
    yield from waiting


def tokenised(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The tokens of each text, followed by the end-of-text token, on all cores."""
    texts = iter(texts)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # tiktoken works outside Python's lock
        while chunk := list(islice(texts, CHUNK)):
            for ids in threads.map(tokenizer.encode, chunk):
                yield np.array([*ids, tokenizer.eos_id], DTYPE)


def write_shard(path: Path, documents: Iterator[np.ndarray], tokens: int) -> dict:
    """Write documents until there are at least `tokens` tokens; returns the manifest's entry."""
    partial, written, number = path.with_name(path.name + ".partial"), 0, 0
    try:
        with open(partial, "wb") as file:
            while written < tokens and (ids := next(documents, None)) is not None:
                file.write(ids.tobytes())
                written, number = written + len(ids), number + 1
        os.replace(partial, path)
    except OSError as error:
        raise ShardError(
            f"{path} can't be written ({error.strerror}): complete shards stay; make room and give "
            "the same command again"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return {"file": path.name, "tokens": written, "documents": number, "sha256": sha256(path)}


# ---------------------------------------------------------------- the folder


def check_sizes(numbers: dict[str, int], tokenizer: Tokenizer) -> None:
    """Raise ShardError for a number below 1, or a vocabulary that uint16 can't hold."""
    for name, number in numbers.items():
        if number < 1:
            raise ShardError(f"{name} must be 1 or more, not {number}")
    limit = 2 ** (8 * DTYPE.itemsize)
    if tokenizer.vocab_size > limit:
        raise ShardError(f"a vocabulary of {tokenizer.vocab_size:,} exceeds 16 bits ({limit:,})")


def origin(track: str, source: str, data_dir: Path | None) -> dict:
    """Where the documents come from."""
    data = find_role(track, "documents", "train", source).data
    if source == "embedded":
        return {"source": source, "data": track}
    if source == "local":
        return {"source": source, **local_origin(data, data_dir)}
    hub = {"data": data.repository, "config": data.config, "revision": data.revision}
    return {"source": source, **hub}


def open_folder(out: Path, made_from: dict) -> tuple[dict, list[str]]:
    """The manifest of the shards that are there and intact, and lines that say so. Raises
    ShardError if they were made from something else.
    """
    if not (out / MANIFEST).exists():
        out.mkdir(parents=True, exist_ok=True)
        return {"version": VERSION, "made_from": made_from, "heldout": None, "shards": []}, []
    manifest, lines = read_manifest(out), []
    for name in made_from | manifest["made_from"]:
        old, new = manifest["made_from"].get(name), made_from.get(name)
        if old != new:
            advice = "give the same, or another folder"
            raise ShardError(f"{out} was made with {name} {old!r}, not {new!r}: {advice}")
    heldout, shards = manifest["heldout"], manifest["shards"]
    if heldout and (problem := fault(out, heldout)):
        lines.append(f"{heldout['file']} {problem}: it is made again")
        manifest["heldout"] = None
    for number, shard in enumerate(shards):
        if problem := fault(out, shard):
            lines.append(f"{shard['file']} {problem}: it is made again, and those after it")
            del shards[number:]
            break
    lines.append(f"{count(shards):,} tokens in {len(shards)} shards are already there and intact")
    return manifest, lines


def check_room(out: Path, tokens: int) -> None:
    """Raise ShardError now if the disk has no room for that many tokens."""
    needed, free = tokens * DTYPE.itemsize / 1e9, shutil.disk_usage(out).free / 1e9
    if needed > free:
        advice = "make room, or ask for fewer --tokens"
        raise ShardError(f"{out} needs {needed:.1f} GB, but the disk has {free:.1f} GB: {advice}")


# ---------------------------------------------------------------- the command line


def number_of(text: str) -> int:
    """A number of tokens: 250k, 1.5M, 10B, or plain. Raises ArgumentTypeError."""
    unit = text[-1:] if text[-1:] in UNITS else ""
    try:
        return round(float(text.removesuffix(unit)) * UNITS[unit])
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens, such as 1.5M") from None


def main(argv: Sequence[str] | None, settled: Settled) -> None:
    """`python -m helpers shards`; settled: the settings' source and folder, given the options'."""
    parser = Parser(
        prog="python -m helpers shards",
        description="Write documents as shards of tokens.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=user_path, required=True, help="the folder of the shards")
    add("--tokens", type=number_of, default="100M", help="training tokens, such as 1.5B")
    add("--heldout-tokens", type=number_of, default="1M", help="held-out tokens")
    add("--shard-tokens", type=number_of, default="10M", help="tokens per file")
    add("--source", choices=SOURCES, help="of the documents; None: RLHF_SOURCE's")
    add("--data-dir", type=user_path, help="a folder with rows; also selects the source local")
    add("--track", choices=TRACKS, default="tldr", help="whose documents")
    add(
        "--tokenizer",
        type=user_path,
        metavar="FILE",
        help="a tokenizer.json; None: the track's own or GPT-2's",
    )
    add("--seed", type=int, default=0, help="of the order of documents")
    args = vars(parser.parse_args(argv))
    args["source"], args["data_dir"] = settled(args["source"], args["data_dir"])
    try:
        if path := args.pop("tokenizer"):
            tokenizer = read_tokenizer(path)
        elif args["source"] == "embedded":
            tokenizer = load_tokenizer(args["track"])
        else:
            tokenizer = load_gpt2_tokenizer(args["data_dir"])
        output_folder(args["out"], "the folder", "--out")
        for line in build(args.pop("out"), args.pop("tokens"), tokenizer, **args):
            print(line, flush=True)
    except (ShardError, SourceError, OSError, ValueError) as error:
        sys.exit(f"shards: {error}")
