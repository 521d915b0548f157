"""Policies side by side: best of n picks by score, a row holds what was measured of each response,
wins are paired.
"""

import copy
import dataclasses
import json
import math

import pytest
import torch

from helpers.compare import policies, win_rate
from helpers.compare.endpoint_judge import JudgeError
from helpers.compare.policies import (
    PEOPLE,
    Evaluation,
    compare_policies,
    endpoint_win_rates,
    evaluate_policies,
    measure_responses,
)
from helpers.compare.references import References
from helpers.compare.second_judge import Judge, whole_texts
from helpers.config import PPOConfig
from helpers.engine.files import plain
from helpers.evaluation import Responses, bootstrap_ci95, respond
from helpers.lesson.plots.policies import PANELS, policies_figure
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Prompt
from helpers.reward import score_responses
from helpers.rollouts import Models, mean_kl
from helpers.rows.embedded import load_tokenizer
from helpers.run.policy_table import BLOCKS, all_rows, table_text
from tests.support.courses import course_in
from tests.support.tensors import shaken

SAMPLING = {"max_new_tokens": 6, "seed": 0}
CONFIG = PPOConfig(response_tokens=6)
TOKENIZER = load_tokenizer("sentiment")
PROMPTS = [Prompt("the film"), Prompt("this comedy"), Prompt("although the score is dull")]
REFERENCES = References(
    PROMPTS, [" is fine", " is dull", " sings"], [" the", " this", " dull"], [" x", " y", " z"], 1
)
KEYS = {column.key for columns in BLOCKS.values() for column in columns}


@pytest.fixture(scope="module", autouse=True)
def fewer_resamples():
    """Each resample is a fit of its own, and here only their use is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(win_rate, "RESAMPLES", 20)
        yield


def gpt(seed: int) -> GPT:
    torch.manual_seed(seed)
    model = shaken(GPT(GPTConfig(TOKENIZER.vocab_size, 32, 1, 2, 16)))
    with torch.no_grad():  # some responses come to their end
        model.ln_f.bias[0], model.wte.weight[TOKENIZER.eos_id, 0] = 5.0, 1.3
    return model


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """One whose policy equals SFT, without judge and references."""
    sft = gpt(0)
    reward = RewardModel(copy.deepcopy(sft), 0.01)
    models = Models(copy.deepcopy(sft), sft, reward, copy.deepcopy(reward))
    return Evaluation(models, TOKENIZER, PROMPTS, CONFIG)


def letters(responses: Responses) -> torch.Tensor:
    return torch.tensor([float(len(text)) for text in whole_texts(responses)])


def with_replaced_ends(models: Models, responses: Responses) -> torch.Tensor:
    scores = score_responses(models.reward, TOKENIZER, responses)
    scores[~torch.tensor(responses.stopped)] = CONFIG.missing_eos_score
    return scores


@pytest.fixture(scope="module")
def other(evaluation):
    """A comparison where PPO's policy differs from SFT: metrics, measured responses, evaluation."""
    models = dataclasses.replace(evaluation.models, policy=gpt(1))
    judge = Judge(letters, "letters")
    changed = dataclasses.replace(evaluation, models=models, judge=judge, references=REFERENCES)
    named = {"base": gpt(2), "SFT": models.reference, "SFT lora": gpt(3), "PPO": models.policy}
    return *compare_policies(changed, named, 4), changed


def test_best_of_n_is_the_sample_with_the_highest_score(evaluation):
    best, repeated = evaluation.best_of(4), [p for p in PROMPTS for _ in range(4)]
    every = respond(evaluation.models.reference, TOKENIZER, repeated, **SAMPLING)
    scores = with_replaced_ends(evaluation.models, every).view(3, 4)
    assert best.ids == [every.ids[4 * i + int(row.argmax())] for i, row in enumerate(scores)]
    assert best.prompts == PROMPTS and 0 < every.stop_rate < best.stop_rate


def test_ppo_equals_sft_before_training(evaluation):
    judge = Judge(letters, "letters")
    evaluation = dataclasses.replace(evaluation, judge=judge, references=REFERENCES)
    sft, policy = evaluation.models.reference, evaluation.models.policy
    metrics, measured = compare_policies(evaluation, {"base": sft, "SFT": sft, "PPO": policy}, 4)
    table, rate = metrics["table"], metrics["win_rates"]["PPO over SFT"]
    assert list(table) == ["base", "SFT", "SFT, greedy", "best of 4", "PPO", "PPO, greedy"]
    assert table["SFT, greedy"]["kl"] > 0 == table["SFT"]["kl"], "-log p of its one response"
    assert table["SFT"] == table["PPO"] == table["base"]  # the same weights, prompts and numbers
    assert metrics["judge_gain"] == 0 and metrics["judge_gain_ci95"] == [0, 0]
    assert rate["rate"] == 0.5 and rate["ties"] == 1
    assert table["PPO"]["kl"] == 0 and measured["SFT"].kl.tolist() == [0, 0, 0]
    assert table["best of 4"]["kl"] == pytest.approx(math.log(4) - 0.75)


