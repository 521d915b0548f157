"""How much memory a stage needs, counted by formula: weights, gradients, optimiser state,
activations, logits.

All in bytes, for float32 weights. What CUDA itself and the allocator's gaps take comes on top: half
a gigabyte to one.
Shapes: V vocabulary, C channels, L layers, T context.
"""

import torch

from helpers.config import PPOConfig, SFTConfig
from helpers.lora import add_lora, linear_layers
from helpers.model import GPT, GPTConfig
from helpers.quantization import memory_bytes, nf4_bytes

FLOAT = 4  # bytes
# Bytes that a block keeps for its backward pass, for each token and channel. Float32: 16 numbers
# (both LayerNorms' inputs and outputs, query, key, value, the heads' result, the MLP's 4 + 4, the
# sums). In 16 bits the two LayerNorm inputs stay float32 and the other 14 take half.
KEPT = {32: 16 * FLOAT, 16: 2 * FLOAT + 14 * 2}
LOGIT = 12  # bytes for each logit of a loss, at its peak: the logit, its log-softmax, its gradient


def parameters(model: GPTConfig) -> int:
    """Numbers in a GPT: token and position tables, blocks, the last LayerNorm (the head is the
    token table).
    """
    V, T, L, C = model.vocab_size, model.context, model.layers, model.channels
    return V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C


def matrices(model: GPTConfig) -> int:
    """Of these, how many are in the blocks' weight matrices, which Muon trains."""
    return 12 * model.layers * model.channels**2


def state_bytes(model: GPTConfig, muon: bool, trained: bool = True) -> int:
    """Weights, and when trained their gradients and what the optimisers remember: AdamW two
    numbers, Muon one.
    """
    remembered = 2 * parameters(model) - (matrices(model) if muon else 0)
    return FLOAT * (parameters(model) + (parameters(model) + remembered if trained else 0))


def activation_bytes(model: GPTConfig, tokens: int, bits: int) -> int:
    """What the blocks keep of so many tokens until the backward pass; in 16 bits also a copy of the
    matrices.
    """
    copies = 0 if bits == 32 else 2 * matrices(model)
    return KEPT[bits] * tokens * model.channels * model.layers + copies


def training_bytes(model: GPTConfig, tokens: int, guessed: int, bits: int, muon: bool) -> int:
    """One step of `helpers.training.fit` on so many tokens at once, of which `guessed` get
    logits.
    """
    return (
        state_bytes(model, muon)
        + activation_bytes(model, tokens, bits)
        + LOGIT * guessed * model.vocab_size
    )


def cache_bytes(model: GPTConfig, rows: int, length: int) -> int:
    """Keys and values of so many rows while they are sampled."""
    return 2 * FLOAT * model.layers * model.channels * rows * length


def ppo_bytes(model: GPTConfig, config: PPOConfig, length: int) -> int:
    """PPO's four models, two of them trained, in float32, at the largest of its three phases.

    length: tokens of the longest prompt and response. Sampling keeps a cache. Scoring keeps five
    times the logits of all responses (the policy's, and the steps of their entropy) and a block's
    work. Learning keeps the activations of policy and value model for a minibatch.
    """
    trained = state_bytes(model, config.muon_lr > 0) + state_bytes(
        model, muon=False
    )  # policy and value model
    state = trained + 2 * state_bytes(model, muon=False, trained=False)
    logits = config.rollout_size * config.response_tokens * model.vocab_size
    sampling = cache_bytes(model, config.rollout_size, length)
    scoring = 5 * FLOAT * logits + KEPT[32] * config.rollout_size * length * model.channels
    learned = config.minibatch_size * config.response_tokens * model.vocab_size
    learning = 2 * activation_bytes(model, config.minibatch_size * length, 32) + LOGIT * learned
    return state + max(sampling, scoring, learning)


def adapter_bytes(sizes: GPTConfig, config: SFTConfig) -> dict[str, int]:
    """Bytes of the weights, their gradients and the optimisers' state, counted on a model that
    takes no memory.

    float32; AdamW keeps two numbers for each that learns, Muon one. What the layers keep for the
    backward pass comes on top; it depends on the batch.
    """
    with torch.device("meta"):
        model = GPT(sizes)
        saved = 0
        if config.adapter == "qlora":
            blocks = linear_layers(model, ("c_attn", "c_proj", "c_fc")).values()
            saved = sum(
                4 * layer.weight.numel() - nf4_bytes(layer.weight.numel()) for layer in blocks
            )
        if config.adapter != "full":
            add_lora(model, config.rank, config.alpha, config.targets)
            model.wte.weight.requires_grad_(config.train_embeddings)
    _, muon_lr = config.rates
    learns = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    kept = [1 if muon_lr and ".h." in f".{name}" and p.dim() == 2 else 2 for name, p in learns]
    return {
        "trained": sum(p.numel() for _, p in learns),
        "weights": memory_bytes(model) - saved,
        "gradients": sum(4 * p.numel() for _, p in learns),
        "optimizer": sum(
            4 * number * p.numel() for number, (_, p) in zip(kept, learns, strict=True)
        ),
    }
