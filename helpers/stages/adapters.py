"""Adapters as the stages use them: added as the settings say, merged into plain weights, kept
beside them as files.

The layers themselves are taught in 1-SFT (helpers/lora.py, helpers/quantization.py).
"""

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers.config import AdapterConfig, SFTConfig
from helpers.engine.files import replaced_folder, sha256, write_json
from helpers.lora import add_lora, lora_layers, merge_lora, shared_copy
from helpers.model import GPT
from helpers.quantization import dequantize_model, is_quantized, quantize_model

EMBEDDING = "base_model.model.transformer.wte.weight"  # peft's name for the token embedding

# ---------------------------------------------------------------- what the settings ask for


def add_adapters(model: GPT, config: SFTConfig) -> None:
    """Prepare a model for training as config.adapter says, in place; "full" changes nothing.

    "lora" freezes the model and puts adapters on its blocks, "qlora" first rounds the matrices of
    the blocks to 4 bits; config.train_embeddings lets the token embedding learn as well. Raises
    ValueError for a rank, an alpha or a target that doesn't fit the model.
    """
    if config.adapter == "full":
        return
    if config.adapter == "qlora":
        quantize_model(model)
    trained = add_lora(model, config.rank, config.alpha, config.targets)
    weights = sum(
        layer.base.in_features * layer.base.out_features for layer in lora_layers(model).values()
    )
    print(
        f"{config.adapter}: {trained:,} numbers learn beside {weights:,} frozen ones, rank "
        f"{config.rank}"
    )
    model.wte.weight.requires_grad_(config.train_embeddings)


def policy_and_reference(sft: nn.Module, config: AdapterConfig) -> tuple[nn.Module, nn.Module]:
    """PPO's policy and its reference, which say the same at first: the policy learns, the reference
    never changes.

    "full": the policy is a copy. With adapters both use one set of frozen weights and only the
    policy has adapters on them, so there is no second copy; with "qlora" both use the SFT model in
    4 bits.
    """
    if config.adapter == "full":
        return copy.deepcopy(sft).requires_grad_(True), sft.requires_grad_(False)
    reference = shared_copy(sft)
    if config.adapter == "qlora":
        quantize_model(reference)
    policy = shared_copy(reference)
    add_lora(policy, config.rank, config.alpha, config.targets)
    return policy, reference


# ---------------------------------------------------------------- from adapters to plain weights


@dataclass(frozen=True)
class Adapter:
    """The adapters of a model, apart from it: what a checkpoint keeps beside the merged weights."""

    weights: dict[
        str, Tensor
    ]  # every A and B, and the embedding if it was trained, under peft's name for it
    rank: int
    alpha: float
    targets: list[str]
    base: str  # SHA-256 of the frozen weights that they were trained on
    in_4_bits: bool  # whether that model had layers in NF4

    def note(self) -> dict:
        """What stage.json says of them, and of the weights that they were merged into."""
        base = (
            "in NF4, and here dequantised, as they were trained on"
            if self.in_4_bits
            else "as in the parent"
        )
        trained = sum(weight.numel() for weight in self.weights.values())
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": self.targets,
            "trained_parameters": trained,
            "frozen_weights": base,
        }

    def write(self, folder: Path) -> None:
        """Write the files that peft opens, and base.json, which names their base, into a folder
        (made if needed).
        """
        folder.mkdir(exist_ok=True)
        config = {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "target_modules": self.targets,
        }
        config |= {
            "fan_in_fan_out": True,
            "bias": "none",
        }  # transformers keeps GPT-2's weights as (in, out)
        weights = dict(self.weights)
        if EMBEDDING in weights:  # peft doesn't know that the head is the same matrix
            config["modules_to_save"] = ["wte", "lm_head"]
            weights["base_model.model.lm_head.weight"] = weights[EMBEDDING].clone()
        save_file(weights, folder / "adapter_model.safetensors")
        write_json(folder / "adapter_config.json", config)
        files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / "base.json", {"base_sha256": self.base, "files": files})

    def put_on(self, model: nn.Module) -> None:
        """Add these adapters to a model, in place; whether it is their base is not looked at
        (`load_lora` does).
        """
        add_lora(model, self.rank, self.alpha, self.targets)
        if EMBEDDING in self.weights:
            model.wte.weight.requires_grad_(True)
        for name, weight in trained_state(model).items():
            weight.copy_(self.weights[name])


