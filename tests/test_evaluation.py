"""Held-out measurements: the floor, sampled responses, flaws, bootstrap intervals."""

import math
from dataclasses import asdict

import pytest
import torch

from data.tldr.gold import gold
from data.tldr.posts import Facts
from helpers import evaluation
from helpers.evaluation import Responses, bootstrap_ci95, entropy_floor, judge, ratio_ci95, respond
from helpers.model import GPT, GPTConfig
from helpers.records import Prompt
from helpers.rows.embedded import load_rows
from helpers.run.memory import cache_bytes
from tests.support.tensors import shaken

FACTS = Facts("sister", "hiding", "piano", "May", "Boston", "note", "away", "police")
PROMPT = Prompt("POST: ... TL;DR:", asdict(FACTS))
TEXTS = [
    " My sister keeps hiding my piano. Should I move away or call the police?",
    " My brother keeps hiding my piano. Should I move away or call the police?",
    " My sister keeps hiding my piano. It was foggy all week.",
    "",
]


@pytest.fixture
def model(tokenizer) -> GPT:
    return GPT(GPTConfig(tokenizer.vocab_size, context=192, layers=1, heads=2, channels=16))


def test_the_entropy_floor_by_hand():
    assert entropy_floor([-3.0, -5.0], 4) == 2.0
    assert entropy_floor([math.log(0.5)] * 10, 10) == pytest.approx(math.log(2))


def test_floors_of_the_world_are_reachable_losses(tokenizer):
    """Between nothing to learn and no knowledge at all; the summaries of a known post hold few
    choices.
    """
    documents = load_rows("documents", "heldout")
    tokens = sum(len(tokenizer.encode(document.text)) for document in documents)
    floor = entropy_floor([document.logprob for document in documents], tokens)
    demonstrations = load_rows("demonstrations", "heldout")
    tokens = sum(len(tokenizer.encode(item.completion)) + 1 for item in demonstrations)
    summary_floor = entropy_floor([item.logprob for item in demonstrations], tokens)
    assert 0 < summary_floor < floor < math.log(tokenizer.vocab_size) / 2


def test_a_prompt_without_facts_cannot_be_judged():
    with pytest.raises(ValueError, match="needs the facts"):
        judge(Prompt("POST: ..."), "text")


def test_gold_is_known_where_the_facts_of_all_prompts_are():
    bare = Prompt("POST: ... TL;DR:")
    for prompts, known in (([PROMPT] * 2, True), ([PROMPT, bare], False), ([bare] * 2, False)):
        responses = Responses(prompts, [], TEXTS[:2], [True, True])
        assert responses.known == known == ("gold_reward" in responses.report())


def test_responses_are_counted_by_hand():
    responses = Responses([PROMPT] * 4, [[1], [2], [3], [4]], TEXTS, [True, True, True, False])
    assert responses.gold.tolist() == [6.0, 3.0, 2.0, 0.0]
    assert [judge(PROMPT, text) for text in TEXTS] == [gold(FACTS, text) for text in TEXTS]
    assert responses.stop_rate == 0.75
    assert responses.words == (14 + 14 + 11 + 0) / 4
    flaws = {"hallucination": 0.25, "copying": 0.25, "missing_question": 0.5}
    assert responses.flaws() == flaws | {"padding": 0.0, "dropped_details": 1.0}
    assert responses.flaw("hallucination").tolist() == [0, 1, 0, 0]
    assert responses.flaw("missing_question").tolist() == [0, 0, 1, 1]
    some = responses.subset([3, 1])
    assert (some.ids, some.texts, some.stopped) == ([[4], [2]], [TEXTS[3], TEXTS[1]], [False, True])
    assert some.gold.tolist() == [0.0, 3.0]


def test_respond_is_deterministic(model, tokenizer):
    prompts = load_rows("prompts", "heldout", limit=10)
    first, again, other = (
        respond(model, tokenizer, prompts, max_new_tokens=8, seed=seed) for seed in (5, 5, 6)
    )
    assert (first.ids, first.texts, first.stopped) == (again.ids, again.texts, again.stopped)
    assert first.ids != other.ids and first.prompts == prompts
    assert len(first.ids) == len(first.texts) == len(first.stopped) == 10


def test_respond_draws_new_tokens_for_the_same_prompt(model, tokenizer):
    prompts = load_rows("prompts", "heldout", limit=1) * 8
    responses = respond(model, tokenizer, prompts, max_new_tokens=8, batch_size=4)
    assert len(set(responses.texts)) == 8


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_respond_samples_in_the_number_format_asked_for(model, tokenizer, dtype, monkeypatch):
    from helpers import evaluation

    seen, whole = [], evaluation.sample

    def spy(*args, **options):
        seen.append(options["dtype"])
        return whole(*args, **options)

    monkeypatch.setattr(evaluation, "sample", spy)
    prompts = load_rows("prompts", "heldout", limit=5)
    respond(model, tokenizer, prompts, max_new_tokens=2, batch_size=4, dtype=dtype)
    assert seen == [dtype, dtype]


