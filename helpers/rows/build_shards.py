"""Pretraining data at scale: documents as shards of tokens on disk. `python -m
helpers.rows.build_shards --out DIR --tokens 100M`.

Documents of the Hub (streamed, at a pinned revision), of RLHF_DATA_DIR or of an embedded world are
shuffled, tokenised and written as uint16, each followed by the end of text:

    manifest.json     counts, checksums, the tokenizer, where the documents are from tokenizer.json
    the tokenizer itself heldout.bin       documents that no training step sees: those whose hash
    holds them out for the notebooks as well train-00000.bin   all shards have the same number of
    tokens, but the last may have fewer

A run that was interrupted goes on when the same command is given again: it reads past the documents
that are in complete shards without tokenising them, and ends with the same files, bit for bit. A
larger --tokens adds shards.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from helpers.config import SOURCES
from helpers.rows.embedded import load_tokenizer
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.rows.load import READERS, Report, find_role
from helpers.rows.shards import (
    MANIFEST,
    TOKEN_BYTES,
    Manifest,
    Shard,
    ShardError,
    named,
    read_manifest,
)
from helpers.rows.token_stream import BUFFER, TokenStream, document_texts, shuffled
from helpers.rows.tracks import TRACKS, SourceError
from helpers.run.checkpoints import sha256 as checksum
from helpers.tokenizer import Tokenizer

LARGEST = 2**16  # tokens of a vocabulary whose ids fit 16 bits
MULTIPLES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


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
    buffer: int = BUFFER,
    threads: int = 0,
) -> Iterator[str]:
    """Make what is missing of `tokens` tokens to train on, and of the held-out ones; yields a line
    on each file.

    source: "hub", "local" (the folder data_dir) or "embedded". threads: 0 for one a core.
    Raises SourceError, and ShardError: another tokenizer, source or seed than the folder's, too few
    tokens, no room.
    """
    out, threads = Path(out).expanduser(), threads or os.cpu_count() or 1
    sizes = {"heldout_tokens": heldout_tokens, "shard_tokens": shard_tokens, "buffer": buffer}
    for name, number in {"tokens": tokens, **sizes}.items():
        if number < 1:
            raise ShardError(f"{name} must be 1 or more, not {number}")
    manifest, lines = open_folder(
        out, origin(track, source, tokenizer, data_dir) | sizes | {"seed": seed}
    )
    yield from lines
    check_room(
        out,
        tokens
        + heldout_tokens
        - manifest.tokens
        - (manifest.heldout.tokens if manifest.heldout else 0),
    )
    if (
        not (out / "tokenizer.json").is_file()
        or checksum(out / "tokenizer.json") != tokenizer.fingerprint
    ):
        tokenizer.save(out)
    if manifest.heldout is None:
        texts = document_texts(track, source, "heldout", Report("heldout", source))
        shard = write_shard(
            out / "heldout.bin", TokenStream(texts, tokenizer, threads), heldout_tokens
        )
        check_heldout(shard, heldout_tokens)
        manifest = replace(manifest, heldout=shard)
        manifest.write(out)
        yield f"{shard.file}: {shard.tokens:,} tokens to measure with"
    report = Report("train", source)
    texts = shuffled(document_texts(track, source, "train", report, data_dir), seed, buffer)
    for grown in grow(out, manifest, tokens, texts, tokenizer, threads):
        manifest, shard = grown, grown.shards[-1]
        yield f"{shard.file}: {shard.tokens:,} tokens, {manifest.tokens:,} of {tokens:,}"
    if report.left_out:
        yield "rows left out: " + ", ".join(
            f"{rows:,} {reason}" for reason, rows in report.left_out.items()
        )
    if manifest.tokens < tokens:
        raise ShardError(
            f"the rows have only {manifest.tokens:,} tokens to train on, not {tokens:,}: all of "
            f"them are in {out} now "
            "and can be used"
        )


def grow(
    out: Path,
    manifest: Manifest,
    tokens: int,
    texts: Iterator[str],
    tokenizer: Tokenizer,
    threads: int,
) -> Iterator[Manifest]:
    """Add shards until there are `tokens` tokens or no more documents; yields the manifest after
    each.
    """
    size = manifest.made_from["shard_tokens"]
    if manifest.tokens >= tokens:
        return
    if (
        manifest.shards and manifest.shards[-1].tokens < size
    ):  # the last of a smaller --tokens: made again, longer
        manifest = replace(manifest, shards=manifest.shards[:-1])
    stream = TokenStream(
        texts, tokenizer, threads, manifest.shards[-1] if manifest.shards else None
    )
    while manifest.tokens < tokens:
        path = out / f"train-{len(manifest.shards):05d}.bin"
        shard = write_shard(path, stream, min(size, tokens - manifest.tokens))
        if shard is None:
            return
        manifest = replace(manifest, shards=(*manifest.shards, shard))
        manifest.write(out)
        yield manifest


def write_shard(path: Path, stream: TokenStream, tokens: int) -> Shard | None:
    """Write the next `tokens` tokens of a stream, or all that it still has (None: it has none).
    Raises ShardError.
    """
    partial, digest, written = path.with_name(path.name + ".partial"), sha256(), 0
    try:
        with open(partial, "wb") as file:
            while written < tokens and len(ids := stream.read(tokens - written)):
                content = ids.tobytes()
                file.write(content)
                digest.update(content)
                written += len(ids)
        if written:
            os.replace(partial, path)
    except OSError as error:  # the disk is full, most likely
        why = f"{path} can't be written ({error.strerror})"
        raise ShardError(
            f"{why}: complete shards stay; make room and give the same command again"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return (
        Shard(path.name, written, digest.hexdigest(), stream.documents, len(stream.rest))
        if written
        else None
    )


# ---------------- what is there, and what is asked for


def origin(track: str, source: str, tokenizer: Tokenizer, data_dir: Path | None = None) -> dict:
    """What the tokens depend on beside sizes and seed. Raises ShardError for a vocabulary that
    uint16 can't hold.
    """
    if tokenizer.vocab_size > LARGEST:
        raise ShardError(
            f"a vocabulary of {tokenizer.vocab_size:,} does not fit 16 bits: at most {LARGEST:,} "
            "tokens"
        )
    data = find_role(track, "documents", "train", source).data
    if source == "embedded":
        rows = {"data": track}
    elif source == "local":
        rows = {"data": READERS[source](data, "train", data_dir)[2]}
    else:
        rows = {"data": data.repository, "config": data.config, "revision": data.revision}
    return {
        "source": source,
        **rows,
        "tokenizer": {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint},
    }


def open_folder(out: Path, made_from: dict) -> tuple[Manifest, list[str]]:
    """The manifest of what is there and intact, and lines that say so. Raises ShardError if it is
    made otherwise.
    """
    if not (out / MANIFEST).exists():
        out.mkdir(parents=True, exist_ok=True)
        return Manifest(made_from), []
    manifest, lines = read_manifest(out), []
    for name in made_from | manifest.made_from:
        there, asked = (
            named(of[name]) if name in of else "none" for of in (manifest.made_from, made_from)
        )
        if there != asked:
            raise ShardError(
                f"{out} was made with {name} {there}, not {asked}: give the same, or another folder"
            )
    heldout, whole = manifest.heldout, []
    fault = heldout and heldout.fault(out)
    if fault:
        lines.append(f"{heldout.file} {fault}: it is made again")
        heldout = None
    for shard in manifest.shards:
        if fault := shard.fault(out):
            lines.append(f"{shard.file} {fault}: it is made again, and those after it")
            break
        whole.append(shard)
    manifest = replace(manifest, heldout=heldout, shards=tuple(whole))
    return manifest, [
        *lines,
        f"{manifest.tokens:,} tokens in {len(whole)} shards are already there and intact",
    ]


def check_heldout(shard: Shard | None, wanted: int) -> None:
    """Raises ShardError when the source had fewer held-out tokens than wanted."""
    found = shard.tokens if shard else 0
    if found < wanted:
        raise ShardError(
            f"the rows have only {found:,} tokens to hold out (a tenth of the documents, or a "
            "split of their own), not "
            f"{wanted:,}: ask for fewer with --heldout-tokens, or give more rows"
        )


def check_room(out: Path, tokens: int) -> None:
    """Raises ShardError when so many more tokens do not fit on the disk: hours before it is
    full.
    """
    free = shutil.disk_usage(out).free
    if tokens * TOKEN_BYTES > free:
        needed, there = (f"{size / 1e9:.1f} GB" for size in (tokens * TOKEN_BYTES, free))
        raise ShardError(
            f"{out} needs {needed}, but the disk has {there}: make room, or ask for fewer --tokens"
        )


# ---------------------------------------------------------------- the command line


def count(text: str) -> int:
    """A number of tokens: 250k, 1.5M, 10B, or plain. Raises ValueError."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in MULTIPLES else (text, "")
    return round(float(number) * MULTIPLES[unit])


