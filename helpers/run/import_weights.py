"""External weights in our model: GPT-2's own, from the Hub or a folder, and raw .pt files in
nanoGPT's layout.

`python -m helpers import FILE.pt FOLDER` makes a model folder of such a file, for transformers and
for `RLHF_INIT=FOLDER`.
"""

import json
import pickle
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.engine.files import sha256
from helpers.engine.network import redact, within
from helpers.engine.parser import Parser
from helpers.model import GPT, GPTConfig
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.run.checkpoints import (
    CheckpointError,
    from_transformers_state,
    gpt_config,
    save_stage,
    without_copies,
)
from helpers.run.settings import data_folder, read_settings
from helpers.tokenizer import Tokenizer

OWNER = "openai-community"  # of GPT-2 on the Hub: gpt2, gpt2-medium, gpt2-large, gpt2-xl
# a commit: the same files next year
REVISIONS = {f"{OWNER}/gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e"}
FILES = ["config.json", "vocab.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"]
SECONDS = 8  # the longest wait for the Hub's first answer
WRAPPERS = re.compile(r"^(?:_orig_mod\.|module\.)+")  # of torch.compile, DistributedDataParallel
STATE_KEYS = ("model", "model_state_dict", "state_dict")  # where training scripts keep the weights
# What a config.json must say, or leave out, for our model to compute the same.
GPT2_IS = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "n_inner": None,
}


class WeightsError(RuntimeError):
    """Weights that can't be had or don't fit: one line that says which, why, and what to do."""


# ---------------------------------------------------------------- where the weights are


def find_weights(init: str, data_dir: Path | None = None) -> tuple[Path, dict[str, str]]:
    """The folder or .pt file that `init` means, and its origin: {"source", "revision"}.

    init: "gpt2" or another size, a name on the Hub, a folder as transformers writes it, or a .pt
    file. A name is looked for in data_dir first (gpt2/config.json), then on the Hub. Raises
    WeightsError.
    """
    path = Path(init).expanduser()
    is_path = init.startswith((".", "/", "~")) or init.count("/") > 1
    is_path = is_path or path.suffix in (".pt", ".pth")
    if not path.exists() and data_dir and not is_path:
        beside_the_rows = data_dir / path.name
        path = beside_the_rows if (beside_the_rows / "config.json").is_file() else path
    if path.exists():
        return path, {"source": path.name, "revision": f"sha256:{sha256(weights_file(path))}"}
    if is_path:
        raise WeightsError(f"there is no file or folder {init}")
    name = init if "/" in init else f"{OWNER}/{init}"
    folder = download(name)
    return folder, {"source": name, "revision": folder.name}


def weights_file(path: Path) -> Path:
    """The file that holds the weights, or lists the files that do. Raises WeightsError."""
    if path.is_file():
        return path
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (path / "config.json").is_file() and (path / name).is_file():
            return path / name
    files = "config.json and model.safetensors, as transformers' save_pretrained writes them"
    raise WeightsError(f"{path} needs {files}")


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
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        other = [
            f"{name} {config[name]!r}"
            for name, value in GPT2_IS.items()
            if config.get(name, value) != value
        ]
        other += [name for name in config.get("architectures") or [] if "LMHead" not in name]
        if other:
            raise ValueError(f"its config.json says {', '.join(other)}")
        files, state = {path.name}, {}
        if path.suffix == ".json":  # the index of several files
            files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        for name in files:
            state |= load_file(folder / name)
        return from_transformers_state(gpt_config(config), state)
    except Exception as error:
        reason = redact((str(error).splitlines() or [type(error).__name__])[0])
        message = f"{folder} holds no GPT-2 language model that can be read ({reason})"
        raise WeightsError(message) from None


def check_vocabulary(folder: Path, tokenizer: Tokenizer) -> None:
    """Raise WeightsError when the vocabulary beside the weights is not the tokenizer's."""
    for name in ("vocab.json", "tokenizer.json"):
        if (folder / name).is_file():
            theirs = json.loads((folder / name).read_text(encoding="utf-8"))
            theirs = theirs["model"]["vocab"] if name == "tokenizer.json" else theirs
            ours = tokenizer.vocabulary
            strange = next((token for token, id_ in theirs.items() if ours.get(token) != id_), None)
            if strange is not None:
                raise WeightsError(
                    f"{folder} was made with another tokenizer than GPT-2's: its {name} has "
                    f"{strange!r} as token {theirs[strange]}"
                )
            return


def add_pad(model: GPT, tokenizer: Tokenizer, path: Path) -> GPT:
    """The model with GPT-2's tokens, then PAD. Raises WeightsError if it has fewer than GPT-2."""
    known = tokenizer.pad_id  # GPT-2's own tokens come first
    if model.config.vocab_size < known:
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


def load_nanogpt(path: str | Path, heads: int | None = None) -> GPT:
    """A model from a raw .pt file in nanoGPT's layout: GPT-2's names, nn.Linear's (out, in).

    The file is the state dict or holds it under "model", "model_state_dict" or "state_dict";
    prefixes of torch.compile and DistributedDataParallel, the tied head and mask buffers are
    dropped. A padded vocabulary stays as it is. heads: by default one for 64 channels, as in GPT-2.
    Nothing in the file is executed (weights_only=True). Raises WeightsError.
    """
    state = nanogpt_state(Path(path))
    try:
        (vocab_size, channels), context = state["wte.weight"].shape, len(state["wpe.weight"])
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("h."))
        config = GPTConfig(vocab_size, context, layers, heads or max(1, channels // 64), channels)
        model = GPT(config)
        model.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} is not in nanoGPT's layout ({reason})") from None
    return model


def nanogpt_state(path: Path) -> dict[str, Tensor]:
    """The weights of a .pt file under our names. Raises WeightsError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"there is no file {path}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = f"can't be read as weights alone ({str(error).splitlines()[0]})"
        raise WeightsError(f"{path} {reason}: save just the state dict") from None
    for key in STATE_KEYS:
        if isinstance(content, dict) and key in content:
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(w, Tensor) for w in content.values()):
        raise WeightsError(f"{path} holds no state dict")
    state = {WRAPPERS.sub("", name): weight.float() for name, weight in content.items()}
    return without_copies(state)


# ---------------------------------------------------------------- the converter


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers import`: a raw .pt file as a model folder with GPT-2's tokenizer."""
    parser = Parser(prog="python -m helpers import", description="A .pt file as a model folder.")
    add = parser.add_argument
    add("file", type=Path, help="a state dict in nanoGPT's layout, with GPT-2's tokens")
    add("folder", type=Path, help="where to write; an older conversion there is replaced")
    add("--heads", type=int, help="attention heads (default: channels / 64)")
    args = parser.parse_args(argv)
    name = args.file.name
    try:
        if not args.file.is_file():
            raise WeightsError(f"there is no file {args.file}")
        tokenizer = load_gpt2_tokenizer(data_dir=data_folder(read_settings()))
        model = add_pad(load_nanogpt(args.file, args.heads), tokenizer, args.file)
        origin = {"init": name, "source": name, "revision": f"sha256:{sha256(args.file)}"}
        save_base(args.folder, model, tokenizer, "any", origin)
    except (WeightsError, CheckpointError, OSError, ValueError) as error:
        sys.exit(f"import: {error}")
    print(f"{args.folder}: {model.num_parameters():,} parameters, {model.config}")


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
