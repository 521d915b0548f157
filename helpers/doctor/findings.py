"""What the doctor can find: the ailments, where the course explains each, and what to try first."""

from dataclasses import dataclass

PPO = "3-PPO.ipynb"
NEGATIVE = f"{PPO}, Further: why is my KL negative?"
DASHBOARD = f"{PPO}, Further: the numbers on the dashboard"
UPDATE = f"{PPO}, 12. One update, and what must hold before it"
SURE, LIKELY, POSSIBLE = "sure", "likely", "possible"  # how sure a finding is, in this order


@dataclass(frozen=True)
class Cause:
    """An ailment: the section that explains it, and what to try first."""

    section: str
    advice: str


CAUSES = {
    "dropout": Cause(UPDATE, "Call model.eval(), or set every dropout to 0, in all four models."),
    "log-softmax in 16 bits": Cause(
        UPDATE, "Compute logits and log-softmax in float32, in rollouts and in training alike."
    ),
    "positions count the pads": Cause(
        NEGATIVE, "Give position ids that count real tokens only: mask.cumsum(1) - mask."
    ),
    "pads attended": Cause(
        NEGATIVE, "Give every forward the attention mask, and a pad token other than the EOS."
    ),
    "temperature": Cause(
        NEGATIVE, "Divide the logits by the sampling temperature wherever log-probs are computed."
    ),
    "top-k": Cause(
        NEGATIVE, "Sample with top_k=0. In transformers it is 50 unless the call says otherwise."
    ),
    "top-p": Cause(NEGATIVE, "Sample with top_p=1."),
    "greedy rollouts": Cause(
        f"{PPO}, 2. Rollouts", "Sample (do_sample=True, temperature 1): PPO learns from variety."
    ),
    "repetition penalty": Cause(NEGATIVE, "Sample without it: the scoring does not know it."),
    "minimum length": Cause(
        NEGATIVE, "Sample without it. Each forced token would be paid as a negative KL."
    ),
    "tokens after the EOS": Cause(
        f"{PPO}, 2. Rollouts", "Truncate after the first EOS and mask what follows."
    ),
    "pad is EOS": Cause(
        f"{PPO}, 2. Rollouts",
        "Use a pad token of its own, or build the mask from the first EOS, not from `ids != pad`.",
    ),
    "one update per rollout": Cause(
        f"{PPO}, 11. The ratio and the clip",
        "Take several minibatches, if samples are dear: the ratio never leaves 1, so nothing clips "
        "and a rollout is used for a single step.",
    ),
    "too many epochs": Cause(
        f"{PPO}, 11. The ratio and the clip",
        "Make fewer passes over a rollout, or take a smaller learning rate.",
    ),
    "returns after whitening": Cause(
        f"{PPO}, 9. Whitening", "Compute returns = advantages + values before you whiten."
    ),
    "mean added back": Cause(
        f"{PPO}, 9. Whitening", "Whiten advantages to mean 0: shift_mean=True, in most libraries."
    ),
    "KL made positive": Cause(
        f"{PPO}, 4. KL: the distance from the reference",
        "Penalise k1 with its sign. Clamping it, or its absolute value, punishes every change.",
    ),
    "scores z-scored by batch": Cause(
        "2-RM-Training.ipynb, 8. Fixing the scale, once",
        "Normalise the reward model once, on samples of the SFT model.",
    ),
    "scores not normalised": Cause(
        "2-RM-Training.ipynb, 8. Fixing the scale, once",
        "Normalise the reward model once: mean 0 and standard deviation 1 on samples of the SFT "
        "model. kl_coef and the value clip are in its units.",
    ),
    "reference is not SFT": Cause(
        f"{PPO}, 1. Four models",
        "Load the reference from the checkpoint that the policy starts from. With adapters, "
        "merge those of SFT first.",
    ),
    "no KL penalty": Cause(
        f"{PPO}, 15. The reward model or the penalty?", "Set kl_coef, such as 0.05."
    ),
    "over-optimisation": Cause(
        f"{PPO}, 15. The reward model or the penalty?",
        "Stop at the peak, raise kl_coef, or train a better reward model.",
    ),
    "value rate too high": Cause(
        f"{PPO}, 7. The value model", "Divide the value model's learning rate by ten."
    ),
    "value model never learns": Cause(
        f"{PPO}, 7. The value model",
        "Check that the value loss reaches its optimiser, its learning rate, and the value clip.",
    ),
    "entropy collapse": Cause(DASHBOARD, "Read samples; raise kl_coef or lower the learning rate."),
    "pads in the entropy": Cause(
        DASHBOARD, "An error of the log: mask the entropy (TRL before 1.12 does not)."
    ),
    "numbers not finite": Cause(
        f"{PPO}, 12. One update, and what must hold before it",
        "Look at the row before. Lower the learning rate; compute softmax and losses in float32.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """An ailment that a log shows.

    sure: "sure", "likely" or "possible". evidence: numbers and steps of this log. also: ailments
    that leave the same traces, the likelier first.
    """

    ailment: str
    sure: str
    evidence: str
    also: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """The notebook and the section that explain it."""
        return CAUSES[self.ailment].section

    @property
    def advice(self) -> str:
        """What to try first."""
        return CAUSES[self.ailment].advice


# What follows from an ailment by itself: it is not reported beside it.
FOLLOWS = {
    "dropout": {
        "pads attended",
        "positions count the pads",
        "repetition penalty",
        "reference is not SFT",
        "too many epochs",
    },
    "pads attended": {"temperature", "repetition penalty", "positions count the pads"},
    "temperature": {"KL made positive"},
    "top-k": {"KL made positive"},
    "greedy rollouts": {"KL made positive"},
    "tokens after the EOS": {"repetition penalty", "scores not normalised"},
    "pad is EOS": {"entropy collapse", "value model never learns", "temperature"},
    "reference is not SFT": {"no KL penalty", "value rate too high", "value model never learns"},
    "scores not normalised": {"value rate too high", "value model never learns"},
    "value rate too high": {"value model never learns"},
    "returns after whitening": {"value model never learns"},
}


def without_consequences(findings: list[Finding]) -> list[Finding]:
    """The surest first, without what follows from another."""
    follows = {name for finding in findings for name in FOLLOWS.get(finding.ailment, ())}
    left = [finding for finding in findings if finding.ailment not in follows]
    return sorted(left, key=lambda finding: (SURE, LIKELY, POSSIBLE).index(finding.sure))


def ranked(findings: list[Finding]) -> list[str]:
    """All ailments that findings name, the likeliest first."""
    names = [name for finding in findings for name in (finding.ailment, *finding.also)]
    return list(dict.fromkeys(names))
