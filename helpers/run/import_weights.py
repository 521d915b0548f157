"""External weights in our model: GPT-2's own, from the Hub or a folder, and raw .pt files in
nanoGPT's layout.

`python -m helpers import FILE.pt FOLDER` makes a model folder of such a file, for transformers and
for `RLHF_INIT=FOLDER`.
"""

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from helpers.engine.files import sha256
from helpers.engine.network import redact, within
from helpers.engine.parser import Parser, user_path
from helpers.model import GPT, GPTConfig
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.run.checkpoints import CheckpointError, first_line, gpt_config, read_config, save_stage
from helpers.run.nanogpt import load_nanogpt
from helpers.run.settings import data_folder, read_settings
from helpers.run.weights import (
    GPT2_IS,
    HEAD,
    TRANSFORMERS_SIZES,
    WeightsError,
    build,
    listed,
    plain_weights,
)
from helpers.tokenizer import EOS, PAD, Tokenizer

OWNER = "openai-community"  # of GPT-2 on the Hub: gpt2, gpt2-medium, gpt2-large, gpt2-xl
# a commit: the same files next year
REVISIONS = {f"{OWNER}/gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e"}
FILES = ["config.json", "vocab.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"]
# A .pt file can't say which form of the GELU it was trained with.
GELU = "GELU: GPT-2's, the tanh form; the exact form of newer nanoGPTs differs by at most 0.0005"
SECONDS = 8  # the longest wait for the Hub's first answer
LARGEST_PADDING = 1024  # vocabularies are padded to a multiple of at most this many tokens
# Other names that transformers reads for the same sizes.
ALIASES = {
    "max_position_embeddings": "n_positions",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
}


# ---------------------------------------------------------------- where the weights are


def find_weights(init: str, data_dir: Path | None = None) -> tuple[Path, dict[str, str]]:
    """The folder or .pt file that `init` means, and its origin: {"source", "revision"}.

    init: "gpt2" or another size, a name on the Hub, a folder as transformers writes it, or a .pt
    file. A name is looked for in data_dir first (gpt2/config.json), then on the Hub. Raises
    WeightsError.
    """
    path = local_path(init, data_dir)
    if path is None:
        name = init if "/" in init else f"{OWNER}/{init}"
        folder = download(name)
        return folder, {"source": name, "revision": folder.name}
    if not path.exists():
        raise WeightsError(f"there is no file or folder {init}")
    return path, {"source": path.name, "revision": f"sha256:{weights_sha256(path)}"}


def local_path(init: str, data_dir: Path | None = None) -> Path | None:
    """Where on this machine the weights are that `init` means; None for a name on the Hub."""
    path = Path(init).expanduser()
    is_path = init.startswith((".", "/", "~")) or init.count("/") > 1
    if is_path or path.suffix in (".pt", ".pth") or path.exists():
        return path
    beside_the_rows = data_dir / path.name if data_dir else path
    return beside_the_rows if (beside_the_rows / "config.json").is_file() else None


def weights_file(path: Path) -> Path:
    """The file that holds the weights, or lists the files that do. Raises WeightsError."""
    if path.is_file():
        return path
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (path / "config.json").is_file() and (path / name).is_file():
            return path / name
    files = "config.json and model.safetensors, as transformers' save_pretrained writes them"
    raise WeightsError(f"{path} needs {files}")


def weights_sha256(path: Path) -> str:
    """The SHA-256 of a .pt file; of a folder, that of the checksums of its config.json and of every
    file with weights. Raises WeightsError.
    """
    if path.is_file():
        return sha256(path)
    files = [path / "config.json", *safetensors_files(weights_file(path))]
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def download(name: str) -> Path:
    """The folder of a model's files from the Hub, downloaded once. Raises WeightsError."""
    from huggingface_hub import HfApi, snapshot_download  # imported here: most runs never need it

    revision = REVISIONS.get(name)
    wanted = {"revision": revision, "allow_patterns": FILES}
    try:
        try:
            return Path(snapshot_download(name, local_files_only=True, **wanted))
        except FileNotFoundError:  # not downloaded before
            limit = SECONDS - 1
            within(SECONDS, lambda: HfApi().model_info(name, revision=revision, timeout=limit))
            return Path(snapshot_download(name, **wanted))
    except Exception as error:
        reason = f"{type(error).__name__}: {redact(str(error))}"
        raise WeightsError(
            f"the weights of {name} could not be had ({reason}). Without a network: put the "
            f"model's config.json and model.safetensors into {name.split('/')[-1]}/ of a folder "
            "and set RLHF_DATA_DIR to that folder, or pretrain a model of your own "
            '(init="pretrain").'
        ) from None


# ---------------------------------------------------------------- the weights


def load_external(path: Path, tokenizer: Tokenizer) -> GPT:
    """The model in a folder or .pt file, with the tokenizer's vocabulary. Raises WeightsError."""
    model = load_nanogpt(path) if path.is_file() else load_gpt2(path)
    if (path / "stage.json").is_file():  # a checkpoint of this course has them already
        theirs, ours = model.config.vocab_size, tokenizer.vocab_size
        if theirs != ours:
            raise WeightsError(f"{path} has {theirs:,} tokens, this run's tokenizer {ours:,}")
        return model
    if path.is_dir():
        check_vocabulary(path, tokenizer)
    return add_pad(model, tokenizer, path)


