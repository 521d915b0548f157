"""Handing a stage's model to the next notebook: a folder that transformers opens, plus stage.json
(where it came from).

model.safetensors, config.json and the tokenizer files are transformers' own formats; nothing is
pickled. A folder is written beside its final place and then moved there, so that an interruption
never leaves half a checkpoint.
"""

import json
import platform
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.engine.files import replaced_folder, restore_folder, sha256
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.run.cards import base_of, model_card

NOTEBOOKS = {  # stage: the notebook that makes its checkpoint
    # weights from elsewhere, in the place of pretrain's (helpers/run/base_model.py)
    "base": "1-SFT.ipynb",
    "pretrain": "0-Pretrain.ipynb",
    "sft": "1-SFT.ipynb",
    "reward": "2-RM-Training.ipynb",
    "ppo": "3-PPO.ipynb",
}


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, foreign, damaged, or made for something else."""


# ---------------------------------------------------------------- weights


def is_conv1d(name: str) -> bool:
    """Whether transformers keeps this weight as a Conv1D: (in, out), the transpose of nn.Linear's
    (out, in).
    """
    return name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight"))


def is_reward_model(model: GPT | RewardModel) -> bool:
    """Whether a model has a score head. By its parts, not its class: 2-RM-Training defines
    RewardModel once more.
    """
    return hasattr(model, "score")


def to_transformers_state(model: GPT | RewardModel) -> dict[str, Tensor]:
    """Our weights under transformers' names and in its layout (the head is tied to wte, so it is
    not listed).

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
    """A model with transformers' GPT-2 weights: a RewardModel when they hold a score head, else a
    GPT.

    Takes names with or without "transformer." and skips what we don't keep (tied head, old mask
    buffers). Raises RuntimeError, naming the weights, when one is missing, left over or of another
    shape.
    """
    ours = {}
    for name, weight in state.items():
        name = name.removeprefix("transformer.")
        if name not in ("score.weight", "lm_head.weight") and not name.endswith(
            (".attn.bias", ".attn.masked_bias")
        ):
            ours[name] = weight.T if is_conv1d(name) else weight
    gpt = GPT(config)
    gpt.load_state_dict(ours)
    if "score.weight" not in state:
        return gpt
    model = RewardModel(gpt)
    model.score.load_state_dict({"weight": state["score.weight"]})
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
        "bos_token_id": tokenizer.eos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "dtype": str(gpt.wte.weight.dtype).removeprefix("torch."),
    }
    if reward:  # one label: a number
        config |= {
            "id2label": {"0": "score"},
            "label2id": {"score": 0},
            "problem_type": "regression",
        }
    return config