def test_a_row_holds_what_was_measured(other):
    metrics, measured, evaluation = other
    models, row = evaluation.models, metrics["table"]["PPO"]
    sample = respond(models.policy, TOKENIZER, PROMPTS, **SAMPLING)
    assert measured["PPO"].responses.ids == sample.ids and row["responses"] == 3
    assert row["judge"] == pytest.approx(letters(sample).mean().item())
    assert row["judge_ci95"] == bootstrap_ci95(letters(sample))
    kl = mean_kl(models.policy, models.reference, TOKENIZER, sample)
    assert row["kl"] == pytest.approx(kl, rel=1e-4)
    assert row["kl"] > 0.1 and row["kl_ci95"][0] < row["kl"] < row["kl_ci95"][1]
    assert row["score"] == pytest.approx(with_replaced_ends(models, sample).mean().item())
    assert 0 < sample.stop_rate < 1 and row["stop_rate"] == sample.stop_rate
    assert row["ROUGE-L"] == REFERENCES.metrics(sample.texts)["ROUGE-L"]
    gain = row["ROUGE-L"] - metrics["baselines"]["lead-1"]["ROUGE-L"]
    assert row["ROUGE-L_over_lead"] == pytest.approx(gain, abs=1e-6)
    greedy = respond(models.policy, TOKENIZER, PROMPTS, max_new_tokens=6, temperature=0)
    assert row["greedy"]["ROUGE-1"] == REFERENCES.metrics(greedy.texts)["ROUGE-1"]


def test_wins_and_gains_are_paired_over_prompts(other):
    metrics, measured, evaluation = other
    scores = (
        with_replaced_ends(evaluation.models, measured[name].responses) for name in ("PPO", "SFT")
    )
    gains = torch.tensor([a - b for a, b in zip(*map(torch.Tensor.tolist, scores))])
    assert metrics["score_gain"] == pytest.approx(gains.mean().item()) and abs(gains.mean()) > 0.1
    assert metrics["score_gain_ci95"] == pytest.approx(bootstrap_ci95(gains))
    ppo, sft = measured["PPO"].judged, measured["SFT"].judged
    assert metrics["judge_gain"] == pytest.approx((ppo - sft).mean().item())
    assert metrics["judge_gain_ci95"] == bootstrap_ci95(ppo - sft)
    rates = metrics["win_rates"]
    wins = sum((a > b) + (a == b) / 2 for a, b in zip(ppo.tolist(), sft.tolist())) / 3
    assert rates["PPO over SFT"]["rate"] == pytest.approx(wins)
    assert {"PPO over best of 4", "SFT over people", "SFT lora over SFT"} <= rates.keys()
    people = letters(REFERENCES.responses(TOKENIZER)).mean().item()
    assert metrics[PEOPLE]["judge"] == pytest.approx(people)
    assert not {"kl", "ROUGE-L"} & metrics[PEOPLE].keys()


