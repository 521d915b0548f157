"""Weights from elsewhere in our model: GPT-2's own, from the Hub or a folder, and raw .pt files in
nanoGPT's layout.

`python -m helpers import FILE.pt FOLDER` makes a folder of such a file, for transformers and for
`RLHF_INIT=FOLDER`.
"""

import json
import pickle
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.engine.files import sha256
from helpers.engine.network import redact, within
from helpers.engine.parser import Parser
from helpers.model import GPT, GPTConfig
from helpers.rows.gpt2_bpe import load_gpt2_tokenizer
from helpers.run.checkpoints import CheckpointError, from_transformers_state, save_stage
from helpers.run.settings import data_folder, read_settings
from helpers.tokenizer import Tokenizer

OWNER = "openai-community"  # of GPT-2 on the Hub: gpt2, gpt2-medium, gpt2-large, gpt2-xl
REVISIONS = {
    "openai-community/gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e"
}  # a commit: the same files next year
FILES = ["config.json", "vocab.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"]
SECONDS = 8  # the longest wait for the Hub's first answer
WRAPPERS = re.compile(
    r"^(?:_orig_mod\.|module\.)+"
)  # what torch.compile and DistributedDataParallel put before a name
STATE_KEYS = (
    "model",
    "model_state_dict",
    "state_dict",
)  # where a training script keeps the weights in its file
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
    """The folder or .pt file that `init` means, and what to keep of where it is from: {"source",
    "revision"}.

    init: "gpt2" or another size, a name on the Hub, a folder as transformers writes it, or a .pt
    file. A name is looked for in data_dir first (gpt2/config.json), then on the Hub. Raises
    WeightsError.
    """
    path = Path(init).expanduser()
    looks_like_a_path = (
        init.startswith((".", "/", "~")) or init.count("/") > 1 or path.suffix in (".pt", ".pth")
    )
    if not path.exists() and data_dir and not looks_like_a_path:
        beside_the_rows = data_dir / path.name
        path = beside_the_rows if (beside_the_rows / "config.json").is_file() else path
    if path.exists():
        return path, {"source": path.name, "revision": f"sha256:{sha256(weights_file(path))}"}
    if looks_like_a_path:
        raise WeightsError(f"there is no file or folder {init}")
    name = init if "/" in init else f"{OWNER}/{init}"
    folder = download(name)
    return folder, {"source": name, "revision": folder.name}


def weights_file(path: Path) -> Path:
    """The file that holds the weights, or lists the files that do. Raises WeightsError for a folder
    without one.
    """
    if path.is_file():
        return path
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (path / "config.json").is_file() and (path / name).is_file():
            return path / name
    raise WeightsError(
        f"{path} needs config.json and model.safetensors, as transformers' save_pretrained writes "
        "them"
    )


def download(name: str) -> Path:
    """The folder of a model's files from the Hub, downloaded once. Raises WeightsError, soon
    without a network.
    """
    from huggingface_hub import snapshot_download  # imported here: most runs never need it

    wanted = {"revision": REVISIONS.get(name), "allow_patterns": FILES}
    try:
        try:
            return Path(snapshot_download(name, local_files_only=True, **wanted))
        except FileNotFoundError:  # not downloaded before
            within(SECONDS, lambda: _ask_hub(name))
            return Path(snapshot_download(name, **wanted))
    except Exception as error:
        why = f"{type(error).__name__}: {redact(str(error))}"
        raise WeightsError(
            f"the weights of {name} could not be had ({why}). Without a network: put the model's "
            "config.json and "
            f"model.safetensors into {name.split('/')[-1]}/ of a folder and set RLHF_DATA_DIR to "
            "that folder, or "
            'pretrain a model of your own (init="pretrain").'
        ) from None


