"""Responses token by token, against the course's own sampler and scores."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from helpers.compare.samples import Sampler
from helpers.config import PPOConfig
from helpers.demo.answers import BEST, Sampling, answer, pieces_of, stream, upto_eos
from helpers.evaluation import Responses, judge
from helpers.generation import sample
from helpers.losses import kl_best_of_n
from helpers.rollouts import Models

SAMPLINGS = [
    Sampling(tokens=24),
    Sampling(temperature=0.7, top_k=20, top_p=0.9, tokens=12, seed=3),
    Sampling(temperature=0.0, tokens=8),
]


def last(models, sampling=SAMPLINGS[0], row=0):
    *_, answers = answer(models, models.prompts[row], sampling)
    return answers


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("n", [1, 5])
def test_the_stream_draws_what_sample_draws(models, sampling, n):
    tokenizer, model = models.tokenizer, models.policies["PPO"]
    prompt = tokenizer.encode(models.prompts[0].prompt)
    steps = list(stream(model, prompt, n, sampling, tokenizer))
    ids = torch.tensor([prompt] * n)
    samples = sample(
        model,
        ids,
        torch.ones_like(ids).bool(),
        max_new_tokens=sampling.tokens,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        generator=torch.Generator().manual_seed(sampling.seed),
    )
    expected = [row[mask].tolist() for row, mask in zip(samples.ids, samples.mask)]
    assert upto_eos(steps[-1], tokenizer.eos_id) == expected
    for t, step in enumerate(steps):  # a step only adds a token
        assert step.shape == (n, t + 1) and torch.equal(step, steps[-1][:, : t + 1])


def test_every_step_has_all_policies_and_the_last_one_all_numbers(models):
    *drafts, answers = answer(models, models.prompts[0], SAMPLINGS[0])
    assert all(list(step) == ["base", "SFT", BEST, "PPO"] for step in [*drafts[1:], answers])
    assert len(drafts[0][BEST].drafts) == 8 and not any(one.tokens for one in drafts[-1].values())
    for one in answers.values():
        assert (
            "".join(token.text for token in one.tokens if token.text != "END").strip() == one.text
        )
        assert one.judged == judge(models.prompts[0], one.text) and one.highest == 12
        for token in one.tokens:
            shares = [share for _, share in token.alternatives]
            assert shares == sorted(shares, reverse=True) and 0 < token.probability <= 1
            assert token.sampled == pytest.approx(token.probability)  # at temperature 1


def test_the_kl_is_zero_for_sft_and_at_temperature_0_its_surprise(models):
    assert last(models)["SFT"].kl == 0
    greedy = last(models, SAMPLINGS[2])
    ids = models.tokenizer.encode(models.prompts[0].prompt)
    for name in ("SFT", "PPO"):
        row = torch.tensor(greedy[name].ids)
        logits = models.reference(torch.tensor([ids + row.tolist()]))[0, len(ids) - 1 : -1]
        logits[:, models.tokenizer.pad_id] = -torch.inf
        nats = -logits.log_softmax(-1)[torch.arange(len(row)), row]
        assert greedy[name].kl == pytest.approx(nats.sum().item(), abs=1e-3)
    token = greedy["SFT"].tokens[0]
    assert token.sampled == 1 and token.probability == token.alternatives[0][1] < 1


def test_probability_and_kl_of_a_token_from_the_whole_text(models):
    sampling = Sampling(temperature=0.8, top_k=30, tokens=10)
    one = last(models, sampling)["PPO"]
    ids = models.tokenizer.encode(models.prompts[0].prompt)
    with torch.no_grad():
        logits = {
            n: models.policies[n](torch.tensor([ids + list(one.ids)]))[0] for n in ("SFT", "PPO")
        }
    for t, (id_, token) in enumerate(zip(one.ids, one.tokens)):
        policy, sft = (logits[name][len(ids) - 1 + t] for name in ("PPO", "SFT"))
        for logits_at in (policy, sft):
            logits_at[models.tokenizer.pad_id] = -torch.inf
        assert token.probability == pytest.approx(policy.softmax(0)[id_].item(), rel=1e-4)
        top = policy.topk(30)
        q = (top.values / 0.8).softmax(0)
        kl = (q * (q.log() - sft.log_softmax(0)[top.indices])).sum().item()
        assert token.kl == pytest.approx(kl, abs=1e-4)
        assert token.sampled == pytest.approx(q[top.indices == id_].item(), rel=1e-4)


def test_best_of_n_has_the_highest_score_of_the_sft_models_samples(models):
    answers = last(models, Sampling(n=6, tokens=24))
    best, sft = answers[BEST], answers["SFT"]
    assert best.policy == "best of 6" and best.kl == kl_best_of_n(6)
    scores = [best.score, *(score for score, _ in best.rejected)]
    assert len(scores) == 6 and scores == sorted(scores, reverse=True)
    assert sft.score in scores and sft.text in [best.text, *(text for _, text in best.rejected)]
    both = [answers[name] for name in (BEST, "PPO")]
    config = replace(PPOConfig(), missing_eos_score=-3.0)
    four = Models(models.policies["PPO"], models.reference, models.reward, models.reward)
    sampler = Sampler(four, models.tokenizer, models.prompts[:1] * 2, config)
    rows = [list(one.ids) for one in both], [one.text for one in both], [o.stopped for o in both]
    expected = sampler.scores(Responses(sampler.prompts, *rows)).tolist()
    assert [one.score for one in both] == pytest.approx(expected, abs=1e-4)


def test_what_is_missing_is_left_out(models):
    without = replace(models, reward=None)
    answers = last(without)
    assert list(answers) == ["base", "SFT", "PPO"] and answers["PPO"].score is None
    only = replace(models, policies={"PPO": models.policies["PPO"]})
    (one,) = last(only).values()
    assert one.kl is None and one.tokens[0].kl is None and one.score is not None
    assert BEST not in last(models, Sampling(n=1, tokens=4))


def test_users_at_once_get_what_each_gets_alone(models):
    jobs = [(SAMPLINGS[i % 3], i) for i in range(6)]
    alone = [last(models, *job) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda job: last(models, *job), jobs)) == alone


@pytest.mark.parametrize(
    "field, value",
    [("temperature", -1), ("temperature", float("nan")), ("top_p", 0), ("top_p", 2), ("n", 0)]
    + [("n", 33), ("tokens", 0), ("tokens", 10**9), ("seed", -1), ("top_k", -1), ("n", None)],
)
def test_a_value_out_of_bounds_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be "):
        Sampling(**{field: value})


def test_a_temperature_too_near_0_is_refused():
    with pytest.raises(ValueError, match="temperature must be 0 or at least 0.001"):
        Sampling(temperature=1e-300)
    logits = torch.tensor([[0.0, 1000.0, -1000.0]])
    assert Sampling(temperature=0.001).shape(logits).softmax(-1).isfinite().all()


def test_a_character_of_several_tokens_comes_with_its_last(tokenizer):
    row = [*tokenizer.encode(" A 😀 é"), tokenizer.eos_id]
    pieces = pieces_of(row, tokenizer)
    assert "".join(pieces) == " A 😀 éEND" and "" in pieces and "\ufffd" not in "".join(pieces)
    assert pieces_of(tokenizer.encode("😀")[:2], tokenizer)[-1] == "\ufffd"
