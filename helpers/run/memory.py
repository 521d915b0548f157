"""How much memory a stage needs, counted by formula: weights, gradients, optimiser state,
activations, logits.

All in bytes, for float32 weights. CUDA and gaps in the allocator's memory add half a gigabyte to
one.
Shapes: V vocabulary, C channels, L layers, T context.
"""

from dataclasses import replace

import torch

from helpers.config import PPOConfig, RewardConfig, SFTConfig
from helpers.cross_entropy import MAX_LOGITS, MIN_ROWS
from helpers.evaluation import MAX_CACHE
from helpers.lora import add_lora, linear_layers
from helpers.model import GPT, GPTConfig
from helpers.quantization import memory_bytes, nf4_bytes

FLOAT = 4  # bytes
# Bytes that a block keeps for its backward pass, for each token and channel. Float32: 16 numbers
# (both LayerNorms' inputs and outputs, query, key, value, the heads' result, the MLP's 4 + 4, the
# sums). In 16 bits the two LayerNorm inputs stay float32 and the other 14 take half.
SAVED = {32: 16 * FLOAT, 16: 2 * FLOAT + 14 * 2}
LOGIT = 12  # bytes for each logit of a loss, at its peak: the logit, its log-softmax, its gradient


def parameters(model: GPTConfig) -> int:
    """Numbers in a GPT: token and position tables, blocks, the last LayerNorm; the head is tied."""
    V, T, L, C = model.vocab_size, model.context, model.layers, model.channels
    return V * C + T * C + L * (12 * C * C + 13 * C) + 2 * C


def matrices(model: GPTConfig) -> int:
    """Numbers in the blocks' weight matrices, which Muon trains."""
    return 12 * model.layers * model.channels**2


def state_bytes(model: GPTConfig, muon: bool, trained: bool = True) -> int:
    """Weights and, when trained, gradients and optimiser state: AdamW two numbers, Muon one."""
    if not trained:
        return FLOAT * parameters(model)
    return FLOAT * (4 * parameters(model) - (matrices(model) if muon else 0))


def activation_bytes(model: GPTConfig, tokens: int, bits: int) -> int:
    """Activations until the backward pass; in 16 bits also a copy of the matrices."""
    copies = 0 if bits == 32 else 2 * matrices(model)
    return SAVED[bits] * tokens * model.channels * model.layers + copies


def training_bytes(model: GPTConfig, tokens: int, predicted: int, bits: int, muon: bool) -> int:
    """One training step on so many tokens at once, of which `predicted` get logits."""
    logits = loss_bytes(model, predicted)
    return state_bytes(model, muon) + activation_bytes(model, tokens, bits) + logits


def loss_bytes(model: GPTConfig, predicted: int) -> int:
    """The logits of so many tokens in `token_cross_entropy`. In chunks there are fewer of them, but
    also the gradients of hidden states and head, the latter twice.
    """
    V, C = model.vocab_size, model.channels
    at_once = max(MIN_ROWS, MAX_LOGITS // V)
    if predicted * V <= MAX_LOGITS:
        return LOGIT * predicted * V
    return LOGIT * min(predicted, at_once) * V + FLOAT * (predicted * C + 2 * V * C)


def cache_bytes(model: GPTConfig, rows: int, length: int) -> int:
    """Keys and values of so many rows while they are sampled."""
    return 2 * FLOAT * model.layers * model.channels * rows * length


def ppo_bytes(model: GPTConfig, config: PPOConfig, length: int) -> int:
    """PPO's four models, two of them trained, in float32, at the largest of its three phases.

    length: tokens of the longest prompt and response. Sampling keeps a cache. Scoring keeps five
    times the logits of all responses (the policy's, and the steps of their entropy) and a block's
    work. Learning keeps the activations of policy and value model for a minibatch.
    """
    trained = state_bytes(model, config.muon_lr > 0) + state_bytes(model, muon=False)
    frozen = 2 * state_bytes(model, muon=False, trained=False)
    rows, minibatch = config.rollout_size, config.minibatch_size
    logits = config.response_tokens * model.vocab_size  # of a row
    sampling = cache_bytes(model, rows, length)
    scoring = rows * (5 * FLOAT * logits + SAVED[32] * length * model.channels)
    learning = 2 * activation_bytes(model, minibatch * length, 32) + LOGIT * minibatch * logits
    return trained + frozen + max(sampling, scoring, learning)


def sampling_bytes(model: GPTConfig, length: int, rows: int = 128) -> int:
    """Held-out prompts of at most this length, response included, sampled `rows` at a time: their
    cache, a copy of one of its layers, and a block's work on the prompts.
    """
    rows = max(1, min(rows, MAX_CACHE // cache_bytes(model, 1, length)))
    cache = cache_bytes(model, rows, length)
    return cache + cache // model.layers + SAVED[32] * rows * length * model.channels


def ppo_notebook_bytes(
    model: GPTConfig, config: PPOConfig, reward: RewardConfig, length: int, bits: int = 16
) -> dict[str, int]:
    """The phases of 3-PPO. `bits`: of the weak reward model's training.

    Beside what is trained the notebook holds the base model, and in the end also the first run's
    reward model, policy and value model. (In an embedded world, where models are small, also the
    oracle's policy.)
    """
    one = state_bytes(model, muon=False, trained=False)
    sampling = sampling_bytes(model, length)
    few = min(16, config.micro_batch or config.minibatch_size)
    pairs = min(16, reward.micro_batch or 16) * (length + reward.response_tokens)
    weak = training_bytes(model, pairs, 0, bits, muon=False)
    weak += (
        LOGIT * min(16, reward.micro_batch or 16) * 2 * reward.response_tokens * model.vocab_size
    )
    free = replace(config, rollout_size=32, minibatch_size=few)
    return {
        "training": ppo_bytes(model, config, length) + one,
        "measuring": 5 * one + sampling,
        "weak reward model": 5 * one + max(weak, one + sampling),  # which normalises it
        "no penalty": ppo_bytes(model, free, length) + 4 * one,
        "measuring again": 8 * one + sampling,
    }


def adapter_bytes(sizes: GPTConfig, config: SFTConfig) -> dict[str, int]:
    """Bytes of the float32 weights, their gradients and the optimiser state, without activations;
    "trained" is the number of trained weights. Counted on a model that takes no memory.
    """
    with torch.device("meta"):
        model = GPT(sizes)
        saved = 0
        if config.adapter == "qlora":
            blocks = linear_layers(model, ("c_attn", "c_proj", "c_fc")).values()
            sizes_of = [layer.weight.numel() for layer in blocks]
            saved = sum(FLOAT * size - nf4_bytes(size) for size in sizes_of)
        if config.adapter != "full":
            add_lora(model, config.rank, config.alpha, config.targets)
            model.wte.weight.requires_grad_(config.train_embeddings)
    muon = config.rates[1] > 0
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    by_muon = [p for name, p in trained if muon and ".h." in f".{name}" and p.dim() == 2]
    numbers = sum(p.numel() for _, p in trained)
    return {
        "trained": numbers,
        "weights": memory_bytes(model) - saved,
        "gradients": FLOAT * numbers,
        "optimizer": FLOAT * (2 * numbers - sum(p.numel() for p in by_muon)),
    }
