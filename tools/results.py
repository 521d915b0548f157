"""The README's tables of results from the reports of finished runs: `python -m tools.results
runs/cpu-tldr-seed*`.

A column for each run, under its track and seed; a row that is not about every run's track is left
out.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

ROWS = {
    "pretraining: held-out loss / entropy floor, nats per token": lambda r: _ratio(r["pretrain"]),
    "SFT: held-out completion loss / floor, nats per token": lambda r: _ratio(r["sft"]),
    "SFT: share of responses that end": lambda r: f"{r['sft']['stop_rate']:.3f}",
    "reward model: accuracy / Bayes accuracy": lambda r: (
        f"{r['reward']['accuracy']:.3f} / {r['reward']['bayes_accuracy']:.3f} "
        f"({_way(r['reward']):.0%} of the way)"
    ),
    "reward model: accuracy on hallucinated facts": lambda r: (
        f"{r['reward']['accuracy_by_kind']['hallucinating']:.3f}"
    ),
    "gold reward: SFT": lambda r: f"{r['ppo']['sft_gold_reward']:.2f}",
    "gold reward: PPO": lambda r: f"{r['ppo']['gold_reward']:.2f}",
    "gain of PPO, 95% interval": lambda r: "{:+.2f} to {:+.2f}".format(*r["ppo"]["gold_gain_ci95"]),
    "hallucinating responses: SFT": lambda r: f"{r['ppo']['sft_flaws']['hallucination']:.1%}",
    "hallucinating responses: PPO": lambda r: f"{r['ppo']['flaws']['hallucination']:.1%}",
    "drop, 95% interval": lambda r: "{:.1%} to {:.1%}".format(*r["ppo"]["hallucination_drop_ci95"]),
    "PPO: KL from SFT, nats a response": lambda r: f"{r['ppo']['kl']:.2f}",
    "PPO: share of responses that end": lambda r: f"{r['ppo']['stop_rate']:.3f}",
    "seconds, all four notebooks": lambda r: f"{sum(r['seconds'].values()):.0f}",
}


def _ratio(stage: dict) -> str:
    loss, floor = stage["heldout_loss"], stage["entropy_floor"]
    return f"{loss:.4f} / {floor:.4f} ({loss / floor - 1:+.1%})"


def _way(reward: dict) -> float:
    """How far from chance to the Bayes accuracy."""
    return (reward["accuracy"] - 0.5) / (reward["bayes_accuracy"] - 0.5)


def table(reports: list[dict]) -> str:
    """A Markdown table with one column a report."""
    heads = " | ".join(f"`{report['track']}`, seed {report['seed']}" for report in reports)
    lines = [f"| | {heads} |", "|---" * (len(reports) + 1) + "|"]
    for name, cell in ROWS.items():
        with suppress(KeyError):  # hallucinations are counted in one world alone
            lines.append(f"| {name} | {' | '.join(cell(report) for report in reports)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tools.results RUN_FOLDER ...")
    print(
        table([json.loads((Path(folder) / "report.json").read_text()) for folder in sys.argv[1:]])
    )
