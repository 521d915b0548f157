"""How much the key-value cache speeds up sampling: prompt 64, 48 new tokens, batch 64, 4 layers x 128, vocabulary 2048.

    python -m tests.benchmarks.sampling

Both ways take turns, round by round, and the medians are compared: on a shared machine a ratio means more than a time.
"""

import statistics
import time

import torch

from helpers.generation import sample
from helpers.model import GPT, GPTConfig

TARGET = 5.0  # times faster with the cache
EOS, PAD = 0, 1


def seconds(model: GPT, prompts: torch.Tensor, use_cache: bool) -> float:
    """Wall seconds to sample 48 tokens for every prompt (the end of text is ruled out, so that no row stops early)."""
    start = time.perf_counter()
    sample(
        model,
        prompts,
        torch.ones_like(prompts),
        max_new_tokens=48,
        eos_id=-1,  # no token has this id
        pad_id=PAD,
        generator=torch.Generator().manual_seed(0),
        use_cache=use_cache,
    )
    return time.perf_counter() - start


def measure(rounds: int = 5) -> float:
    """The median time without the cache over the median time with it; prints both."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=2048, context=128, layers=4, heads=4, channels=128))
    prompts = torch.randint(2, 2048, (64, 64))
    times = {True: [], False: []}
    for turn in range(rounds + 1):
        for use_cache in times:
            taken = seconds(model, prompts, use_cache)
            if turn:  # the first round only warms up
                times[use_cache].append(taken)
    cached, full = (statistics.median(times[use_cache]) for use_cache in (True, False))
    tokens = 64 * 48
    print(f"with cache    {cached:6.2f} s  {tokens / cached:8,.0f} tokens/s")
    print(f"without cache {full:6.2f} s  {tokens / full:8,.0f} tokens/s")
    return full / cached


if __name__ == "__main__":
    ratio = measure()
    print(f"ratio {ratio:.1f} (target {TARGET:.0f} or more), {torch.get_num_threads()} threads")
    raise SystemExit(ratio < TARGET)
