"""Handing a stage's model to the next notebook: a folder that transformers opens, plus stage.json
(where it came from). Nothing is pickled, and an interruption never leaves half a checkpoint.
"""

import json
import math
import platform
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.engine.files import replaced_folder, restore_folder, sha256, write_json, write_text
from helpers.engine.room import not_saved
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.run.cards import base_of, model_card
from helpers.run.folders import NOTEBOOKS
from helpers.run.weights import (
    TRANSFORMERS_SIZES,
    WeightsError,
    build,
    check_shapes,
    is_conv1d,
    plain_weights,
)

# stage: the notebook that makes its checkpoint; "base": external weights in the place of pretrain's
MAKERS = {"base": "1-SFT.ipynb"} | {stage: f"{name}.ipynb" for stage, name in NOTEBOOKS.items()}

# What stage.json must hold for what reads it: whether the value of a name is right.
# What a reward model's score has beside its head, which transformers' GPT-2 has no names for.
SCORE_NUMBERS = ("surprise_weight", "head_mean", "logprob_mean")
FILES = {"config.json", "model.safetensors", "tokenizer.json"}
CONTENTS = {
    "stage": lambda stage: isinstance(stage, str) and stage in MAKERS,
    "track": lambda track: isinstance(track, str),
    "config": lambda config: isinstance(config, dict),
    "metrics": lambda metrics: isinstance(metrics, dict),
    "parent": lambda parent: parent is None or is_parent(parent),
    "tokenizer": lambda tokenizer: has_texts(tokenizer, {"name", "fingerprint"}),
    "files": lambda files: has_texts(files, FILES) and are_checksums(files),
}


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, foreign, damaged, or made for something else."""


# ---------------------------------------------------------------- weights


def is_reward_model(model: GPT | RewardModel) -> bool:
    """Whether a model has a score head. Not by its class: 2-RM-Training defines it once more."""
    return hasattr(model, "score")


def to_transformers_state(model: GPT | RewardModel) -> dict[str, Tensor]:
    """Our weights under transformers' names and in its layout, without the head, which is tied.

    Raises ValueError for a model with adapters or 4-bit layers, which GPT-2 has no names for.
    """
    gpt = model.gpt if is_reward_model(model) else model
    state = {}
    for name, weight in gpt.state_dict().items():
        if not name.endswith((".weight", ".bias")):
            raise ValueError(
                f"GPT-2 has no {name}: merge the adapters and dequantise the layers before saving"
            )
        weight = weight.detach().cpu()
        state[f"transformer.{name}"] = (weight.T if is_conv1d(name) else weight).contiguous()
    if is_reward_model(model):
        state["score.weight"] = model.score.weight.detach().cpu().contiguous()
    return state


def from_transformers_state(
    config: GPTConfig, state: dict[str, Tensor], settings: dict | None = None
) -> GPT | RewardModel:
    """A model with transformers' GPT-2 weights: with a score head a RewardModel, else a GPT.

    settings: the contents of config.json, which has the other numbers of a reward model's score.
    Raises WeightsError, a RuntimeError that names the weights, when one is missing, left over, of
    another shape, or holds no finite floats.
    """
    weights = plain_weights(state)
    score = weights.pop("score.weight", None)
    sizes = dict(zip(TRANSFORMERS_SIZES, vars(config).values(), strict=True))
    gpt = build(sizes, weights, "config.json", conv1d=True)
    if score is None:
        return gpt
    check_shapes({"score.weight": (1, config.channels)}, {"score.weight": score})
    numbers = {name: (settings or {}).get(name) for name in SCORE_NUMBERS}
    for name, number in numbers.items():
        if not (type(number) in (int, float) and math.isfinite(number)):
            raise WeightsError(
                f"its config.json says {name} {number!r:.40}, and a number is needed"
            )
    model = RewardModel(gpt, numbers["surprise_weight"])
    model.score.load_state_dict({"weight": score})
    for name, number in numbers.items():
        getattr(model, name).data.fill_(number)
    return model


# ---------------------------------------------------------------- the files transformers reads


def transformers_config(model: GPT | RewardModel, tokenizer) -> dict:
    """The contents of config.json: GPT-2 in transformers' words."""
    reward = is_reward_model(model)
    gpt = model.gpt if reward else model
    config = {
        "architectures": ["GPT2ForSequenceClassification" if reward else "GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": gpt.config.vocab_size,
        "n_positions": gpt.config.context,
        "n_embd": gpt.config.channels,
        "n_layer": gpt.config.layers,
        "n_head": gpt.config.heads,
        "activation_function": "gelu_new",  # the tanh form
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": True,
        **special_ids(tokenizer),
        "dtype": str(gpt.wte.weight.dtype).removeprefix("torch."),
    }
    if reward:  # one label: a number
        labels = {"id2label": {"0": "score"}, "label2id": {"score": 0}}
        config |= labels | {"problem_type": "regression"}
        config |= {name: getattr(model, name).item() for name in SCORE_NUMBERS}
    return config


def special_ids(tokenizer) -> dict[str, int]:
    """The special tokens in transformers' words."""
    eos, pad = tokenizer.eos_id, tokenizer.pad_id
    return {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": pad}


def read_config(folder: Path) -> dict:
    """The contents of a folder's config.json. Raises WeightsError unless they are readable JSON."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"its config.json can't be read ({first_line(error)})") from None
    if not isinstance(config, dict):
        raise WeightsError("its config.json holds no settings")
    return config


def gpt_config(config: dict) -> GPTConfig:
    """Our sizes from the contents of a config.json. Raises WeightsError for one that is missing or
    can't be.
    """
    for name in TRANSFORMERS_SIZES:
        if type(config.get(name)) is not int:
            said = f"says {name} {config[name]!r:.40}" if name in config else f"doesn't say {name}"
            raise WeightsError(f"its config.json {said}, and a whole number is needed")
    try:
        return GPTConfig(*(config[name] for name in TRANSFORMERS_SIZES))
    except ValueError as error:
        raise WeightsError(f"its config.json makes no GPT-2: {error}") from None


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---------------------------------------------------------------- save


def save_stage(
    folder: str | Path,
    model: GPT | RewardModel,
    tokenizer,
    *,
    stage: str,
    track: str,
    config: dict,
    metrics: dict,
    parent: str | Path | None,
    data_fingerprint: str,
    adapter=None,
) -> None:
    """Write a stage's checkpoint with its model card, replacing an old one atomically.

    parent: the folder of the checkpoint that this one was trained from (None for pretraining).
    config and metrics: the run's, as JSON values. adapter (`helpers.stages.adapters.Adapter`): what
    was merged into the model; it is saved in the folder adapter/. Raises CheckpointError when
    `folder` holds something that is not a checkpoint, OSError when it can't be written, ValueError
    when stage and model don't belong together.
    """
    folder = Path(folder).absolute()
    if stage not in MAKERS or is_reward_model(model) != (stage == "reward"):
        kind, stages = type(model).__name__, ", ".join(MAKERS)
        known = f"stages: {stages}; reward is a RewardModel"
        raise ValueError(f"a {kind} is no checkpoint of stage {stage!r} ({known})")
    check_replaceable(folder)
    info = {
        "stage": stage,
        "track": track,
        "config": config,
        "metrics": metrics,
        "parent": None if parent is None else parent_record(Path(parent)),
        "data_fingerprint": data_fingerprint,
        "tokenizer": {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint},
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    if adapter is not None:
        info["adapter"] = adapter.note()
    # sample from the whole distribution: transformers' default is the top 50
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    state = to_transformers_state(model)
    try:
        with replaced_folder(folder) as fresh:
            save_file(state, fresh / "model.safetensors", metadata={"format": "pt"})
            write_json(fresh / "config.json", transformers_config(model, tokenizer))
            write_json(fresh / "generation_config.json", special_ids(tokenizer) | sampling)
            tokenizer.save(fresh)
            info["files"] = {path.name: sha256(path) for path in sorted(fresh.iterdir())}
            if adapter is not None:
                adapter.write(fresh / "adapter", parent)
            write_json(fresh / "stage.json", info)
            write_text(fresh / "README.md", model_card(info))
    except (OSError, SafetensorError) as error:
        raise not_saved(folder, error) from error


def check_replaceable(folder: Path) -> None:
    """Raise CheckpointError when a folder holds something that is not a checkpoint."""
    if folder.exists() and not (folder / "stage.json").exists():
        raise CheckpointError(f"{folder} is not a checkpoint of this course: not replacing it")


def checksum_of(folder: Path) -> str | None:
    """The checksum of a checkpoint's weights by its stage.json; None without a checkpoint. Raises
    CheckpointError for a damaged one.
    """
    return read_info(folder)["files"]["model.safetensors"] if folder.exists() else None


def check_parent(folder: Path, info: dict) -> None:
    """Raise CheckpointError if the checkpoint beside `folder` that this one was trained from is by
    now another one. A checkpoint that stands alone is not checked.
    """
    parent = info.get("parent")
    beside = parent and folder.with_name(str(parent["stage"]))
    if parent and beside.exists() and checksum_of(beside) != parent["checksum"]:
        raise CheckpointError(
            f"{folder} was trained from another {parent['stage']} checkpoint "
            f"({parent['checksum'][:8]}) than {beside} is now ({checksum_of(beside)[:8]}): run "
            f"{MAKERS[info['stage']]} again"
        )


def parent_record(folder: Path) -> dict:
    """What a checkpoint records of its parent: the stage, the checksum of the weights and, if it
    descends from external weights, where these are from ("base").
    """
    info = read_info(folder)
    record = {"stage": info["stage"], "checksum": info["files"]["model.safetensors"]}
    base = base_of(info)
    return record | {"base": base} if base else record


# ---------------------------------------------------------------- load


def read_info(folder: Path, stage: str | None = None) -> dict:
    """The contents of stage.json. stage: the one wanted, for the message when there is none."""
    restore_folder(folder)
    path, remedy = folder / "stage.json", f": run {MAKERS[stage]} first" if stage else ""
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint at {folder}{remedy}")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        message = f"{folder} is not a checkpoint of this course (it has no stage.json)"
        raise CheckpointError(f"{message}{remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}{remedy}") from None
    if not isinstance(info, dict) or not {"stage", "track", "tokenizer", "files"} <= info.keys():
        raise CheckpointError(f"{path} is not one of this course")
    wrong = next((name for name, right in CONTENTS.items() if not right(info.get(name))), None)
    if wrong:
        raise CheckpointError(f"{path} is damaged: {wrong!r} is {info.get(wrong)!r:.60}{remedy}")
    return info


def has_texts(value: Any, names: set[str]) -> bool:
    """Whether a value is a dict with texts of one line under these names."""
    texts = [value.get(name) for name in names] if isinstance(value, dict) else [None]
    return all(isinstance(text, str) and text.isprintable() for text in texts)


def are_checksums(files: dict) -> bool:
    """Whether a dict has the SHA-256 of files in the checkpoint's own folder, by name."""
    here = all(re.fullmatch(r"\w[\w.-]{0,99}", name) for name in files)
    return here and all(re.fullmatch("[0-9a-f]{64}", str(checksum)) for checksum in files.values())


def is_parent(value: Any) -> bool:
    """Whether a value is a record as `parent_record` makes it."""
    right = has_texts(value, {"stage", "checksum"}) and value["stage"] in MAKERS
    return right and ("base" not in value or has_texts(value["base"], {"source", "revision"}))


def check_files(folder: Path, info: dict) -> None:
    """Raise CheckpointError when a file is missing or has changed; the model card may change."""
    for name, checksum in info["files"].items():
        path = folder / name
        if not path.is_file() or sha256(path) != checksum:
            state = "has changed since it was saved" if path.is_file() else "is missing"
            maker = MAKERS[info["stage"]]
            raise CheckpointError(f"{path} {state} (checksum mismatch): run {maker} again")


def load_stage(
    folder: str | Path,
    *,
    stage: str,
    track: str,
    tokenizer=None,
    device: str | torch.device = "cpu",
) -> tuple[GPT | RewardModel, dict]:
    """The model of a checkpoint and the contents of its stage.json.

    Raises CheckpointError, in one line that says what to do, when the checkpoint is missing,
    foreign, of another stage, track or tokenizer (checked when one is given), or damaged.
    """
    folder = Path(folder).absolute()
    if stage not in MAKERS:
        raise ValueError(f"no stage {stage!r}; stages: {', '.join(MAKERS)}")
    info = read_info(folder, stage)
    if info["stage"] != stage:
        other = f"{folder} holds stage {info['stage']!r}, not {stage!r}"
        raise CheckpointError(f"{other}: {MAKERS[stage]} makes the one needed here")
    if info["track"] != track:
        raise CheckpointError(
            f"{folder} was made for track {info['track']!r}, but this run is on track {track!r}"
        )
    theirs = info["tokenizer"]
    if tokenizer is not None and theirs["fingerprint"] != tokenizer.fingerprint:
        saved = f"{theirs['name']!r} ({theirs['fingerprint'][:8]})"
        ours = f"{tokenizer.name!r} ({tokenizer.fingerprint[:8]})"
        raise CheckpointError(f"{folder} was made with tokenizer {saved}, but this run uses {ours}")
    check_files(folder, info)
    check_parent(folder, info)
    try:
        settings = read_config(folder)
        state = load_file(folder / "model.safetensors")
        model = from_transformers_state(gpt_config(settings), state, settings)
        if is_reward_model(model) != (stage == "reward"):
            raise WeightsError(f"a {type(model).__name__} is no model of stage {stage!r}")
    except (WeightsError, SafetensorError, OSError) as error:
        remedy = f"run {MAKERS[stage]} again"
        raise CheckpointError(f"{folder} is damaged ({first_line(error)}): {remedy}") from None
    return model.to(device), info
