"""Every setting of every stage: one frozen dataclass a stage. Their defaults are the preset
`cpu`.
"""

from dataclasses import dataclass

# What SFT and PPO train: all weights, adapters, or adapters on 4-bit weights
ADAPTERS = ("full", "lora", "qlora")
SOURCES = ("embedded", "local", "hub")  # the track's own world, a folder, the Hugging Face Hub


@dataclass(frozen=True)
class PretrainConfig:
    """0-Pretrain: a GPT-2 from random weights on documents."""

    layers: int = 4
    heads: int = 4
    channels: int = 128  # width
    context: int = 256  # tokens: longest document, or prompt and response together
    # tokens of the vocabulary made from real rows (embedded worlds have their own); 0: GPT-2's
    vocabulary: int = 4096
    documents: int = 16_000  # training documents, each read `epochs` times
    eval_documents: int = 500  # held-out documents for the loss
    epochs: float = 1.0
    batch_size: int = 16  # documents a step
    # of these, how many the memory holds at once (0: all); the step stays the same
    micro_batch: int = 0
    lr: float = 1e-2  # AdamW: embeddings, norms, biases
    muon_lr: float = 2e-2  # Muon: matrices of the blocks
    seed: int = 0

    def __post_init__(self) -> None:
        if self.context % 16:
            raise ValueError(
                f"context must be a multiple of 16, which batches are padded to, not {self.context}"
            )


@dataclass(frozen=True)
class AdapterConfig:
    """What SFT and PPO train: the whole model, or thin matrices beside its frozen weights
    (adapters).
    """

    adapter: str = "full"  # or "lora", or "qlora": lora with the matrices of the blocks in 4 bits
    rank: int = 8  # r, the short side of A and B
    alpha: float = 16.0  # what B A adds to a weight is multiplied by alpha / rank
    targets: tuple[str, ...] = (
        "c_attn",
        "c_proj",
        "c_fc",
    )  # linear layers of the blocks that get an adapter
    # AdamW: A and B (Muon gains nothing on thin matrices), and the embedding if it learns
    adapter_lr: float = 1e-2

    def __post_init__(self) -> None:
        if self.adapter not in ADAPTERS:
            raise ValueError(f"no adapter {self.adapter!r}: choose from {', '.join(ADAPTERS)}")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank must be a whole number of at least 1, not {self.rank!r}")
        if isinstance(self.targets, str) or not self.targets:
            raise ValueError(
                f"targets must be a tuple of layer names, such as ('c_attn',), not {self.targets!r}"
            )
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, not {self.alpha!r}")

    @property
    def rates(self) -> tuple[float, float]:
        """Peak learning rates of AdamW and Muon for what is trained."""
        return (self.lr, self.muon_lr) if self.adapter == "full" else (self.adapter_lr, 0.0)


@dataclass(frozen=True)
class SFTConfig(AdapterConfig):
    """1-SFT: the base model learns the completion of a prompt from demonstrations."""

    # the base model: 0-Pretrain's, or "gpt2", a folder, a .pt file (helpers/run/base_model.py)
    init: str = "pretrain"
    demonstrations: int = 12_000
    copying_rows: int = 0  # before, on real posts: practice in copying (helpers/stages/copying.py),
    # and the posts read as documents; SFT then learns their titles beside their summaries
    adapt_epochs: float = 0.0
    # beside adapters: a frozen embedding can't learn words that pretraining never met
    train_embeddings: bool = True
    epochs: float = 1.0
    batch_size: int = 16  # demonstrations a step
    micro_batch: int = 0  # of these, how many the memory holds at once (0: all)
    lr: float = 3e-3
    muon_lr: float = 1e-2
    response_tokens: int = 64  # longest sampled response
    eval_prompts: int = 500  # held-out prompts that are sampled and judged
    seed: int = 0


@dataclass(frozen=True)
class RewardConfig:
    """2-RM-Training: the SFT model with a scalar head learns which of two completions annotators
    prefer.
    """

    comparisons: int = 15_000
    epochs: float = 1.0
    batch_size: int = 32  # pairs a step: to see that two words are the same takes a steady gradient
    micro_batch: int = 0  # of these, how many the memory holds at once (0: all)
    lr: float = 3e-3
    # reading facts comes suddenly: at this rate early in the run, whatever the rounding
    muon_lr: float = 1.4e-2
    # learn from single texts with labels (records "labels") instead of pairs
    pointwise: bool = False
    # weight of the language-model loss on both completions, beside the pairwise loss
    lm_coef: float = 0.5
    # of the real comparisons' prompts: for a second judge, which only measures
    judge_share: float = 0.2
    best_of: int = 8  # samples a prompt for best-of-n
    response_tokens: int = 64
    eval_prompts: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.judge_share < 1:
            raise ValueError(f"judge_share must be 0 or more and below 1, not {self.judge_share}")


@dataclass(frozen=True)
class PPOConfig(AdapterConfig):
    """3-PPO: the policy learns from the reward model's scores, held near the SFT model by a KL
    penalty.
    """

    iterations: int = 22
    rollout_size: int = 64  # prompts, with one response each, an iteration
    minibatch_size: int = 32  # responses a gradient step
    micro_batch: int = 0  # of these, how many the memory holds at once (0: all)
    epochs: int = 2  # times that each rollout is used
    lr: float = 1e-3
    muon_lr: float = 2e-3
    # AdamW throughout: cheaper than Muon, and it follows the returns of a moving policy faster
    value_lr: float = 3e-3
    adapter_lr: float = 2e-3
    kl_coef: float = 0.3  # weight of the per-token KL penalty in the reward (score units per nat)
    # nats per response: kl_coef is moved towards a KL of so much; 0: it stays as it is
    kl_target: float = 0.0
    kl_horizon: int = 640  # responses in which it may grow by a fifth
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2  # of the probability ratio
    value_clip: float = 0.2  # in score units
    missing_eos_score: float = -3.0  # replaces the score of a response that never ended
    response_tokens: int = 64
    eval_prompts: int = 500
    seed: int = 0


CONFIGS = {"pretrain": PretrainConfig, "sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}