def _ask_hub(name: str) -> None:
    """Raise at once when the Hub can't be reached or has no such model."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, revision=REVISIONS.get(name), timeout=SECONDS - 1)


# ---------------------------------------------------------------- the weights


def load_foreign(path: Path, tokenizer: Tokenizer) -> GPT:
    """The model in a folder or .pt file, with one row for each of the tokenizer's tokens. Raises
    WeightsError.

    A course checkpoint has them already; GPT-2 lacks PAD, and a padded vocabulary holds rows that
    are no token's.
    """
    model = load_nanogpt(path) if path.is_file() else load_gpt2(path)
    if (path / "stage.json").is_file():
        if model.config.vocab_size != tokenizer.vocab_size:
            raise WeightsError(
                f"{path} has {model.config.vocab_size:,} tokens, this run's tokenizer "
                f"{tokenizer.vocab_size:,}"
            )
        return model
    if path.is_dir():
        check_vocabulary(path, tokenizer)
    return add_pad(model, tokenizer, path)


def add_pad(model: GPT, tokenizer: Tokenizer, path: Path) -> GPT:
    """The same model with GPT-2's tokens and PAD behind them. Raises WeightsError when it has fewer
    than GPT-2.
    """
    known = tokenizer.pad_id  # GPT-2's own tokens come first
    if model.config.vocab_size < known:
        raise WeightsError(
            f"{path} has {model.config.vocab_size:,} tokens, but GPT-2's tokenizer has {known:,}: "
            "its weights were made with another one"
        )
    return fit_vocabulary(model, tokenizer.vocab_size, known)


def load_gpt2(folder: str | Path) -> GPT:
    """A GPT-2 of any size from a folder with config.json and model.safetensors. Raises
    WeightsError.
    """
    from transformers import GPT2LMHeadModel  # imported here: most runs never need it

    folder = Path(folder)
    weights_file(folder)
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        other = [
            f"{name} {said[name]!r}"
            for name, value in GPT2_IS.items()
            if said.get(name, value) != value
        ]
        if other or any("LMHead" not in name for name in said.get("architectures") or []):
            raise ValueError(f"its config.json says {', '.join(other) or said['architectures'][0]}")
        theirs = GPT2LMHeadModel.from_pretrained(folder, use_safetensors=True)
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{folder} holds no GPT-2 language model that can be read ({redact(why)})"
        ) from None
    config = GPTConfig(
        vocab_size=theirs.config.vocab_size,
        context=theirs.config.n_positions,
        layers=theirs.config.n_layer,
        heads=theirs.config.n_head,
        channels=theirs.config.n_embd,
    )
    return from_transformers_state(config, theirs.state_dict())


def check_vocabulary(folder: Path, tokenizer: Tokenizer) -> None:
    """Raise WeightsError when the vocabulary that lies beside the weights is not the
    tokenizer's.
    """
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


@torch.no_grad()
def fit_vocabulary(model: GPT, size: int, known: int | None = None) -> GPT:
    """The same model with `size` rows in its token table: the first `known` rows (default: all),
    new ones their mean.

    GPT-2 has 50,257 tokens and no PAD. Ours comes behind them; masks hide it wherever it stands.
    What a padded table holds behind the known rows is no token's.
    """
    old = model.wte.weight[:known]
    fresh = old.mean(0).expand(size, -1).clone()  # (size, C)
    kept = min(size, len(old))
    fresh[:kept] = old[:kept]
    model.wte.weight = nn.Parameter(fresh)
    model.config = GPTConfig(**{**vars(model.config), "vocab_size": size})
    return model


def load_nanogpt(path: str | Path, heads: int | None = None) -> GPT:
    """A model from a raw .pt file in nanoGPT's layout: GPT-2's names, all products nn.Linear's
    (out, in).

    The file is the state dict or holds it under "model", "model_state_dict" or "state_dict";
    prefixes of torch.compile and DistributedDataParallel, the tied head and saved mask buffers are
    left out. A padded vocabulary stays as it is (`fit_vocabulary` cuts it). heads: by default one
    for 64 channels, as in GPT-2. Nothing in the file is executed (weights_only=True). Raises
    WeightsError.
    """
    state = nanogpt_state(Path(path))
    try:
        (vocab_size, channels), context = state["wte.weight"].shape, len(state["wpe.weight"])
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("h."))
        config = GPTConfig(vocab_size, context, layers, heads or max(1, channels // 64), channels)
        model = GPT(config)
        model.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path} is not in nanoGPT's layout ({str(error).splitlines()[0]})"
        ) from None
    return model


def nanogpt_state(path: Path) -> dict[str, Tensor]:
    """The weights of a .pt file under our names. Raises WeightsError."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"there is no file {path}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} can't be read as weights alone ({reason}): save just the state dict"
        ) from None
    while isinstance(held, dict) and (
        inside := next((key for key in STATE_KEYS if key in held), None)
    ):
        held = held[inside]
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise WeightsError(f"{path} holds no state dict")
    state = {}
    for name, weight in held.items():
        name = WRAPPERS.sub("", name).removeprefix("transformer.")
        if name != "lm_head.weight" and not name.endswith((".attn.bias", ".attn.masked_bias")):
            state[name] = weight.float()
    return state


# ---------------------------------------------------------------- the converter


def convert(
    file: Path, folder: Path, heads: int | None = None, data_dir: Path | None = None
) -> GPT:
    """Write a raw .pt file as a checkpoint folder with GPT-2's tokenizer. Raises WeightsError,
    CheckpointError.
    """
    tokenizer = load_gpt2_tokenizer(data_dir=data_dir)
    model = add_pad(load_nanogpt(file, heads), tokenizer, file)
    came_from = {"init": file.name, "source": file.name, "revision": f"sha256:{sha256(file)}"}
    save_stage(
        folder,
        model,
        tokenizer,
        stage="base",
        track="any",
        config=came_from,
        metrics={},
        parent=None,
        data_fingerprint="",
    )
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers import`."""
    parser = Parser(prog="python -m helpers import", description="A .pt file as a model folder.")
    parser.add_argument(
        "file", type=Path, help="a state dict in nanoGPT's layout, with GPT-2's tokens"
    )
    parser.add_argument(
        "folder", type=Path, help="where to write; an older conversion there is replaced"
    )
    parser.add_argument("--heads", type=int, help="attention heads (default: channels / 64)")
    args = parser.parse_args(argv)
    try:
        folder = data_folder(read_settings())  # where GPT-2's tokenizer may be
        model = convert(args.file, args.folder, args.heads, folder)
    except (WeightsError, CheckpointError, OSError, ValueError) as error:
        sys.exit(f"import: {error}")
    print(f"{args.folder}: {model.num_parameters():,} parameters, {model.config}")
