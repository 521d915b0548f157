"""Policies side by side: best of n picks by score, a row holds what was measured of each response,
wins are paired.
"""

import copy
import dataclasses
import math

import pytest
import torch

from helpers.compare import policies, win_rate
from helpers.compare.endpoint_judge import JudgeError
from helpers.compare.policies import (
    PEOPLE,
    Bench,
    asked_wins,
    best_of,
    compare_policies,
    measure_responses,
)
from helpers.compare.references import References
from helpers.compare.second_judge import Judge, whole_texts
from helpers.config import PPOConfig
from helpers.evaluation import bootstrap_ci95, respond
from helpers.lesson.plots.policies import PANELS, policies_figure
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Prompt
from helpers.reward import score_responses
from helpers.rollouts import Models, mean_kl
from helpers.rows.embedded import load_tokenizer
from helpers.run.policy_table import BLOCKS, all_rows, table_text

SAMPLING = {"max_new_tokens": 6, "seed": 0}
CONFIG = PPOConfig(response_tokens=6)
PROMPTS = [Prompt("the film"), Prompt("this comedy"), Prompt("although the score is dull")]
REFERENCES = References(
    PROMPTS, [" is fine", " is dull", " sings"], [" the", " this", " dull"], [" x", " y", " z"], 1
)