def take_adapters(model: nn.Module) -> Adapter:
    """A copy of a model's adapters. ValueError when it has none."""
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no adapters to save")
    first = next(iter(layers.values()))
    targets = sorted(
        {".".join(name.split(".")[-2:]) for name in layers}
    )  # attn.c_attn of h.0.attn.c_attn
    weights = {name: weight.cpu().clone() for name, weight in trained_state(model).items()}
    base = base_sha256(model, without_embedding=embedding_learns(model))
    return Adapter(weights, first.rank, first.alpha, targets, base, is_quantized(model))


def merge_adapters(model: nn.Module) -> Adapter | None:
    """Turn a model with adapters into a plain one that says the same, in place; returns the
    adapters.

    Layers in 4 bits become float32 with the rounded values: those are what the adapters were
    trained on, and the unrounded ones would make another model than the one that was trained. None,
    and no change, without adapters.
    """
    if not lora_layers(model):
        return None
    adapter = take_adapters(model)
    merge_lora(model)
    dequantize_model(model)
    return adapter


# ---------------------------------------------------------------- files


def base_sha256(model: nn.Module, without_embedding: bool = False) -> str:
    """SHA-256 of all weights but the adapters', in hexadecimal: the same before and after
    `add_lora`.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        trained = (
            ".lora_" in name or ".merged." in name or (without_embedding and name == "wte.weight")
        )
        if not trained:
            digest.update(
                f"{name.replace('.base.', '.')} {weight.dtype} {tuple(weight.shape)}\n".encode()
            )
            digest.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Every A and B, and the embedding if it learns, under peft's name for it; the tensors are the
    model's own.
    """
    state = {
        f"base_model.model.transformer.{name.removeprefix('gpt.')}.{part}.weight": getattr(
            layer, part
        ).data
        for name, layer in lora_layers(model).items()
        for part in ("lora_A", "lora_B")
    }
    return state | ({EMBEDDING: model.wte.weight.data} if embedding_learns(model) else {})


def embedding_learns(model: nn.Module) -> bool:
    """Whether a model's token embedding is trained (a reward model's never is, beside adapters)."""
    return hasattr(model, "wte") and model.wte.weight.requires_grad


def save_lora(folder: str | Path, model: nn.Module) -> None:
    """Write the adapters alone, in a folder that peft opens, replacing older ones in one move.

    Raises ValueError when the model has none, or when `folder` holds something else.
    """
    folder, adapter = Path(folder).absolute(), take_adapters(model)
    if folder.exists() and not (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} exists and holds no adapters: not replacing it")
    with replaced_folder(folder) as fresh:
        adapter.write(fresh)


def load_lora(folder: str | Path, model: nn.Module) -> None:
    """Add saved adapters to the model that they were trained on, in place.

    Raises ValueError, in one line and before anything changes, when they are missing, damaged or of
    another base.
    """
    folder = Path(folder).absolute()
    try:
        config, base = (
            json.loads((folder / name).read_text("utf-8"))
            for name in ("adapter_config.json", "base.json")
        )
        theirs = str(base["base_sha256"])
        changed = [
            name for name, checksum in base["files"].items() if sha256(folder / name) != checksum
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no adapters can be read at {folder}: {error!r}") from None
    if changed:
        raise ValueError(
            f"{folder / changed[0]} has changed since it was saved (checksum mismatch)"
        )
    ours = base_sha256(model, without_embedding="modules_to_save" in config)
    if theirs != ours:
        raise ValueError(
            f"{folder} belongs to another base ({theirs[:8]}) than this model ({ours[:8]})"
        )
    weights = load_file(folder / "adapter_model.safetensors")
    settings = config["r"], config["lora_alpha"], config["target_modules"]
    Adapter(weights, *settings, base=theirs, in_4_bits=is_quantized(model)).put_on(model)