def test_batches_and_left_pads_do_not_change_greedy_responses(model, tokenizer):
    shaken(model)
    prompts, options = load_rows("prompts", "heldout", limit=9), {"temperature": 0.0}
    first, *others = (
        respond(model, tokenizer, prompts, max_new_tokens=6, batch_size=size, **options)
        for size in (1, 4, 9)
    )
    assert all(other.ids == first.ids for other in others)
    assert len({tuple(row) for row in first.ids}) > 1


def test_responses_end_at_their_end_of_text(model, tokenizer):
    # raise the end of text's logit, so that most responses stop, at different places
    with torch.no_grad():
        model.ln_f.bias[0], model.wte.weight[tokenizer.eos_id, 0] = 5.0, 0.9
    responses = respond(
        model, tokenizer, load_rows("prompts", "heldout", limit=60), max_new_tokens=8
    )
    assert 0 < responses.stop_rate < 1 and len({len(ids) for ids in responses.ids}) > 3
    for ids, text, stopped in zip(responses.ids, responses.texts, responses.stopped):
        assert (tokenizer.eos_id in ids) == stopped
        assert tokenizer.eos_id not in ids[:-1] and tokenizer.pad_id not in ids
        assert stopped or len(ids) == 8
        assert text == tokenizer.decode(ids[:-1] if stopped else ids)


# ---------------------------------------------------------------- bootstrap


def test_the_bootstrap_agrees_with_the_normal_approximation():
    values = torch.randn(400, generator=torch.Generator().manual_seed(2)) * 3 + 1
    low, high = bootstrap_ci95(values)
    mean, error = values.mean().item(), values.std().item() / math.sqrt(400)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


def test_the_bootstrap_is_deterministic_and_takes_a_seed():
    values = torch.randn(50)
    assert bootstrap_ci95(values) == bootstrap_ci95(values) != bootstrap_ci95(values, seed=1)
    assert bootstrap_ci95(torch.full((20,), 2.5)) == [2.5, 2.5]
    assert all(isinstance(end, float) for end in bootstrap_ci95(values > 0))


def test_the_bootstrap_of_a_ratio():
    nats, tokens = torch.rand(300) * 5, torch.randint(1, 9, (300,))
    low, high = ratio_ci95(nats, tokens)
    rate = nats.sum().item() / tokens.sum().item()
    # the delta method
    error = ((nats - rate * tokens).std() / tokens.float().mean() / math.sqrt(300)).item()
    assert low == pytest.approx(rate - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(rate + 1.96 * error, abs=0.2 * error)
    assert ratio_ci95(torch.full((9,), 3.0), torch.full((9,), 2)) == [1.5, 1.5]
    assert ratio_ci95(nats, tokens) == ratio_ci95(nats, tokens) != ratio_ci95(nats, tokens, seed=1)


def test_rows_of_one_prompt_are_drawn_together():
    right = (torch.rand(40, generator=torch.Generator().manual_seed(0)) < 0.6).float()
    copies, ones = right.repeat_interleave(9), torch.ones(360)
    prompts = [f"prompt {i // 9}" for i in range(360)]
    low, high = ratio_ci95(copies, ones, prompts)  # nine times the same says no more than once
    assert [low, high] == pytest.approx(ratio_ci95(right, torch.ones(40)))
    alone = ratio_ci95(copies, ones)
    assert high - low > 2.5 * (alone[1] - alone[0])


def test_a_single_value_or_group_has_no_interval():
    one, two = torch.ones(1), torch.ones(2)
    for interval in (bootstrap_ci95(one), ratio_ci95(one, one), ratio_ci95(two, two, ["a", "a"])):
        assert len(interval) == 2 and all(map(math.isnan, interval))


def test_as_many_rows_are_sampled_at_once_as_their_cache_may_take(tokenizer, monkeypatch):
    """The longest prompt counts, with its response; a single row is sampled whatever it takes."""
    model = GPT(GPTConfig(tokenizer.vocab_size, 256, 2, 2, 16))
    prompts = load_rows("prompts", "heldout", limit=9)
    sizes, whole = [], evaluation.sample
    tokens = max(len(tokenizer.encode(prompt.prompt)) for prompt in prompts) + 2

    def spy(model, prompt_ids, *args, **options):
        sizes.append(len(prompt_ids))
        return whole(model, prompt_ids, *args, **options)

    monkeypatch.setattr(evaluation, "sample", spy)
    for limit in (4 * cache_bytes(model.config, 1, tokens), 1):
        monkeypatch.setattr(evaluation, "MAX_CACHE", limit)
        respond(model, tokenizer, prompts, max_new_tokens=2)
    assert sizes == [4, 4, 1] + 9 * [1]