@pytest.fixture(scope="module", autouse=True)
def fewer_resamples():
    """Each resample is a fit of its own, and here only their use is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(win_rate, "RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("sentiment")


def gpt(tokenizer, seed: int) -> GPT:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(tokenizer.vocab_size, 32, 1, 2, 16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        model.ln_f.bias[0], model.wte.weight[tokenizer.eos_id, 0] = (
            5.0,
            1.3,
        )  # some responses come to their end
    return model


@pytest.fixture(scope="module")
def models(tokenizer) -> Models:
    policy = gpt(tokenizer, 0)
    reward = RewardModel(copy.deepcopy(policy))
    return Models(copy.deepcopy(policy), policy, reward, copy.deepcopy(reward))


def by_length(standardised: bool = False) -> Judge:
    return Judge(
        lambda r: torch.tensor([float(len(t)) for t in whole_texts(r)]), "letters", standardised
    )


@pytest.fixture(scope="module")
def other(models, tokenizer):
    """A comparison where PPO's policy differs from SFT: metrics, measured responses and the
    bench.
    """
    bench = Bench(
        dataclasses.replace(models, policy=gpt(tokenizer, 1)),
        tokenizer,
        PROMPTS,
        CONFIG,
        by_length(),
        REFERENCES,
    )
    policies = {
        "base": gpt(tokenizer, 2),
        "SFT": models.reference,
        "SFT lora": gpt(tokenizer, 3),
        "PPO": bench.models.policy,
    }
    return *compare_policies(bench, policies, 4), bench


def test_best_of_n_is_the_sample_with_the_highest_score(models, tokenizer):
    n = 4
    best = best_of(Bench(models, tokenizer, PROMPTS, CONFIG), n)
    every = respond(models.reference, tokenizer, [p for p in PROMPTS for _ in range(n)], **SAMPLING)
    scores = score_responses(models.reward, tokenizer, every)
    scores[~torch.tensor(every.stopped)] = CONFIG.missing_eos_score  # as in the table
    for i, (ids, row) in enumerate(zip(best.ids, scores.view(3, n))):
        assert ids == every.ids[i * n + int(row.argmax())]
    assert best.prompts == PROMPTS and 0 < every.stop_rate < best.stop_rate


def test_ppo_equals_sft_before_training(models, tokenizer):
    bench = Bench(models, tokenizer, PROMPTS, CONFIG, by_length(), REFERENCES)
    same = {"base": models.reference, "SFT": models.reference, "PPO": models.policy}
    found, _ = compare_policies(bench, same, 4)
    table = found["table"]
    assert list(table) == ["base", "SFT", "best of 4", "PPO"]
    assert (
        table["SFT"] == table["PPO"] == table["base"]
    )  # the same weights, prompts and random numbers
    assert found["judge_gain"] == 0 and found["judge_gain_ci95"] == [0, 0]
    assert (
        found["win_rates"]["PPO over SFT"]["rate"] == 0.5
        and found["win_rates"]["PPO over SFT"]["ties"] == 1
    )
    assert table["PPO"]["kl"] == 0 and table["best of 4"]["kl"] == pytest.approx(math.log(4) - 0.75)


def test_a_row_holds_what_was_measured(other, models, tokenizer):
    found, measured, bench = other
    sample = respond(bench.models.policy, tokenizer, PROMPTS, **SAMPLING)
    row = found["table"]["PPO"]
    assert measured["PPO"].responses.ids == sample.ids and row["responses"] == 3
    assert row["judge"] == pytest.approx(by_length().says(sample).mean().item())
    assert row["judge_ci95"] == bootstrap_ci95(by_length().says(sample))
    assert row["kl"] == pytest.approx(
        mean_kl(bench.models.policy, models.reference, tokenizer, sample), rel=1e-4
    )
    assert row["kl"] > 0.1 and row["kl_ci95"][0] < row["kl"] < row["kl_ci95"][1]
    scores = score_responses(models.reward, tokenizer, sample)
    assert 0 < sample.stop_rate < 1
    scores[~torch.tensor(sample.stopped)] = CONFIG.missing_eos_score
    assert (
        row["score"] == pytest.approx(scores.mean().item()) and row["stop_rate"] == sample.stop_rate
    )
    assert row["ROUGE-L"] == REFERENCES.metrics(sample.texts)["ROUGE-L"]
    gain = row["ROUGE-L"] - found["baselines"]["lead-1"]["ROUGE-L"]
    assert row["ROUGE-L_over_lead"] == pytest.approx(gain, abs=1e-6)
    assert {
        "BLEU",
        "distinct-2_ci95",
        "words_ci95",
        "perplexity_ci95",
        "stop_rate_ci95",
    } <= row.keys()
    greedy = respond(bench.models.policy, tokenizer, PROMPTS, max_new_tokens=6, temperature=0)
    assert row["greedy"]["ROUGE-1"] == REFERENCES.metrics(greedy.texts)["ROUGE-1"]


def test_wins_and_gains_are_paired_over_prompts(other):
    found, measured, _ = other
    ppo, sft = measured["PPO"].judged, measured["SFT"].judged
    assert found["judge_gain"] == pytest.approx((ppo - sft).mean().item())
    assert found["judge_gain_ci95"] == bootstrap_ci95(ppo - sft)
    wins = sum((a > b) + (a == b) / 2 for a, b in zip(ppo.tolist(), sft.tolist())) / 3
    assert found["win_rates"]["PPO over SFT"]["rate"] == pytest.approx(wins)
    assert {"PPO over best of 4", "SFT over people", "SFT lora over SFT"} <= found[
        "win_rates"
    ].keys()
    people = by_length().says(REFERENCES.responses(load_tokenizer("sentiment"))).mean().item()
    assert (
        found[PEOPLE]["judge"] == pytest.approx(people)
        and not {"kl", "ROUGE-L"} & found[PEOPLE].keys()
    )


def test_a_judge_without_a_unit_is_read_in_sft_standard_deviations(other):
    _, measured, bench = other
    judge = by_length(standardised=True)
    sft, ppo = (measured[name].judged for name in ("SFT", "PPO"))
    assert judge.in_units(sft, sft).mean().item() == pytest.approx(0, abs=1e-6)
    assert judge.in_units(ppo, sft).tolist() == pytest.approx(
        ((ppo - sft.mean()) / sft.std()).tolist()
    )
    found, _ = compare_policies(
        dataclasses.replace(bench, judge=judge),
        {"SFT": bench.models.reference, "PPO": bench.models.policy},
        2,
    )
    assert found["judge_gain"] == pytest.approx(((ppo - sft).mean() / sft.std()).item(), rel=1e-5)
    assert (
        found["win_rates"]["PPO over SFT"]["rate"] == other[0]["win_rates"]["PPO over SFT"]["rate"]
    )


def test_without_a_judge_and_references_there_are_no_such_columns(models, tokenizer):
    bench = Bench(models, tokenizer, PROMPTS, CONFIG)
    found, _ = compare_policies(bench, {"SFT": models.reference, "PPO": models.policy}, 2)
    assert found.keys() == {"table", "score_gain", "score_gain_ci95"}
    text = table_text(found)
    assert not any(word in text for word in ("ROUGE", "second judge", "wins"))


def test_a_judge_behind_an_endpoint_is_asked_in_both_orders(other, models, monkeypatch):
    measured, asked = other[1], []

    def longer(prompt, first, second):
        asked.append((prompt, first, second))
        return None if "comedy" in prompt else "first" if len(first) > len(second) else "second"

    monkeypatch.setattr(policies, "judge_of", lambda settings, track: longer)
    found = asked_wins(None, "tldr", measured)
    assert found.keys() == {"PPO over SFT", "PPO over people"} and len(asked) == 2 * 2 * 3
    assert found["PPO over SFT"]["pairs"] == 2 and found["PPO over SFT"]["unanswered"] == 1
    monkeypatch.setattr(policies, "judge_of", lambda settings, track: None)
    assert asked_wins(None, "tldr", measured) == {}


def test_a_judge_that_fails_costs_nothing(other, monkeypatch, capsys):
    def refuse(*_):
        raise JudgeError("HOST refused the request (HTTP 401): is the key right?")

    monkeypatch.setattr(policies, "judge_of", lambda settings, track: refuse)
    assert (
        asked_wins(None, "tldr", other[1]) == {} and "is the key right?" in capsys.readouterr().out
    )
    monkeypatch.setattr(policies, "judge_of", lambda settings, track: lambda *_: None)
    assert asked_wins(None, "tldr", other[1]) == {} and "no verdict" in capsys.readouterr().out


def test_the_printed_table_and_the_figure_show_every_number_with_its_interval(other):
    found = other[0] | {
        "judge_accuracy": 0.6,
        "judge_accuracy_ci95": [0.45, 0.7],
        "judge_unit": "letters",
    }
    found["asked"] = {
        "PPO over SFT": {
            "rate": 0.5,
            "ci95": [0.4, 0.6],
            "pairs": 9,
            "unanswered": 2,
            "flipped": 0.25,
        }
    }
    text, row = table_text(found), found["table"]["PPO"]
    low, high = row["ROUGE-L_ci95"]
    assert f"{row['ROUGE-L']:.3f} [{low:.3f}, {high:.3f}]" in text
    for words in (
        "no better than chance",
        "9 pairs, 2 unanswered; in 25% the order decided",
        "SFT lora",
        "lead-1",
        "people",
    ):
        assert words in text
    rows = all_rows(found)
    keys = {column.key for columns in BLOCKS.values() for column in columns}
    assert keys <= rows["PPO"].keys() and PANELS.keys() <= rows["PPO"].keys()
    assert all(rows["PPO"][key][1] for key in keys)  # every number has its interval
    assert rows["best of 4"]["kl"][1] is None  # but a bound
    fig = policies_figure(found)
    drawn = [ax for ax in fig.axes if ax.axison]
    assert len(drawn) == len(PANELS)
    score = drawn[0].lines[1:]  # after the dotted line: an interval and a dot for each policy
    assert list(score[-2].get_xdata()) == pytest.approx(rows["people"]["score"][1])
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == list(rows)


def test_measuring_the_reference_itself_gives_kl_0(models, tokenizer):
    bench = Bench(models, tokenizer, PROMPTS, CONFIG)
    found = measure_responses(bench, bench.sample(models.reference), models.reference)
    assert found.kl.tolist() == [0, 0, 0] and found.judged is None