def test_a_relative_judge_is_read_in_sft_standard_deviations(other):
    metrics, measured, evaluation = other
    judge, models = Judge(letters, "letters", relative=True), evaluation.models
    sft, ppo = (measured[name].judged for name in ("SFT", "PPO"))
    expected = ((ppo - sft.mean()) / sft.std()).tolist()
    assert judge.standardise(ppo, sft).tolist() == pytest.approx(expected)
    named = {"SFT": models.reference, "PPO": models.policy}
    other_metrics, _ = compare_policies(dataclasses.replace(evaluation, judge=judge), named, 2)
    gain = ((ppo - sft).mean() / sft.std()).item()
    assert other_metrics["judge_gain"] == pytest.approx(gain, rel=1e-5)
    rates = [one["win_rates"]["PPO over SFT"]["rate"] for one in (metrics, other_metrics)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_policies_write_in_the_number_format_of_the_course(
    evaluation, dtype, tmp_path, monkeypatch, capsys
):
    models = dataclasses.replace(evaluation.models, policy=gpt(1))
    course = course_in(tmp_path, config=CONFIG, source="local", dtype=dtype)
    course.__dict__["tokenizer"] = TOKENIZER
    monkeypatch.setattr(policies, "load_judge", lambda course: (None, {}))
    monkeypatch.setattr(policies, "heldout_references", lambda course: None)
    monkeypatch.setattr(policies, "heldout_prompts", lambda *_: PROMPTS * 9)
    _, responses = evaluate_policies(course, models, gpt(2), 2)
    expected, other = (
        respond(models.policy, TOKENIZER, PROMPTS * 9, **SAMPLING, dtype=one)
        for one in sorted((torch.float32, torch.bfloat16), key=lambda one: one != dtype)
    )
    assert responses["PPO"].ids == expected.ids != other.ids


def test_without_a_judge_and_references_there_are_no_such_columns(evaluation):
    models = evaluation.models
    named = {"SFT": models.reference, "PPO": models.policy}
    metrics, measured = compare_policies(evaluation, named, 2)
    assert metrics.keys() == {"table", "score_gain", "score_gain_ci95"}
    assert measured["PPO"].judged is None
    assert measure_responses(evaluation, measured["PPO"].responses).kl is None
    assert not any(word in table_text(metrics) for word in ("ROUGE", "second judge", "wins"))


def test_a_judge_behind_an_endpoint_judges_in_both_orders(other, monkeypatch):
    measured, asked = other[1], []

    def longer(prompt, first, second):
        asked.append((prompt, first, second))
        return None if "comedy" in prompt else "first" if len(first) > len(second) else "second"

    monkeypatch.setattr(policies, "judge_of", lambda settings, track: longer)
    rates = endpoint_win_rates(None, "tldr", measured)
    assert rates.keys() == {"PPO over SFT", "PPO over people"} and len(asked) == 2 * 2 * 3
    assert rates["PPO over SFT"]["pairs"] == 2 and rates["PPO over SFT"]["unanswered"] == 1


def refuse(*_):
    raise JudgeError("HOST refused the request (HTTP 401): is the key right?")


@pytest.mark.parametrize(
    "judge, line", [(None, ""), (refuse, "is the key right?"), (lambda *_: None, "no verdict")]
)
def test_without_verdicts_there_is_no_rate_and_no_error(other, monkeypatch, capsys, judge, line):
    monkeypatch.setattr(policies, "judge_of", lambda settings, track: judge)
    assert endpoint_win_rates(None, "tldr", other[1]) == {} and line in capsys.readouterr().out


def test_the_printed_table_and_the_figure_show_every_number_with_its_interval(other):
    accuracy = {"judge_accuracy": 0.6, "judge_accuracy_ci95": [0.45, 0.7], "judge_unit": "letters"}
    rate = {"rate": 0.5, "ci95": [0.4, 0.6], "pairs": 9, "unanswered": 2, "flipped": 0.25}
    metrics = other[0] | accuracy | {"asked": {"PPO over SFT": rate}}
    text, row = table_text(metrics), metrics["table"]["PPO"]
    low, high = row["ROUGE-L_ci95"]
    assert f"{row['ROUGE-L']:.3f} [{low:.3f}, {high:.3f}]" in text
    asked = "9 pairs, 2 unanswered; in 25% the order decided"
    for words in ("no better than chance", asked, "SFT lora", "lead-1", "people"):
        assert words in text
    rows = all_rows(metrics)
    assert KEYS <= rows["PPO"].keys() and PANELS.keys() <= rows["PPO"].keys()
    assert all(rows["PPO"][key][1] for key in KEYS)  # every number has its interval
    assert rows["best of 4"]["kl"][1] is None  # but a bound
    fig = policies_figure(metrics)
    assert len([ax for ax in fig.axes if ax.axison]) == len(PANELS)
    score = fig.axes[0].lines[1:]  # after the dotted line: an interval and a dot for each policy
    assert list(score[-2].get_xdata()) == pytest.approx(rows["people"]["score"][1])
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == list(rows)


def test_one_prompt_is_too_few_for_an_interval(evaluation):
    one = References(PROMPTS[:1], [" is fine"], [" the"], [" x"], 1)
    judge = Judge(letters, "letters")
    few = dataclasses.replace(evaluation, prompts=PROMPTS[:1], judge=judge, references=one)
    named = {"SFT": few.models.reference, "PPO": few.models.policy}
    metrics = compare_policies(few, named, 2)[0] | {"judge_accuracy": 1.0, "judge_unit": "letters"}
    metrics["judge_accuracy_ci95"] = bootstrap_ci95(torch.ones(1))
    for record in (metrics, json.loads(json.dumps(plain(metrics)))):
        text = table_text(record)
        assert "nan" not in text and "[" not in text and "None" not in text
        assert "1 held-out prompt: too few for an interval" in text