def load_gpt2(folder: str | Path) -> GPT:
    """A GPT-2 of any size from a folder as transformers writes it. Raises WeightsError."""
    folder = Path(folder)
    path = weights_file(folder)
    try:
        config = read_config(folder)
        sizes = dict(zip(TRANSFORMERS_SIZES, vars(gpt2_config(config)).values(), strict=True))
        state = {}
        for file in safetensors_files(path):
            part = load_file(file)
            if twice := part.keys() & state.keys():
                raise WeightsError(f"more than one of its files has {listed(sorted(twice))}")
            state |= part
        tied = config.get("tie_word_embeddings", True)
        if not tied and HEAD not in state:
            raise WeightsError(f"its config.json says tie_word_embeddings False; it lacks {HEAD}")
        weights = plain_weights(state, head_is_table=tied)
        return build(sizes, weights, "config.json", conv1d=True)
    except (WeightsError, SafetensorError, OSError, ValueError) as error:
        reason = redact(first_line(error))
        message = f"{folder} holds no GPT-2 language model that can be read ({reason})"
        raise WeightsError(message) from None


def gpt2_config(config: dict) -> GPTConfig:
    """Our sizes from the contents of another model's config.json. Raises WeightsError for one that
    is not of a GPT-2 as ours.
    """
    other = [name for name, values in GPT2_IS.items() if config.get(name, values[0]) not in values]
    for alias, name in ALIASES.items():
        if alias in config and config.setdefault(name, config[alias]) != config[alias]:
            other += [name, alias]
    if config.get("n_inner") not in (None, 4 * gpt_config(config).channels):
        other.append("n_inner")
    if other:
        says = ", ".join(f"{name} {config[name]!r:.60}" for name in other)
        raise WeightsError(f"its config.json says {says}")
    return gpt_config(config)


def safetensors_files(path: Path) -> list[Path]:
    """The files of the weights: `path`, or those that it lists. Raises WeightsError."""
    if path.suffix != ".json":
        return [path]
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"{path} is damaged") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise WeightsError(f"{path} names a file outside the folder: {listed([name])}")
        if not (path.parent / name).is_file():
            raise WeightsError(f"{path} names {listed([name])}, which is missing")
    return [path.parent / name for name in sorted(names)]


def check_vocabulary(folder: Path, tokenizer: Tokenizer) -> None:
    """Raise WeightsError when a vocabulary beside the weights is not the tokenizer's."""
    ours = tokenizer.vocabulary
    for name in ("vocab.json", "tokenizer.json"):
        theirs = read_vocabulary(folder / name) if (folder / name).is_file() else ours
        strange = [token for token in theirs if ours.get(token) != theirs[token]]
        strange += [token for token in ours if token not in theirs and token not in (EOS, PAD)]
        if strange:
            has = f"{strange[0]!r:.60} as token {theirs.get(strange[0])!r:.20}"
            raise WeightsError(
                f"{folder} was made with another tokenizer than GPT-2's: its {name} has {has}"
            )


def read_vocabulary(path: Path) -> dict:
    """{token: id} in a vocab.json or tokenizer.json. Raises WeightsError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"] if path.name == "tokenizer.json" else content
        return dict(vocabulary.items())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"{path} holds no vocabulary of GPT-2's kind") from None


def add_pad(model: GPT, tokenizer: Tokenizer, path: Path) -> GPT:
    """The model with GPT-2's tokens, then PAD. Raises WeightsError if it has fewer than GPT-2, or
    more than padding explains.
    """
    known = tokenizer.pad_id  # GPT-2's own tokens come first
    padded = math.ceil((known + 1) / LARGEST_PADDING) * LARGEST_PADDING
    if not known <= model.config.vocab_size <= padded:
        raise WeightsError(
            f"{path} has {model.config.vocab_size:,} tokens, but GPT-2's tokenizer has {known:,}: "
            "its weights were made with another one"
        )
    return fit_vocabulary(model, tokenizer.vocab_size, known)


@torch.no_grad()
def fit_vocabulary(model: GPT, size: int, known: int) -> GPT:
    """The same model with `size` rows in its token table: the first `known` rows, new ones their
    mean. Rows beyond `known` pad the table and belong to no token.
    """
    old = model.wte.weight[:known]
    table = old.mean(0).expand(size, -1).clone()  # (size, C)
    table[:known] = old[:size]
    model.wte.weight = nn.Parameter(table)
    model.config = GPTConfig(**{**vars(model.config), "vocab_size": size})
    return model


# ---------------------------------------------------------------- the converter


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers import`: a raw .pt file as a model folder with GPT-2's tokenizer."""
    parser = Parser(prog="python -m helpers import", description="A .pt file as a model folder.")
    add = parser.add_argument
    add("file", type=user_path, help="a state dict in nanoGPT's layout, with GPT-2's tokens")
    add("folder", type=user_path, help="where to write; an older conversion there is replaced")
    add("--heads", type=int, help="attention heads, if the file doesn't say them")
    args = parser.parse_args(argv)
    name, data_dir = args.file.name, data_folder(read_settings())
    try:
        model = load_nanogpt(args.file, args.heads)  # before a tokenizer is looked for
        tokenizer = load_gpt2_tokenizer(data_dir=data_dir)
        model = add_pad(model, tokenizer, args.file)
        origin = {"init": name, "source": name, "revision": f"sha256:{sha256(args.file)}"}
        save_base(args.folder, model, tokenizer, "any", origin)
    except (WeightsError, CheckpointError, OSError, ValueError) as error:
        sys.exit(f"import: {error}")
    print(f"{args.folder}: {model.num_parameters():,} parameters, {model.config}")
    print(GELU)


def save_base(folder: Path, model: GPT, tokenizer: Tokenizer, track: str, origin: dict) -> None:
    """Write external weights as a checkpoint of stage "base", which records where they are from."""
    save_stage(
        folder,
        model,
        tokenizer,
        stage="base",
        track=track,
        config=origin,
        metrics={},
        parent=None,
        data_fingerprint="",
    )
