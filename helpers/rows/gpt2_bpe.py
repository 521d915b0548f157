"""GPT-2's tokenizer, from a local folder or through tiktoken, with a PAD token that is not EOS."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

from helpers.engine.network import within
from helpers.tokenizer import EOS, PAD, PATTERN, Tokenizer, byte_characters

MERGES = 50_000  # after the 256 bytes; the next id is EOS, then PAD
FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))  # OpenAI's, transformers'
FOLDERS = ("gpt2-bpe", "gpt2")  # looked for in RLHF_DATA_DIR
SITE = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
SECONDS = 8  # the longest wait for the site's first answer


def load_gpt2_tokenizer(data_dir: Path | None = None) -> Tokenizer:
    """GPT-2's tokenizer: 50,258 ids, EOS 50256, PAD 50257 (no row of GPT-2's embedding).

    Read from gpt2-bpe/ or gpt2/ in data_dir, with encoder.json and vocab.bpe, or vocab.json and
    merges.txt; without these from tiktoken's copy, which is downloaded once. Raises ValueError for
    files that are not GPT-2's, and ConnectionError within ten seconds when there is neither a copy
    nor a network.
    """
    for folder in [data_dir / name for name in FOLDERS] if data_dir else []:
        for names in FILES:
            files = [folder / name for name in names]
            if all(file.is_file() for file in files):
                return from_files(*(file.read_bytes() for file in files), f"{folder.name}/")
    return from_files(*download(), "tiktoken's cache")


def from_files(vocabulary: bytes, merges: bytes, place: str) -> Tokenizer:
    """A tokenizer from the content of encoder.json and vocab.bpe; ValueError if it is not GPT-2's.
    Its tokenizer.json, and so its fingerprint, is the same from any source.
    """
    from tokenizers import Regex, Tokenizer as Fast, models, pre_tokenizers

    try:
        lines = [line for line in merges.decode().split("\n") if line]
        pairs = [tuple(line.split()) for line in lines if not line.startswith("#version")]
        tokens = [*byte_characters().values(), *(a + b for a, b in pairs), EOS]
        if len(pairs) != MERGES:
            raise ValueError(f"GPT-2 has {MERGES:,} merges, here are {len(pairs):,}")
        ids = {token: i for i, token in enumerate(tokens)}
        if json.loads(vocabulary) != ids:
            raise ValueError("the vocabulary and the merges do not belong together")
        fast = Fast(models.BPE(ids | {PAD: len(ids)}, pairs))
    except ValueError as error:
        trouble = f"are not GPT-2's or damaged ({error})"
        raise ValueError(f"the tokenizer files in {place} {trouble}") from None
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    fast.add_special_tokens([EOS, PAD])
    content = json.loads(fast.to_str())
    content["decoder"] = content["pre_tokenizer"]["pretokenizers"][1]
    return Tokenizer.from_json(json.dumps(content, ensure_ascii=False).encode(), "gpt2")


def download() -> list[bytes]:
    """encoder.json and vocab.bpe, which tiktoken downloads once. Raises ConnectionError."""
    from tiktoken.load import read_file_cached

    urls = [SITE + "encoder.json", SITE + "vocab.bpe"]
    try:
        if not all(map(in_cache, urls)):
            import requests  # what tiktoken itself downloads with, without a time limit

            within(SECONDS, lambda: requests.head(urls[0], timeout=SECONDS - 1).raise_for_status())
        return [read_file_cached(url) for url in urls]
    except Exception as error:
        raise ConnectionError(
            f"GPT-2's tokenizer can't be downloaded ({type(error).__name__}). Put vocab.bpe and "
            f"encoder.json into {FOLDERS[0]}/ of a folder and set RLHF_DATA_DIR to that folder; "
            "the embedded worlds need neither."
        ) from None


def in_cache(url: str) -> bool:
    """Whether tiktoken has already downloaded a file."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = Path(folder or Path(tempfile.gettempdir(), "data-gym-cache"))
    return (folder / hashlib.sha1(url.encode()).hexdigest()).exists()
