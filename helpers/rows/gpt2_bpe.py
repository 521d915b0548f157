"""GPT-2's own tokenizer, from files in a local folder or through tiktoken, with a PAD token that is
not EOS.
"""

import base64
import hashlib
import json
import os
import tempfile
from pathlib import Path

from helpers.engine.network import within
from helpers.tokenizer import EOS, PAD, PATTERN, Tokenizer, byte_characters

MERGES = 50_000
SIZE = 256 + MERGES  # tokens without the special ones; EOS is the next id, PAD the one after
FILES = (
    ("encoder.json", "vocab.bpe"),
    ("vocab.json", "merges.txt"),
)  # OpenAI's names, and transformers'
RANKS = ("gpt2.tiktoken", "r50k_base.tiktoken")
FOLDERS = ("gpt2-bpe", "gpt2")  # looked for in RLHF_DATA_DIR
SITE = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
SECONDS = 8  # the longest wait for the site's first answer


def load_gpt2_tokenizer(
    folder: str | Path | None = None, data_dir: Path | None = None
) -> Tokenizer:
    """GPT-2's tokenizer: 50,258 ids, EOS 50256, PAD 50257 (a row that GPT-2's own embedding does
    not have).

    folder: where vocab.bpe and encoder.json lie (or merges.txt and vocab.json, or gpt2.tiktoken);
    by default gpt2-bpe/ or gpt2/ in data_dir, and without these tiktoken's copy, which is
    downloaded once. Raises FileNotFoundError for a folder without the files, ValueError for files
    that are not GPT-2's, and ConnectionError within ten seconds when there is neither a copy nor a
    network.
    """
    if folder is not None:
        merges = read_folder(Path(folder))
        if merges is None:
            names = " or ".join(" with ".join(pair) for pair in FILES)
            raise FileNotFoundError(
                f"no GPT-2 tokenizer in {folder}: it needs {names} or {RANKS[0]}"
            )
        return Tokenizer.from_json(tokenizer_json(merges), "gpt2")
    for name in FOLDERS if data_dir else ():
        merges = read_folder(data_dir / name)
        if merges is not None:
            return Tokenizer.from_json(tokenizer_json(merges), "gpt2")
    return Tokenizer.from_json(tokenizer_json(merges_of(tiktoken_ranks())), "gpt2")


def read_folder(folder: Path) -> list[tuple[bytes, bytes]] | None:
    """The merges, in order, from GPT-2's files in a folder; None if they are not there. ValueError
    if damaged.
    """
    try:
        for vocabulary, merges in FILES:
            if (folder / vocabulary).is_file() and (folder / merges).is_file():
                return read_merges(folder / merges, folder / vocabulary)
        for name in RANKS:
            if (folder / name).is_file():
                lines = (line.split() for line in (folder / name).read_bytes().splitlines() if line)
                return merges_of({base64.b64decode(token): int(rank) for token, rank in lines})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the tokenizer files in {folder.name}/ are not GPT-2's or damaged ({error})"
        ) from None
    return None


def read_merges(path: Path, vocabulary: Path) -> list[tuple[bytes, bytes]]:
    """The merges of a vocab.bpe. Raises ValueError unless the ids in encoder.json follow from
    them.
    """
    byte_of = {character: byte for byte, character in byte_characters().items()}
    lines = path.read_text(encoding="utf-8").split("\n")
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    merges = [
        tuple(bytes(byte_of[character] for character in part) for part in pair) for pair in pairs
    ]
    ids = json.loads(vocabulary.read_text(encoding="utf-8"))
    if {token: id_ for token, id_ in ids.items() if token != EOS} != vocabulary_of(merges):
        raise ValueError(f"{vocabulary.name} and {path.name} do not belong together")
    return merges


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two parts that each token is merged from, in order of rank: what a file of ranks leaves
    out.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [bytes([byte]) for byte in token]
        while (
            len(parts) > 2
        ):  # merge as the encoder does, with the tokens that came before this one
            options = [
                (ranks.get(a + b, rank), i) for i, (a, b) in enumerate(zip(parts, parts[1:]))
            ]
            best, i = min(options)
            if best >= rank:
                raise ValueError(f"token {rank} can't be merged from earlier ones")
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        merges.append(tuple(parts))
    return merges


def vocabulary_of(merges: list[tuple[bytes, bytes]]) -> dict[str, int]:
    """Ids of the printable forms of all tokens: first the bytes in GPT-2's order, then the
    merges.
    """
    characters = byte_characters()
    written = ["".join(characters[byte] for byte in a + b) for a, b in merges]
    return {token: id_ for id_, token in enumerate([*characters.values(), *written])}


def tokenizer_json(merges: list[tuple[bytes, bytes]]) -> bytes:
    """A tokenizer.json as transformers reads it; the same bytes wherever the merges came from."""
    vocabulary = vocabulary_of(merges)
    if len(merges) != MERGES or len(vocabulary) != SIZE:
        raise ValueError(f"GPT-2 has {MERGES:,} merges, here are {len(merges):,}")
    characters = byte_characters()
    special = {EOS: SIZE, PAD: SIZE + 1}
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    to_bytes = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary | special,
        "merges": [
            ["".join(characters[byte] for byte in part) for part in pair] for pair in merges
        ],
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id_, "content": token} | flags for token, id_ in special.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]},
        "post_processor": None,
        "decoder": to_bytes,
        "model": model,
    }
    return json.dumps(content, ensure_ascii=False).encode()


def tiktoken_ranks() -> dict[bytes, int]:
    """The ranks of tiktoken's "gpt2", which it downloads once. Raises ConnectionError where it
    can't.
    """
    import tiktoken

    try:
        if not in_cache():
            import requests  # what tiktoken itself downloads with

            within(
                SECONDS,
                lambda: requests.head(SITE + "vocab.bpe", timeout=SECONDS - 1).raise_for_status(),
            )
        return tiktoken.get_encoding("gpt2")._mergeable_ranks
    except Exception as error:
        raise ConnectionError(
            f"GPT-2's tokenizer can't be downloaded ({type(error).__name__}). Put vocab.bpe and "
            "encoder.json into "
            f"{FOLDERS[0]}/ of a folder and set RLHF_DATA_DIR to that folder; the embedded worlds "
            "need neither."
        ) from None


def in_cache() -> bool:
    """Whether tiktoken has already downloaded both files, so that it will not go to the network."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = folder or os.path.join(tempfile.gettempdir(), "data-gym-cache")
    names = (
        hashlib.sha1((SITE + name).encode()).hexdigest() for name in ("vocab.bpe", "encoder.json")
    )
    return all(os.path.exists(os.path.join(folder, name)) for name in names)
