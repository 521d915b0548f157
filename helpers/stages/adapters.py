"""Adapters as the stages use them: added as the settings say, merged into plain weights, saved
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

PEFT = "base_model.model.transformer"  # peft's name for the GPT in its names of weights
EMBEDDING = f"{PEFT}.wte.weight"
HEAD = "base_model.model.lm_head.weight"
BASE = "base_model_name_or_path"  # peft's name for where the frozen weights are
WEIGHTS = "adapter_model.safetensors"

# ---------------------------------------------------------------- what the settings ask for


def add_adapters(model: GPT, config: SFTConfig) -> None:
    """Prepare a model for training as config.adapter says, in place; "full" changes nothing.

    "lora" freezes the model and puts adapters on its blocks, "qlora" first rounds the matrices of
    the blocks to 4 bits; config.train_embeddings trains the token embedding as well. Raises
    ValueError for a rank, an alpha or a target that doesn't fit the model.
    """
    if config.adapter == "full":
        return
    if config.adapter == "qlora":
        quantize_model(model)
    trained = add_lora(model, config.rank, config.alpha, config.targets)
    bases = [layer.base for layer in lora_layers(model).values()]
    frozen = sum(base.in_features * base.out_features for base in bases)
    numbers = f"{trained:,} numbers learn beside {frozen:,} frozen ones"
    print(f"{config.adapter}: {numbers}, rank {config.rank}")
    model.wte.weight.requires_grad_(config.train_embeddings)


def policy_and_reference(sft: nn.Module, config: AdapterConfig) -> tuple[nn.Module, nn.Module]:
    """PPO's policy, which learns, and its reference, which doesn't; at first they are equal.

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
    """The adapters of a model, which a checkpoint keeps beside the merged weights."""

    weights: dict[str, Tensor]  # of `trained_state`
    rank: int
    alpha: float
    targets: list[str]
    base: str  # SHA-256 of the frozen weights that they were trained on
    in_4_bits: bool  # whether that model had layers in NF4

    def note(self) -> dict:
        """The entry of stage.json, with the kind of weights that they were merged into."""
        nf4 = "in NF4, and here dequantised, as they were trained on"
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "targets": self.targets,
            "trained_parameters": sum(weight.numel() for weight in self.weights.values()),
            "frozen_weights": nf4 if self.in_4_bits else "as in the parent",
        }

    def write(self, folder: Path, base: str | Path | None = None) -> None:
        """Write the files that peft opens, and base.json, which names the adapters' base.

        base: the checkpoint of that base, where peft's AutoPeftModelForCausalLM looks for it.
        """
        folder.mkdir(exist_ok=True)
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM"}
        config[BASE] = None if base is None else str(Path(base).absolute())
        config |= {"r": self.rank, "lora_alpha": self.alpha}
        config |= {"target_modules": self.targets, "bias": "none"}
        config["fan_in_fan_out"] = True  # transformers keeps GPT-2's weights as (in, out)
        weights = dict(self.weights)
        if EMBEDDING in weights:  # peft doesn't know that the head is the same matrix
            config["modules_to_save"] = ["wte", "lm_head"]
            weights[HEAD] = weights[EMBEDDING].clone()
        save_file(weights, folder / WEIGHTS)
        write_json(folder / "adapter_config.json", config)
        record = {"base_sha256": self.base, "files": {WEIGHTS: sha256(folder / WEIGHTS)}}
        write_json(folder / "base.json", record | {"settings_sha256": settings_sha256(config)})

    def put_on(self, model: nn.Module) -> None:
        """Add these adapters to a model, in place; `load_lora` checks that it is their base."""
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
    targets = {".".join(name.split(".")[-2:]) for name in layers}  # attn.c_attn of h.0.attn.c_attn
    weights = {name: weight.cpu().clone() for name, weight in trained_state(model).items()}
    base = base_sha256(model, without_embedding=embedding_learns(model))
    return Adapter(weights, first.rank, first.alpha, sorted(targets), base, is_quantized(model))


def merge_adapters(model: nn.Module) -> Adapter | None:
    """Turn a model with adapters into a plain one with the same outputs, in place; returns the
    adapters. None, and no change, without adapters.

    Layers in 4 bits become float32 with the rounded values: the adapters were trained on those.
    """
    if not lora_layers(model):
        return None
    adapter = take_adapters(model)
    merge_lora(model)
    dequantize_model(model)
    return adapter


# ---------------------------------------------------------------- files


def settings_sha256(config: dict) -> str:
    """SHA-256 of the contents of adapter_config.json, wherever the base is."""
    settings = {name: value for name, value in config.items() if name != BASE}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def base_sha256(model: nn.Module, without_embedding: bool) -> str:
    """SHA-256 of all weights but the adapters', the same before and after `add_lora`."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        embedding = without_embedding and name == "wte.weight"
        if embedding or ".lora_" in name or ".merged." in name:
            continue
        plain_name = name.replace(".base.", ".")
        digest.update(f"{plain_name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Every A and B, and the embedding if it learns, under peft's names; no copies."""
    state = {}
    for name, layer in lora_layers(model).items():
        for part in ("lora_A", "lora_B"):
            state[f"{PEFT}.{name.removeprefix('gpt.')}.{part}.weight"] = getattr(layer, part).data
    return state | ({EMBEDDING: model.wte.weight.data} if embedding_learns(model) else {})


def embedding_learns(model: nn.Module) -> bool:
    """Whether a model's token embedding is trained (a reward model's never is, beside adapters)."""
    return hasattr(model, "wte") and model.wte.weight.requires_grad


def save_lora(folder: str | Path, model: nn.Module, base: str | Path | None = None) -> None:
    """Write the adapters alone, in a folder that peft opens, replacing older ones in one move.

    base: the checkpoint with the frozen weights, where there is one, for peft to find it. Raises
    ValueError when the model has no adapters, or when `folder` holds something else.
    """
    folder, adapter = Path(folder).absolute(), take_adapters(model)
    if folder.exists() and not (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} exists and holds no adapters: not replacing it")
    with replaced_folder(folder) as fresh:
        adapter.write(fresh, base)


def load_lora(folder: str | Path, model: nn.Module) -> None:
    """Add saved adapters to the model that they were trained on, in place. Raises ValueError before
    anything changes, when they are missing, damaged or of another base.
    """
    folder = Path(folder).absolute()
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        base = json.loads((folder / "base.json").read_text("utf-8"))
        theirs, files = str(base["base_sha256"]), base["files"].items()
        changed = [name for name, checksum in files if sha256(folder / name) != checksum]
        if base.get("settings_sha256", settings_sha256(config)) != settings_sha256(config):
            changed.append("adapter_config.json")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no adapters can be read at {folder}: {error!r}") from None
    if changed:
        trouble = "has changed since it was saved (checksum mismatch)"
        raise ValueError(f"{folder / changed[0]} {trouble}")
    ours = base_sha256(model, without_embedding="modules_to_save" in config)
    if theirs != ours:
        bases = f"another base ({theirs[:8]}) than this model ({ours[:8]})"
        raise ValueError(f"{folder} belongs to {bases}")
    weights = load_file(folder / WEIGHTS)
    settings = config["r"], config["lora_alpha"], config["target_modules"]
    Adapter(weights, *settings, base=theirs, in_4_bits=is_quantized(model)).put_on(model)
