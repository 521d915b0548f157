"""Talking to the models, and the blind choice between two of them, without a browser."""

import pytest
import torch

from helpers.evaluation import Responses
from helpers.lesson.widgets import talk
from helpers.model import RewardModel
from helpers.records import Prompt
from tests.support.explorers import controls, shown


def test_a_prompt_is_answered_by_every_model(model, tokenizer):
    models = {"<one>": model, "two": model}
    remark = talk.scored_by(RewardModel(model), tokenizer)
    widget = talk.talk_to(models, tokenizer, "My <b>boss</b> ", 8, remark)
    (before,) = shown(widget)
    assert before.count("<p>") == 2 and "&lt;one&gt;" in before and before.count("unfinished") == 2
    controls(widget)["another sample"].click()
    (after,) = shown(widget)
    assert after != before
    controls(widget)["temperature"].value = 0
    (greedy,) = shown(widget)
    controls(widget)["another sample"].click()
    assert shown(widget) == [greedy]  # nothing is left to chance


def test_the_remark_is_the_reward_models_score(model, tokenizer):
    scored = RewardModel(model)
    response = [*tokenizer.encode(" He left."), tokenizer.eos_id]
    remark = talk.scored_by(scored, tokenizer)("My boss", response)
    row = [*tokenizer.encode("My boss"), *response]
    ids, real = torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool)
    completion = real.clone()
    completion[0, : len(tokenizer.encode("My boss"))] = False
    assert remark == f"score {scored(ids, real, completion).item():+.2f}"


@pytest.mark.parametrize("prompt", ["", "  \n", "word " * 500])
def test_a_prompt_that_does_not_fit_is_told_so(model, tokenizer, prompt):
    widget = talk.talk_to({"one": model}, tokenizer, "My boss", 8)
    controls(widget)["prompt"].value = prompt or "x"
    controls(widget)["prompt"].value = prompt
    assert "(a prompt of 1 to 56 tokens, please: this has" in shown(widget)[0]


@pytest.mark.parametrize("seed", range(4))
def test_a_blind_choice_is_counted_for_the_policy_behind_it(seed):
    prompts = [Prompt(f"post {i}") for i in range(3)]
    texts = {"SFT": ["<s0>", "s1", "s2"], "PPO": ["p0", "p1", "p2"]}
    sides = [(name, Responses(prompts, [], mine, [])) for name, mine in texts.items()]
    widget = talk.blind_duel(*sides, lambda responses, row: f"gold {row}", seed)
    votes = {"SFT": 0, "PPO": 0}
    for turn in range(3):
        prompt, pair, question = shown(widget)
        assert not {"SFT", "PPO"} & {*pair.replace("<", " ").split()} and "better?" in question
        row = int(prompt.split("post ")[1][0])
        a, b = (part.split("</span>")[0].split(">")[-1] for part in pair.split("<b>")[1:])
        assert {a, b} == {f"&lt;s{row}&gt;" if row == 0 else f"s{row}", f"p{row}"}
        button = ("A is better", "B is better")[turn % 2]
        chosen = "PPO" if (a, b)[turn % 2].startswith("p") else "SFT"
        votes[chosen] += 1
        controls(widget)[button].click()
        controls(widget)[button].click()  # a second vote on the same pair does not count
        verdict = shown(widget)[2]
        letter = "AB"[turn % 2]
        assert f"{letter} is by {chosen}: gold {row}" in verdict
        assert f"SFT {votes['SFT']}, PPO {votes['PPO']}" in verdict
        controls(widget)["next post"].click()
