"""What the columns of a PPO log mean, and what other libraries call them.

Names were read in these sources:

    TRL           PPOTrainer in trl/trainer/ppo_trainer.py (0.12 to 1.12) and docs/source/logging.md
                  (0.22); the one before it, `record_step_stats` in the same file (0.4 to 0.11);
                  RLOO and GRPO in trainer_state.json of runs (0.22 and later)
    verl          compute_data_metrics in verl/trainer/ppo/metric_utils.py, apply_kl_penalty in
                  ray_trainer.py, and verl/workers/utils/losses.py (0.5 and later)
    OpenRLHF      `info` in openrlhf/trainer/ppo_utils/experience_maker.py at 01359b4, and
                  openrlhf/trainer/ray/ppo_actor.py (0.9)
    open-instruct open_instruct/grpo_fast.py, and its docs/algorithms (2025)

A tracker may put "train/" before any of them, and an export of wandb "NAME OF THE RUN - ". Left
out: `objective/entropy` of TRL, the surprise summed over a response, which counts pads;
`val/ratio_var`, over processes, not over tokens.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column: what it means with its unit, and its names elsewhere."""

    meaning: str
    aliases: tuple[str, ...] = ()


COLUMNS = {  # by our own name
    "step": Column(
        "number of the step",
        (
            "Step",  # exports of wandb and TensorBoard
            "global_step",
            "training_step",
            "_step",
            "training/global_step",
            "episode",
            "iteration",
        ),
    ),
    "score": Column(
        "mean score of the reward model",
        (
            "objective/scores",  # TRL's PPO
            "ppo/mean_scores",  # TRL's PPO until 0.11, as below
            "env/reward_mean",
            "reward",  # TRL's RLOO and GRPO, OpenRLHF
            "critic/score/mean",  # verl
            "scores",  # open-instruct
        ),
    ),
    "score_std": Column(
        "standard deviation of the scores", ("reward_std", "objective/reward_std", "ppo/std_scores")
    ),
    "gold": Column("mean gold reward"),
    "kl": Column("KL to the reference, k1, nats per response", ("objective/kl",)),
    "kl_token": Column(
        "the same in nats per token",
        (
            "actor/reward_kl_penalty",  # verl; "actor/ppo_kl" is that between two updates
        ),
    ),
    "kl_k3": Column("KL to the reference, k3, nats per response"),
    "kl_k3_token": Column("the same in nats per token", ("objective/kl2_avg",)),
    "entropy": Column(
        "entropy of the next-token distribution, nats per token",
        ("policy/entropy_avg", "actor/entropy", "actor/entropy_loss", "ppo/policy/entropy"),
    ),
    "surprise": Column("mean of - log pi over the sampled tokens, nats per token"),
    "length": Column(
        "tokens per response",
        (
            "completions/mean_length",  # TRL's RLOO and GRPO
            "completion_length",  # the same until 0.16
            "response_length/mean",  # verl
            "response_length",  # OpenRLHF
            "val/sequence_lengths",  # open-instruct
            "tokens/responses_len_mean",
        ),
    ),
    "length_std": Column("standard deviation of the lengths"),
    "stop_rate": Column("share of responses with an EOS", ("val/stop_rate", "val/stop_token_rate")),
    "truncated": Column(
        "share of responses without an EOS",
        ("completions/clipped_ratio", "response_length/clip_ratio"),
    ),
    "explained_variance": Column(
        "of the returns by the values", ("critic/vf_explained_var", "ppo/val/var_explained")
    ),
    "value_loss": Column(
        "mean value loss", ("loss/value_avg", "critic/vf_loss", "critic_loss", "ppo/loss/value")
    ),
    "return_std": Column("standard deviation of the returns"),
    "advantage": Column("mean advantage after whitening"),
    "clip_fraction": Column(
        "share of tokens whose ratio is clipped",
        (
            "policy/clipfrac_avg",  # TRL's PPO, open-instruct
            "clip_ratio/region_mean",  # TRL's GRPO
            "clip_ratio",  # the same in 0.16
            "actor/pg_clipfrac",  # verl
            "policy_clip_ratio",  # OpenRLHF
            "ppo/policy/clipfrac",
        ),
    ),
    "ratio_off": Column("largest |ratio - 1| in the first minibatch of the iteration"),
    "ratio": Column("mean ratio over all updates", ("val/ratio",)),
    "approx_kl": Column(
        "KL between the policy and the one that sampled, nats per token",
        ("policy/approxkl_avg", "actor/ppo_kl", "policy_kl", "ppo/policy/approxkl"),
    ),
    "kl_coef": Column(
        "coefficient of the KL penalty", ("actor/reward_kl_penalty_coeff", "objective/kl_coef")
    ),
    "penalty": Column(
        "mean KL penalty in the reward, per response", ("objective/non_score_reward",)
    ),
}

# In these libraries the bare name "kl" is a mean per token: TRL's GRPO has k3, OpenRLHF k1 or k3.
OF_GRPO = {"completions/mean_length", "completion_length"}
PER_TOKEN_KL = OF_GRPO | {"response_length", "num_actions"}

# A log needs one of these. What a rule can read instead of another column is not missed.
JUDGED = tuple(name for name in COLUMNS if name != "step")
INSTEAD = {"kl_token", "kl_k3_token", "truncated", "ratio", "approx_kl", "penalty", "gold"}


KNOWN = {name for ours, column in COLUMNS.items() for name in (ours, *column.aliases)}


def bare(name: str) -> str:
    """A column's name without what trackers put before it."""
    return name.strip().rpartition(" - ")[2].removeprefix("train/")


def runs(names: list[str]) -> list[str]:
    """The runs whose columns an export of wandb has."""
    known = [name.strip() for name in names if bare(name) in KNOWN]
    return sorted({name.rpartition(" - ")[0] for name in known if " - " in name})


def canonical(names: list[str]) -> dict[str, str]:
    """Which of a log's columns is which: {our name: name in the log}, the first match of each."""
    full: dict[str, str] = {}
    for name in names:
        full.setdefault(bare(name), name)
    matches = {}
    for ours, column in COLUMNS.items():
        for alias in (ours, *column.aliases):
            if alias in full:
                matches.setdefault(ours, full[alias])
    if "kl" in full and PER_TOKEN_KL & full.keys():
        matches["kl_k3_token" if OF_GRPO & full.keys() else "kl_token"] = full["kl"]
        del matches["kl"]
    return matches
