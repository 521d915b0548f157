"""What the doctor finds in logs written by hand, each with one thing wrong."""

import nbformat
import pytest

from helpers.doctor import rules
from helpers.doctor.diagnosis import diagnose
from helpers.doctor.findings import CAUSES, FOLLOWS, ranked
from helpers.engine.files import ROOT
from helpers.lesson.clinic import AILMENTS
from tools.notebooks import to_text

ROWS = 10


def run(**columns) -> list[dict]:
    """A healthy log of ten rows; columns: a number for all rows, or a function of the row."""
    healthy = {
        "step": lambda i: i + 1,
        "score": lambda i: 0.2 * i,
        "gold": lambda i: 2 + 0.5 * i,
        "kl": lambda i: 0.5 * i,
        "kl_k3": lambda i: 0.52 * i,
        "entropy": lambda i: 1.5 - 0.05 * i,
        "surprise": lambda i: 1.5 - 0.05 * i + (0.02 if i % 2 else -0.02),
        "score_std": 1.0,
        "length": lambda i: 30 - i,
        "length_std": 8.0,
        "stop_rate": 1.0,
        "explained_variance": lambda i: min(0.6, -0.3 + 0.3 * i),
        "return_std": 1.2,
        "advantage": 1e-8,
        "ratio_off": 0.0,
        "kl_coef": 0.05,
        "clip_fraction": lambda i: 0.02 if i < 6 else 0.0,
        "value_loss": lambda i: 1 / (i + 1),
    }
    chosen = {name: x for name, x in (healthy | columns).items() if x is not None}
    return [{name: x(i) if callable(x) else x for name, x in chosen.items()} for i in range(ROWS)]


CASES = {
    "dropout": {"ratio_off": 1.5, "kl": lambda i: -0.7 + 0.5 * i},
    "log-softmax in 16 bits": {"ratio_off": 0.03},
    "pads attended": {"kl": lambda i: -1.1 + 0.1 * i},
    "reference is not SFT": {"kl": lambda i: 170.0 - i},
    "temperature": {"surprise": lambda i: 1.2 - 0.05 * i + 0.02 * (i % 2)},
    "top-k": {"surprise": lambda i: 1.2 - 0.05 * i + 0.02 * (i % 2), "kl": lambda i: 0.9 * i},
    "greedy rollouts": {"surprise": lambda i: 0.8 - 0.05 * i + 0.02 * (i % 2)},
    "repetition penalty": {"surprise": lambda i: 1.8 - 0.05 * i + 0.02 * (i % 2)},
    "tokens after the EOS": {"length": 64.0, "length_std": 0.0},
    "pad is EOS": {"stop_rate": 0.0, "score": -3.0, "score_std": 0.0},
    "one update per rollout": {"clip_fraction": 0.0},
    "too many epochs": {"clip_fraction": 0.15},
    "returns after whitening": {"explained_variance": 0.5, "return_std": 2**0.5},
    "mean added back": {"advantage": 0.4},
    "KL made positive": {"kl": lambda i: 2 * i**0.5},
    "scores z-scored by batch": {"score": 1e-8},
    "scores not normalised": {"score_std": 10.0, "value_loss": 90.0},
    "no KL penalty": {"kl_coef": 0.0},
    "value rate too high": {"value_loss": lambda i: 3.0**i, "explained_variance": -5.0},
    "value model never learns": {"explained_variance": -0.3},
    "over-optimisation": {"gold": lambda i: 2 + i if i < 5 else 12 - 1.5 * i},
    "entropy collapse": {
        "entropy": lambda i: 1.5 * 0.5**i,
        "surprise": lambda i: 1.5 * 0.5**i,
        "score": 0.3,
    },
    "pads in the entropy": {"entropy": -0.5, "surprise": None},
}


def test_nothing_is_wrong_with_a_healthy_log():
    assert diagnose(run()) == []


@pytest.mark.parametrize("ailment", CASES)
def test_each_ailment_is_named_first(ailment):
    findings = diagnose(run(**CASES[ailment]))
    assert findings[0].ailment == ailment
    assert any(char.isdigit() for char in findings[0].evidence)


@pytest.mark.parametrize("column", [name for name in run()[0] if name != "score"])
def test_a_healthy_log_may_lack_any_column(column):
    assert diagnose(run(**{column: None})) == []


