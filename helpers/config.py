"""The settings of every stage, one frozen dataclass per stage; the defaults are preset `cpu`."""

from dataclasses import dataclass

# What SFT and PPO train: all weights, adapters, or adapters on 4-bit weights.
ADAPTERS = ("full", "lora", "qlora")
SOURCES = ("embedded", "local", "hub")  # the generated world, a folder, the Hugging Face Hub


@dataclass(frozen=True)
class PretrainConfig:
    """0-Pretrain: train a GPT-2 from random weights on documents."""

    layers: int = 2
    heads: int = 4
    channels: int = 128  # width of the model
    context: int = 256  # tokens: longest document, or prompt and response together
    # Size of the vocabulary trained on real rows; 0: GPT-2's. Embedded worlds bring their own.
    vocabulary: int = 4096
    documents: int = 8_000  # training documents, each read `epochs` times
    eval_documents: int = 500  # held-out documents for the loss
    epochs: float = 1.0
    batch_size: int = 16  # documents per step
    micro_batch: int = 0  # documents in memory at once (0: the whole batch); same step
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
    """What SFT and PPO train: the whole model, or low-rank adapters next to frozen weights."""

    adapter: str = "full"  # or "lora", or "qlora": lora with the matrices of the blocks in 4 bits
    rank: int = 8  # r, the short side of A and B
    alpha: float = 16.0  # the update B A is multiplied by alpha / rank
    targets: tuple[str, ...] = ("c_attn", "c_proj", "c_fc")  # layers of the blocks to adapt
    # AdamW: A and B (Muon gains nothing on thin matrices), and the embedding if it is trained.
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

    # The base model: 0-Pretrain's, or "gpt2", a folder, a .pt file (helpers/run/base_model.py).
    init: str = "pretrain"
    demonstrations: int = 8_000
    # Before SFT, on real posts: rows of copying practice (helpers/stages/copying.py), and epochs
    # over the posts as documents. SFT then learns the posts' titles as well as their summaries.
    copying_rows: int = 0
    adapt_epochs: float = 0.0
    # With adapters: a frozen embedding cannot learn words that pretraining never saw.
    train_embeddings: bool = True
    epochs: float = 1.0
    batch_size: int = 16  # demonstrations per step
    micro_batch: int = 0  # demonstrations in memory at once (0: the whole batch)
    lr: float = 3e-3
    muon_lr: float = 1e-2
    response_tokens: int = 64  # longest sampled response
    eval_prompts: int = 500  # held-out prompts whose responses are evaluated
    seed: int = 0


@dataclass(frozen=True)
class RewardConfig:
    """2-RM-Training: the SFT model with a scalar head learns which completion annotators prefer."""

    comparisons: int = 6_000
    epochs: float = 1.0
    # Pairs per step: learning to match words between post and summary takes a low-noise gradient.
    batch_size: int = 32
    micro_batch: int = 0  # pairs in memory at once (0: the whole batch)
    lr: float = 2e-3
    muon_lr: float = 8e-3
    pointwise: bool = False  # learn from single labelled texts (records "labels"), not from pairs
    # The surprise weight's start (`RewardModel`); 0: a scalar head alone.
    surprise_weight: float = 0.3
    # Share of the real comparisons' prompts that trains a second judge, used only to evaluate.
    judge_share: float = 0.2
    best_of: int = 8  # samples per prompt for best-of-n
    response_tokens: int = 64
    eval_prompts: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.judge_share < 1:
            raise ValueError(f"judge_share must be 0 or more and below 1, not {self.judge_share}")


@dataclass(frozen=True)
class PPOConfig(AdapterConfig):
    """3-PPO: the policy maximises the reward model's score minus a KL penalty to the SFT model."""

    iterations: int = 32
    rollout_size: int = 128  # prompts per iteration, with one response each
    minibatch_size: int = 16  # responses per gradient step
    micro_batch: int = 0  # responses in memory at once (0: the whole minibatch)
    # Passes over each rollout. One pass in eight minibatches, as InstructGPT has (appendix C.4).
    epochs: int = 1
    lr: float = 8e-4
    muon_lr: float = 3e-3
    # AdamW only: cheaper than Muon, and it tracks the returns of a changing policy faster.
    value_lr: float = 3e-3
    adapter_lr: float = 2e-3
    kl_coef: float = 0.05  # weight of the per-token KL penalty in the reward (score units per nat)
    # Nats per response: kl_coef is adapted until the KL is near this target; 0: kl_coef is fixed.
    kl_target: float = 0.0
    kl_horizon: int = 640  # responses in which kl_coef can grow by a fifth
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2  # of the probability ratio
    value_clip: float = 0.2  # in score units
    missing_eos_score: float = -3.0  # replaces the score of a response without an EOS
    response_tokens: int = 64
    eval_prompts: int = 500
    seed: int = 0


CONFIGS = {"pretrain": PretrainConfig, "sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}
