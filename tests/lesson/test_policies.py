"""What the lessons print of policies fits the width of a cell, and no heading is cut."""

from helpers.evaluation import Responses
from helpers.lesson.known import show_responses
from helpers.lesson.policies import show_policies
from helpers.lesson.text import WIDTH
from helpers.rows.embedded import load_rows

FLAWS = ("hallucination", "copying", "missing_question", "padding", "dropped_details")


def test_the_table_of_policies_fits_a_cell(capsys):
    row = {"prompts": 500, "gold_reward": -11.68, "gold_ci95": (-11.59, 11.76), "score": -10.88}
    row |= {"kl": 192.38, "stop_rate": 1.0, "words": 23.8, "flaws": dict.fromkeys(FLAWS, 1.0)}
    table = {"SFT": row, "SFT, T = 0.7": row, "oracle PPO": row}
    metrics = {"gold_reward": 2.0, "sft_gold_reward": 1.0, "gold_gain_ci95": (0.5, 1.5)}
    show_policies(metrics | {"table": table})
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= WIDTH
    for part in (*FLAWS, "[-11.59, 11.76]", "192.38", "100.0%", "+1.00 [+0.50, +1.50]"):
        assert part.replace("_", " ") in printed
    show_policies({})
    assert capsys.readouterr().out == "", "real rows have another table"


def test_what_is_known_of_responses_fits_a_cell(capsys):
    prompts = load_rows("prompts", "heldout", limit=4)
    responses = Responses(prompts, [[5]] * 4, [" My cat."] * 4, [True] * 4)
    show_responses({"base model": responses}, [])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= WIDTH
    assert all(flaw in lines[1] for flaw in FLAWS)
