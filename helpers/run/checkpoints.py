"""Handing a stage's model to the next notebook: a folder that transformers opens, plus stage.json
(where it came from). Nothing is pickled, and an interruption never leaves half a checkpoint.
"""

import json
import platform
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.engine.files import replaced_folder, restore_folder, sha256, write_json, write_text
from helpers.engine.room import not_saved
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.run.cards import base_of, model_card
from helpers.run.folders import NOTEBOOKS

# stage: the notebook that makes its checkpoint; "base": external weights in the place of pretrain's
MAKERS = {"base": "1-SFT.ipynb"} | {stage: f"{name}.ipynb" for stage, name in NOTEBOOKS.items()}


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, foreign, damaged, or made for something else."""


# ---------------------------------------------------------------- weights


def is_conv1d(name: str) -> bool:
    """Whether transformers keeps this weight as a Conv1D: (in, out), not (out, in)."""
    return name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight"))


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


def from_transformers_state(config: GPTConfig, state: dict[str, Tensor]) -> GPT | RewardModel:
    """A model with transformers' GPT-2 weights: with a score head a RewardModel, else a GPT.

    Raises RuntimeError, naming the weights, when one is missing, left over or of another shape.
    """
    gpt, weights = GPT(config), without_copies(state)
    score = weights.pop("score.weight", None)
    gpt.load_state_dict({name: w.T if is_conv1d(name) else w for name, w in weights.items()})
    if score is None:
        return gpt
    model = RewardModel(gpt)
    model.score.load_state_dict({"weight": score})
    return model


def without_copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's weights without "transformer." in their names, the tied head and mask buffers."""
    names = {name: name.removeprefix("transformer.") for name in state}
    skipped = ("lm_head.weight", ".attn.bias", ".attn.masked_bias")
    return {names[name]: state[name] for name in state if not name.endswith(skipped)}


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
    return config


def special_ids(tokenizer) -> dict[str, int]:
    """The special tokens in transformers' words."""
    eos, pad = tokenizer.eos_id, tokenizer.pad_id
    return {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": pad}


def gpt_config(config: dict) -> GPTConfig:
    """Our sizes from the contents of a config.json."""
    names = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")
    return GPTConfig(*(config[name] for name in names))


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
                adapter.write(fresh / "adapter")
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
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if not isinstance(info, dict) or not {"stage", "track", "tokenizer", "files"} <= info.keys():
        raise CheckpointError(f"{path} is not one of this course")
    return info


def check_files(folder: Path, info: dict) -> None:
    """Raise CheckpointError when a file is missing or has changed; the model card may change."""
    for name, checksum in info["files"].items():
        path = folder / name
        if not path.exists() or sha256(path) != checksum:
            state = "has changed since it was saved" if path.exists() else "is missing"
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
    config = gpt_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model = from_transformers_state(config, load_file(folder / "model.safetensors"))
    return model.to(device), info
