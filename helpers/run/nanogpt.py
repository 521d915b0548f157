"""A .pt file in nanoGPT's layout as our model. Nothing in the file is executed.

Source: https://github.com/karpathy/nanoGPT, train.py (what a file holds) and model.py.
"""

import errno
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.model import GPT
from helpers.run.weights import (
    GPT2_IS,
    NANOGPT_SIZES,
    WeightsError,
    build,
    found_sizes,
    listed,
    plain_weights,
)

# What torch.compile, DistributedDataParallel, Lightning and the like put into names.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|model)\.")
STATE_KEYS = ("model", "model_state_dict", "state_dict")  # where training scripts keep the weights
SETTINGS_KEYS = ("model_args", "config", "model_config", "args", "hyper_parameters")
READ = (*NANOGPT_SIZES, "bias")  # the settings that say which GPT-2 it is
WITHOUT_EFFECT = ("dropout", "embd_pdrop", "attn_pdrop", "resid_pdrop")  # on a trained model
# Settings of training, which may stand beside those of the model.
TRAINING = re.compile(
    r"(?:^|_)(?:lr|learning|iters?|steps?|epochs?|interval|batch|seed|decay|beta[12s]?|grad|warmup"
    r"|wandb|eval|log|dir|path|dataset|data|device|dtype|backend|compile|init|checkpoint|optimizer"
    r"|name|project|save|resume|workers|run|id|notes|tags|ddp|fsdp|world|gpus?|tokens|precision|amp"
    r"|scheduler|version|debug)(?:_|$)"
)
# A name with one of these words is of the model's mathematics, whatever else is in it.
OF_THE_MODEL = re.compile(
    r"attn|attention|softcap|window|rope|rotary|(?<!grad_)norm|mlp|head|bias|activation|emb"
)
PUBLISHED_HEADS = {  # (layers, channels): of GPT-2's four sizes, and of DistilGPT2
    (12, 768): 12,
    (24, 1024): 16,
    (36, 1280): 20,
    (48, 1600): 25,
    (6, 768): 12,
}


def load_nanogpt(path: str | Path, heads: int | None = None) -> GPT:
    """A model from a raw .pt file in nanoGPT's layout: GPT-2's names, nn.Linear's (out, in).

    The file is the state dict or holds it under "model", "model_state_dict" or "state_dict".
    Prefixes of torch.compile and DistributedDataParallel, a tied head and causal masks are dropped,
    16 bits become float32, a model without biases gets zeros, a padded vocabulary stays as it is.

    The settings beside the weights ("model_args", "config") are obeyed. Where both say a size, the
    first is right, as nanoGPT's "config" may hold defaults that its training didn't use. heads:
    needed when the file doesn't say them and they are none of GPT-2's own sizes. What a file can't
    say is the form of its GELU: it is taken to be the tanh form, as in GPT-2.

    Raises WeightsError for settings, sizes or weights that contradict each other, and for a model
    that GPT-2 can't equal. Nothing in the file is executed (weights_only=True).
    """
    content = read_raw(Path(path))
    try:
        return from_nanogpt(content, heads)
    except WeightsError as error:
        raise WeightsError(f"{path} can't be used: {error}") from None


def read_raw(path: Path) -> Any:
    """The content of a .pt file: tensors and plain values. Raises WeightsError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of files and tensors that we refuse
            content = torch.load(path, map_location="cpu", weights_only=True)
        damaged = damaged_part(path)
    except FileNotFoundError:
        raise WeightsError(f"there is no file {path}") from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch looks for the end of the file before its start
            raise WeightsError(f"{path} is damaged: it ends too early") from None
        reason = error.strerror or type(error).__name__
        raise WeightsError(f"{path} can't be read ({reason})") from None
    except Exception as error:  # torch raises many kinds for what it didn't write
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (
            f"it names {code[1]}, which is code" if code else "no file of torch.save, or damaged"
        )
        raise WeightsError(
            f"{path} can't be read as weights alone ({reason}): save a dict with the state dict as "
            '"model" and plain values as "model_args"'
        ) from None
    if damaged:
        raise WeightsError(f"{path} is damaged (checksum mismatch in {listed([damaged])})")
    return content


def damaged_part(path: Path) -> str | None:
    """The first part of a .pt file whose checksum is wrong, which torch.load doesn't look at; None
    too for a file of torch before 1.6, which has no checksums.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as parts:
        return parts.testzip()