def test_the_negative_kl_of_a_sampler_is_explained_without_our_columns(tmp_path):
    """A CSV of TRL's PPO: the first KL is 0, then it falls below."""
    names = (
        "episode,objective/kl,objective/scores,policy/approxkl_avg,policy/clipfrac_avg,val/ratio"
    )
    rows = [
        f"{64 * (i + 1)},{-0.4 * i + 0.05 * (i % 3)},{0.1 * i},0.01,0.02,1.0" for i in range(12)
    ]
    path = tmp_path / "trl.csv"
    path.write_text("\n".join([names, *rows]) + "\n", encoding="utf-8")
    first = diagnose(path)[0]
    assert first.ailment == "temperature"
    assert "objective/kl is below 0 in 11 of 12" in first.evidence
    assert "minimum length" in first.also and "why is my KL negative?" in first.section


def test_the_negative_kl_of_a_misread_policy_is_told_from_it():
    """The same, but below 0 where policy and reference are one model."""
    kl = lambda i: -4.0 - 0.5 * i  # noqa: E731
    rows = [{"episode": 64 * (i + 1), "objective/kl": kl(i), "val/ratio": 1.0} for i in range(12)]
    first = diagnose(rows)[0]
    assert first.ailment == "pads attended" and "dropout" in first.also
    assert "objective/kl is -4 at episode 64" in first.evidence


def test_lengths_that_never_change_are_found_without_their_mean():
    (finding,) = diagnose(run(length=None, length_std=0.0))
    assert finding.ailment == "tokens after the EOS"
    assert "has the same number of tokens" in finding.evidence


def test_responses_may_be_empty():
    rows = run(length=0.0, length_std=0.0, surprise=lambda i: 1.8 - 0.05 * i + 0.02 * (i % 2))
    assert diagnose(rows)[0].ailment == "tokens after the EOS"


def test_a_reward_that_is_never_earned_is_not_called_z_scored():
    assert diagnose(run(score=0.0, score_std=0.0, gold=None)) == []
    assert diagnose(run(score=0.0, score_std=None, gold=None)) == []


def of_grpo(clipped: float) -> list[dict]:
    """A log as GRPO writes it: rewards of any size, and no value model."""
    return [
        {
            "step": step,
            "reward": 8.0 + step,
            "reward_std": 5.0,
            "kl": 0.001 * step,
            "clip_ratio/region_mean": clipped,
            "completions/mean_length": 100.0 + step,
            "completions/clipped_ratio": 0.1,
        }
        for step in range(1, 11)
    ]


def test_a_run_without_a_value_model_is_judged_as_such():
    """One update for each rollout is what TRL does by itself, and GSPO clips many responses."""
    assert diagnose(of_grpo(0.0)) == []
    (finding,) = diagnose(of_grpo(0.2))
    assert (finding.ailment, finding.sure) == ("too many epochs", "possible")
    assert "GSPO" in finding.evidence


def test_a_value_loss_that_grows_with_a_rare_reward_is_no_divergence():
    loss = lambda i: 0.005 if i < 3 else 0.12  # noqa: E731
    assert diagnose(run(value_loss=loss)) == []  # the values explain half of the returns
    (finding,) = diagnose(run(value_loss=loss, explained_variance=None))
    assert (finding.ailment, finding.sure) == ("value rate too high", "possible")


def test_a_single_negative_kl_is_noise():
    rows = run(kl=lambda i: -0.02 if i == 1 else 0.5 * i, surprise=None)
    assert diagnose(rows) == []


def test_what_follows_from_an_ailment_is_not_reported_beside_it():
    rows = run(ratio_off=1.5, clip_fraction=0.15, kl=lambda i: -0.7 + 0.5 * i)
    assert [finding.ailment for finding in diagnose(rows)] == ["dropout"]


def test_findings_are_ranked():
    findings = diagnose(run(kl_coef=0.0, ratio_off=0.03))
    assert [f.sure for f in findings] == ["sure", "likely"]
    assert ranked(findings) == ["no KL penalty", "log-softmax in 16 bits", "dropout"]
    assert ranked([]) == []


def test_every_ailment_of_the_clinic_has_a_cause_or_is_said_to_leave_no_trace():
    silent = {"clipped while scaled", "micro-batches averaged", "reward read at a pad"}
    assert AILMENTS.keys() - CAUSES.keys() == silent
    assert FOLLOWS.keys() <= CAUSES.keys() and set().union(*FOLLOWS.values()) <= CAUSES.keys()


def test_the_sections_are_there():
    sections = {cause.section.partition(", ")[::2] for cause in CAUSES.values()}
    for name in {name for name, _ in sections}:
        text = to_text(nbformat.read(ROOT / name, as_version=4))
        missing = {h for notebook, h in sections if notebook == name and f"## {h}" not in text}
        assert not missing


def test_rules_are_short_and_explained():
    assert all(rule.__doc__ for rule in rules.RULES)
