"""The side of transformers, and of torch for Muon: GPT-2 of the same sizes, as it runs by default
(float32, sdpa attention, eager) or told to use another number format. Training is a step of its
Trainer: the model's loss, gradients clipped to 1, fused AdamW.
"""

from contextlib import nullcontext

import torch
from torch import nn

from benchmarks.ours import matrices
from benchmarks.shapes import BATCH, CONTEXT, EOS, PAD, SIZES, VOCABULARY, left_padded, random_rows


def gpt2(size: str) -> nn.Module:
    """A random GPT2LMHeadModel of a size, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    layers, heads, channels = SIZES[size]
    sizes = dict(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_layer=layers, n_head=heads, n_embd=channels
    )
    ends = dict(bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD)
    return GPT2LMHeadModel(
        GPT2Config(**sizes, **ends, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    )


def training(size: str, dtype: str = "float32"):
    """A training step; with bfloat16 under autocast."""
    model = gpt2(size).train()
    ids = random_rows(BATCH, CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        with nullcontext() if dtype == "float32" else torch.autocast("cpu", getattr(torch, dtype)):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # its log reads it

    return step


def sampling(size: str, rows: int, length: int, new: int, dtype: str = "float32"):
    """generate() with its cache, at temperature 1 with nothing cut off; with bfloat16 the weights
    are bfloat16.
    """
    model = gpt2(size).eval().to(getattr(torch, dtype))
    model.generation_config.eos_token_id = None  # every row gets all its tokens
    ids, mask = left_padded(rows, length, length // 2)
    settings = dict(
        do_sample=True, top_k=0, max_new_tokens=new, pad_token_id=PAD, attention_mask=mask.long()
    )

    def once() -> None:
        assert model.generate(ids, **settings).shape == (rows, length + new), (
            "generate() stopped early"
        )

    return once


def muon(size: str):
    """A step of torch.optim.Muon, which takes one matrix after the other."""
    return torch.optim.Muon(matrices(size), lr=0.02, weight_decay=0.0).step
