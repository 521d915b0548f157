"""What 5-Clinic shows of each visit: the signature of an ailment, the doctor's words, logged and
true KL.
"""

import textwrap
from collections.abc import Mapping, Sequence

from helpers.doctor.diagnosis import diagnose
from helpers.doctor.findings import Finding
from helpers.evaluation import respond
from helpers.model import GPT
from helpers.rollouts import mean_kl
from helpers.run.course import Course

GAP = "surprise - entropy"
SIGNS = {  # the columns that give an ailment away, as far as any do
    "dropout": ("ratio_off", "kl", "score"),
    "log-softmax in 16 bits": ("ratio_off", "kl", "score"),
    "positions count the pads": (GAP, "kl", "score"),
    "pads attended": (GAP, "kl", "score"),
    "temperature": (GAP, "entropy", "score"),
    "top-p": (GAP, "entropy", "score"),
    "top-k": (GAP, "entropy", "score"),
    "greedy rollouts": (GAP, "entropy", "score"),
    "repetition penalty": (GAP, "kl", "score"),
    "minimum length": (GAP, "kl", "length"),
    "tokens after the EOS": ("length", "length_std", "score"),
    "pad is EOS": ("stop_rate", "score", "explained_variance"),
    "reward read at a pad": ("score", "kl", "gold"),
    "scores z-scored by batch": ("score", "score_std", "gold"),
    "scores not normalised": ("score_std", "value_loss", "kl"),
    "reference is not SFT": ("kl", "score", "gold"),
    "KL made positive": ("kl", "score", "gold"),
    "no KL penalty": ("kl", "score", "gold"),
    "returns after whitening": ("return_std", "explained_variance", "score"),
    "mean added back": ("advantage", "kl", "score"),
    "value rate too high": ("value_loss", "explained_variance", "score"),
    "value model never learns": ("value_loss", "explained_variance", "score"),
    "one update per rollout": ("clip_fraction", "kl", "score"),
    "too many epochs": ("clip_fraction", "kl", "score"),
    "clipped while scaled": ("clip_fraction", "kl", "score"),
    "micro-batches averaged": ("clip_fraction", "kl", "score"),
}
HEALTHY = ("kl", GAP, "score", "explained_variance")
KL_CAUSES = (  # the ailments that make the logged KL another than the true one
    "dropout",
    "positions count the pads",
    "pads attended",
    "temperature",
    "top-p",
    "top-k",
    "greedy rollouts",
    "repetition penalty",
    "minimum length",
    "tokens after the EOS",
    "pad is EOS",
    "KL made positive",
    "reference is not SFT",
)


def visit_size(course: Course) -> dict[str, int]:
    """The size of a visit's run; under `smoke` as small as shows that it runs."""
    smoke = course.preset == "smoke"
    return {"iterations": 2, "rollout_size": 8} if smoke else {"iterations": 8, "rollout_size": 64}


def true_kl(course: Course, policy: GPT, reference: GPT) -> float:
    """KL(policy || reference) in nats per response, on samples at temperature 1 to held-out
    prompts.
    """
    prompts = course.rows("prompts", "heldout", 4 if course.preset == "smoke" else 100)
    tokens = course.config.response_tokens
    responses = respond(policy, course.tokenizer, prompts, max_new_tokens=tokens)
    return mean_kl(policy, reference, course.tokenizer, responses)


def words(findings: Sequence[Finding]) -> str:
    """What the doctor says, as short text."""
    if not findings:
        return "nothing suspicious"
    lines = []
    for finding in findings:
        also = f", or else {', '.join(finding.also)}" if finding.also else ""
        lines.append(f"{finding.ailment} ({finding.sure}){also}")
        lines += textwrap.wrap(f"{finding.evidence}. {finding.advice}", 96)
    return "\n  ".join(lines)


def kl_table(logged: Mapping[str, Sequence[Mapping]], true_kls: Mapping[str, float]) -> str:
    """Of each run: the KL at its first and its last step, the true KL of its policy, and what the
    doctor names.
    """
    lines = [f"{'run':25} first KL   last KL   true KL   the doctor"]
    for name in ("healthy", *KL_CAUSES):
        history = logged[name]
        said = ", ".join(f"{one.ailment} ({one.sure})" for one in diagnose(history))
        kls = history[0]["kl"], history[-1]["kl"], true_kls[name]
        numbers = " ".join(f"{kl:+9.2f}" for kl in kls)
        lines.append(f"{name:24} {numbers}   {said or 'nothing suspicious'}")
    return "\n".join(lines)


def as_trl(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """A log with the columns that TRL's PPOTrainer wrote."""
    names = {
        "kl": "objective/kl",
        "entropy": "policy/entropy_avg",
        "score": "objective/scores",
        "clip_fraction": "policy/clipfrac_avg",
        "value_loss": "loss/value_avg",
    }
    return [
        {"episode": 64 * row["step"], **{theirs: row[ours] for ours, theirs in names.items()}}
        for row in history
    ]