def from_nanogpt(content: Any, heads: int | None) -> GPT:
    """The model in the content of a .pt file. Raises WeightsError."""
    *holders, state = nested(content)
    weights = nanogpt_weights(state)
    settings, source = model_settings(holders)
    found_vocabulary, context, layers, channels = found_sizes(weights)
    sizes = dict(
        zip(NANOGPT_SIZES, (found_vocabulary, context, layers, heads, channels), strict=True)
    )
    said = {name: settings[name] for name in sizes if settings.get(name) is not None}
    for name, value in said.items():
        if type(value) is not int:
            raise WeightsError(f"its {source} says {name} {value!r:.40}, not a whole number")
    if heads is not None and said.get("n_head", heads) != heads:
        raise WeightsError(
            f"its {source} says n_head {said['n_head']}, but --heads {heads} was given"
        )
    sizes |= said
    if sizes["n_head"] is None:
        sizes["n_head"] = PUBLISHED_HEADS.get((layers, channels))
    if sizes["n_head"] is None:
        raise WeightsError(
            f"it doesn't say how many attention heads share its {channels} channels: convert it "
            "with `python -m helpers import FILE.pt FOLDER --heads NUMBER`"
        )
    return build(sizes, weights, source, zero_biases=without_biases(weights, settings, source))


def nested(content: Any) -> list:
    """A file's content and the dicts inside it, down to the state dict, which is the last."""
    parts = [content]
    for key in STATE_KEYS:
        if isinstance(parts[-1], dict) and isinstance(parts[-1].get(key), dict):
            parts.append(parts[-1][key])
    return parts


def nanogpt_weights(state: Any) -> dict[str, Tensor]:
    """GPT-2's weights in the state dict of a .pt file. Raises WeightsError."""
    if not isinstance(state, dict) or not state:
        raise WeightsError("it holds no state dict")
    weights = {}
    for full_name, weight in state.items():
        if not isinstance(full_name, str) or not isinstance(weight, Tensor):
            raise WeightsError(f"it holds no state dict ({listed([full_name])} is no tensor)")
        name = WRAPPERS.sub("", full_name)
        if name in weights:
            raise WeightsError(f"it has {listed([name])} twice")
        weights[name] = weight
    return plain_weights(weights)


def model_settings(holders: list[dict]) -> tuple[dict, str]:
    """The settings beside the weights and where they are; {} and "" without any.

    holders: the dicts that hold the state dict, where single settings may stand too. Raises
    WeightsError for a setting that our GPT-2 doesn't have.
    """
    sources = [
        (key, holder[key])
        for key in SETTINGS_KEYS
        for holder in holders
        if holder.get(key) is not None and holder[key] != {}
    ]
    has_args = bool(sources) and sources[0][0] == "model_args"  # what training built the model with
    for source, content in sources[:1] if has_args else sources:
        check_settings(source, content)
    said, settings = [], {}
    for source, content in [*sources, *(("top level", holder) for holder in holders)]:
        names = [name for name in READ if isinstance(content, dict) and name not in settings]
        new = {name: content[name] for name in names if content.get(name) is not None}
        settings |= new
        said += [source] if new and source not in said else []
    return settings, " with ".join(said)


def check_settings(source: str, settings: Any) -> None:
    """Raise WeightsError unless settings are a dict of what our GPT-2 has."""
    if not isinstance(settings, dict):
        raise WeightsError(f"its {source} is a {type(settings).__name__}, not a dict of settings")
    unknown = [
        f"{name} {value!r:.40}"
        for name, value in settings.items()
        if name not in (*READ, *WITHOUT_EFFECT)
        and repr(value) not in map(repr, GPT2_IS.get(name, (False,)))  # False: it is not there
        and value is not None
        and (source == "model_args" or not is_of_training(str(name)))
    ]
    if unknown:
        raise WeightsError(f"its {source} has what GPT-2 does not have: {listed(unknown)}")


def is_of_training(name: str) -> bool:
    """Whether a setting is one of training, without effect on a trained model."""
    return bool(TRAINING.search(name)) and not OF_THE_MODEL.search(name)


def without_biases(weights: dict[str, Tensor], settings: dict, source: str) -> bool:
    """Whether a model has no biases at all, as nanoGPT's bias=False; WeightsError if its settings
    say otherwise.
    """
    biases, said = [name for name in weights if name.endswith(".bias")], settings.get("bias")
    if said is not None and said is not bool(biases):
        there = listed(biases, 3) or "no biases"
        raise WeightsError(f"its {source} says bias {said!r:.40}, but it has {there}")
    return not biases
