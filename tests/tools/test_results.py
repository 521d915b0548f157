"""The README's tables of results, made of the reports of runs."""

import copy

from tools.results import ROWS, table

REPORT = {
    "track": "tldr",
    "seed": 2,
    "seconds": {"pretrain": 100.4, "sft": 50.0},
    "pretrain": {"heldout_loss": 0.55, "entropy_floor": 0.5},
    "sft": {"heldout_loss": 0.4, "entropy_floor": 0.32, "stop_rate": 0.9984},
    "reward": {"accuracy": 0.75, "bayes_accuracy": 0.9, "accuracy_by_kind": {"hallucinating": 0.8}},
    "ppo": {
        "sft_gold_reward": 2.5,
        "gold_reward": 3.5,
        "gold_gain_ci95": [0.9, 1.1],
        "kl": 0.7,
        "stop_rate": 1.0,
        "sft_flaws": {"hallucination": 0.4},
        "flaws": {"hallucination": 0.25},
        "hallucination_drop_ci95": [0.1, 0.2],
    },
}


def other_track() -> dict:
    report = copy.deepcopy(REPORT) | {"track": "instruct"}
    report["reward"]["accuracy_by_kind"] = {"rude": 0.9}
    for of in ("sft_flaws", "flaws"):
        report["ppo"][of] = {"rude": 0.1}
    del report["ppo"]["hallucination_drop_ci95"]
    return report


def test_a_run_of_tldr_fills_every_row():
    lines = table([REPORT, REPORT]).splitlines()
    assert lines[0] == "| | `tldr`, seed 2 | `tldr`, seed 2 |" and len(lines) == 2 + len(ROWS)
    cells = {name: cell for name, cell, _ in (line.strip("| ").split(" | ") for line in lines[2:])}
    loss = cells["pretraining: held-out loss / entropy floor, nats per token"]
    assert loss == "0.5500 / 0.5000 (+10.0%)"
    assert cells["reward model: accuracy / Bayes accuracy"] == "0.750 / 0.900 (62% of the way)"
    assert cells["gain of PPO, 95% interval"] == "+0.90 to +1.10"
    assert cells["seconds, all four notebooks"] == "150"


def test_rows_about_one_world_are_left_out_beside_another():
    for reports in ([other_track()], [REPORT, other_track()]):
        text = table(reports)
        assert "hallucinat" not in text and "drop" not in text
        assert len(text.splitlines()) == 2 + len(ROWS) - 4