def generation_config(tokenizer) -> dict:
    """The contents of generation_config.json: sample from the whole distribution (transformers
    keeps the top 50).
    """
    ids = {
        "bos_token_id": tokenizer.eos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    return ids | {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file of a checkpoint, which `save_stage` moves into place as a whole."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
    """Write a stage's checkpoint with its model card, replacing an old one of the same name in one
    move.

    parent is the folder of the checkpoint this one was trained from (None for pretraining); its
    stage and checksum are recorded. config and metrics are the run's, as JSON values. adapter
    (`helpers.stages.adapters.Adapter`) is what was merged into the model, kept in the folder
    adapter/. Raises CheckpointError when `folder` holds something that is not a checkpoint,
    ValueError when stage and model don't belong together.
    """
    folder = Path(folder).absolute()
    if stage not in NOTEBOOKS or is_reward_model(model) != (stage == "reward"):
        kind, stages = type(model).__name__, ", ".join(NOTEBOOKS)
        raise ValueError(
            f"a {kind} is no checkpoint of stage {stage!r} (stages: {stages}; reward is a "
            "RewardModel)"
        )
    if folder.exists() and not (folder / "stage.json").exists():
        raise CheckpointError(
            f"{folder} exists and is not a checkpoint of this course: not replacing it"
        )
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
    with replaced_folder(folder) as fresh:
        save_file(
            to_transformers_state(model), fresh / "model.safetensors", metadata={"format": "pt"}
        )
        write_json(fresh / "config.json", transformers_config(model, tokenizer))
        write_json(fresh / "generation_config.json", generation_config(tokenizer))
        tokenizer.save(fresh)
        info["files"] = {path.name: sha256(path) for path in sorted(fresh.iterdir())}
        if adapter is not None:
            adapter.write(fresh / "adapter")
        write_json(fresh / "stage.json", info)
        (fresh / "README.md").write_text(model_card(info), encoding="utf-8", newline="\n")


def checksum_of(folder: Path) -> str | None:
    """The checksum of a checkpoint's weights, as its stage.json has it; None where there is no
    checkpoint.
    """
    try:
        return read_info(folder, None)["files"]["model.safetensors"]
    except (CheckpointError, KeyError):
        return None


def parent_record(folder: Path) -> dict:
    """What a checkpoint keeps of its parent: the stage, the checksum of the weights, and where the
    first ones are from.

    The last ("base") only where that is not the learner's own pretraining.
    """
    info = read_info(folder, None)
    record, base = (
        {"stage": info["stage"], "checksum": info["files"]["model.safetensors"]},
        base_of(info),
    )
    return record | {"base": base} if base else record


# ---------------------------------------------------------------- load


def read_info(folder: Path, stage: str | None) -> dict:
    """The contents of stage.json. `stage` is the one wanted, for the message when there is
    nothing.
    """
    restore_folder(folder)
    if not folder.is_dir():
        maker = f": run {NOTEBOOKS[stage]} first" if stage else ""
        raise CheckpointError(f"no checkpoint at {folder}{maker}")
    try:
        info = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        maker = f"; {NOTEBOOKS[stage]} makes the one needed here" if stage else ""
        raise CheckpointError(
            f"{folder} is not a checkpoint of this course (it has no stage.json){maker}"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{folder / 'stage.json'} is damaged: {error}") from None
    if not isinstance(info, dict) or not {"stage", "track", "tokenizer", "files"} <= info.keys():
        raise CheckpointError(f"{folder / 'stage.json'} is not one of this course")
    return info


def check_info(folder: Path, info: dict, stage: str, track: str, tokenizer) -> None:
    """Raise CheckpointError, with both names, when a checkpoint is not the one asked for, or its
    files have changed.
    """
    if info["stage"] != stage:
        found = f"{folder} holds stage {info['stage']!r}, not {stage!r}"
        raise CheckpointError(f"{found}: {NOTEBOOKS[stage]} makes the one needed here")
    if info["track"] != track:
        raise CheckpointError(
            f"{folder} was made for track {info['track']!r}, but this run is on track {track!r}"
        )
    theirs = info["tokenizer"]
    if tokenizer is not None and theirs["fingerprint"] != tokenizer.fingerprint:
        made = f"{theirs['name']!r} ({theirs['fingerprint'][:8]})"
        mine = f"{tokenizer.name!r} ({tokenizer.fingerprint[:8]})"
        raise CheckpointError(f"{folder} was made with tokenizer {made}, but this run uses {mine}")
    check_files(folder, info)


def check_files(folder: Path, info: dict) -> None:
    """Raise CheckpointError when a file of the checkpoint is missing or has changed. The model card
    may change.
    """
    for name, checksum in info["files"].items():
        path = folder / name
        if not path.exists() or sha256(path) != checksum:
            state = "has changed since it was saved" if path.exists() else "is missing"
            raise CheckpointError(
                f"{path} {state} (checksum mismatch): run {NOTEBOOKS[info['stage']]} again"
            )


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
    if stage not in NOTEBOOKS:
        raise ValueError(f"no stage {stage!r}; stages: {', '.join(NOTEBOOKS)}")
    info = read_info(folder, stage)
    check_info(folder, info, stage, track, tokenizer)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = GPTConfig(
        vocab_size=written["vocab_size"],
        context=written["n_positions"],
        layers=written["n_layer"],
        heads=written["n_head"],
        channels=written["n_embd"],
    )
    model = from_transformers_state(config, load_file(folder / "model.safetensors"))
    return model.to(device), info