def chosen_tokenizer(
    name: str | None, track: str, source: str, data_dir: Path | None = None
) -> Tokenizer:
    """The tokenizer of a tokenizer.json; without a name the embedded world's, or GPT-2's for other
    rows.
    """
    if name:
        return Tokenizer(name)
    return load_tokenizer(track) if source == "embedded" else load_gpt2_tokenizer(data_dir=data_dir)


def main(argv: Sequence[str] | None = None, source: str = "embedded", data_dir=None) -> None:
    """The command line; source and data_dir are the run's settings."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers shards", description="Documents as shards of tokens."
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of the shards")
    parser.add_argument(
        "--tokens",
        type=count,
        default="100M",
        help="to train on, such as 1.5B (default: %(default)s)",
    )
    parser.add_argument(
        "--heldout-tokens", type=count, default="1M", help="to measure with (default: %(default)s)"
    )
    parser.add_argument(
        "--shard-tokens", type=count, default="10M", help="tokens a file (default: %(default)s)"
    )
    parser.add_argument("--source", choices=SOURCES, default=source, help="default: %(default)s")
    parser.add_argument(
        "--track", choices=TRACKS, default="tldr", help="whose documents (default: %(default)s)"
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json (default: GPT-2's)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the order of documents (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="that tokenise (default: one a core)"
    )
    args = vars(parser.parse_args(argv))
    try:
        tokenizer = chosen_tokenizer(args.pop("tokenizer"), args["track"], args["source"], data_dir)
        for line in build(
            args.pop("out"), args.pop("tokens"), tokenizer, **args, data_dir=data_dir
        ):
            print(line, flush=True)
    except (ShardError, SourceError, OSError, ValueError) as error:
        sys.exit(f"shards: {error}")
