"""Stage 2: pairs that share their prompt score as separate rows do; accuracy, Bayes accuracy,
normalisation, training; the model that learns from labels.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from helpers.batching import right_pad
from helpers.config import RewardConfig
from helpers.engine.loop import Loop
from helpers.evaluation import Responses, respond
from helpers.losses import bradley_terry_loss
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Comparison, Labelled
from helpers.reward import (
    Pair,
    accuracy,
    accuracy_by_kind,
    bayes_accuracy,
    comparison_batches,
    encode_comparison,
    encode_labelled,
    label_batches,
    label_loss,
    margins,
    normalise_on,
    pair_batch,
    reward_loss,
    score_pairs,
    score_responses,
    train,
    train_on_labels,
)
from helpers.rows.embedded import load_rows
from helpers.stages.preferences import label_metrics, measure
from helpers.training import schedule
from tests.support.tensors import shaken

PAD = 1
CONFIG = GPTConfig(vocab_size=40, context=24, layers=2, heads=2, channels=16)


def tiny(config: GPTConfig = CONFIG) -> RewardModel:
    return shaken(RewardModel(GPT(config)))


def some_pairs(number: int = 9) -> list[Pair]:
    """Pairs of all lengths; the completions include PAD's id as an ordinary token."""
    generator = torch.Generator().manual_seed(3)

    def tokens(low: int, high: int) -> list[int]:
        length = torch.randint(low, high, (), generator=generator)
        return torch.randint(1, 40, (length,), generator=generator).tolist()

    return [Pair(tokens(1, 12), tokens(0, 10) + [0], tokens(0, 10) + [0]) for _ in range(number)]


def separate_scores(model: RewardModel, pairs: list[Pair], part: str) -> torch.Tensor:
    """The plain way: each completion in a row of its own, right-padded, scored by the model's
    forward.
    """
    ids, mask = right_pad([pair.prompt + getattr(pair, part) for pair in pairs], PAD)
    return model(ids, mask)


def of_world(tokenizer) -> GPTConfig:
    return GPTConfig(tokenizer.vocab_size, context=256, layers=1, heads=2, channels=16)


# ---------------------------------------------------------------- the shared prompt


def test_a_pair_batch_by_hand():
    batch = pair_batch([Pair([5, 6], [7, 0], [8, 9, 0]), Pair([5], [0], [6, 0])], PAD)
    width = batch.ids.size(1)
    assert batch.ids[0, :7].tolist() == [5, 6, 7, 0, 8, 9, 0]
    assert batch.ids[1].tolist() == [5, 0, 6, 0] + [PAD] * (width - 4)
    assert batch.positions[0, :7].tolist() == [0, 1, 2, 3, 2, 3, 4]
    assert batch.positions[1, :4].tolist() == [0, 1, 1, 2]
    assert batch.ends.tolist() == [[3, 6], [1, 3]]
    assert batch.targets[0].tolist() == [-100, -100, 0, -100, 9, 0] + [-100] * (width - 6)
    assert batch.targets[1].tolist() == [-100, -100, 0] + [-100] * (width - 3)
    # rejected: the prompt, not chosen
    assert not batch.attention_mask[0, 4:7, 2:4].any() and batch.attention_mask[0, 4:7, :2].all()
    assert not batch.attention_mask[0, 2:4, 4:7].any()


def test_pairs_score_as_separate_rows_do():
    """Also a row of 34 tokens in a context of 24: each completion fits."""
    model, pairs = tiny(), [*some_pairs(), Pair([5] * 14, [6] * 9 + [0], [7] * 9 + [0])]
    chosen, rejected, _ = score_pairs(model, pair_batch(pairs, PAD))
    assert torch.allclose(chosen, separate_scores(model, pairs, "chosen"), atol=1e-5)
    assert torch.allclose(rejected, separate_scores(model, pairs, "rejected"), atol=1e-5)
    assert chosen.std() > 0.1  # the agreement says something


@pytest.mark.parametrize("lm_coef", [0.0, 0.5])
def test_loss_and_gradient_equal_those_of_separate_rows(lm_coef):
    # a tie is decided by rounding
    model, pairs = tiny(), [pair for pair in some_pairs() if pair.chosen != pair.rejected]
    bt, lm, right = reward_loss(model, pair_batch(pairs, PAD), lm=lm_coef > 0)
    loss = bt + lm_coef * lm
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert (lm == 0) == (lm_coef == 0)

    scores = [separate_scores(model, pairs, part) for part in ("chosen", "rejected")]
    pairwise = bradley_terry_loss(*scores)
    token_losses = []
    for pair in pairs:
        for completion in (pair.chosen, pair.rejected):
            row = torch.tensor(pair.prompt + completion)
            logits = model.gpt(row[None])[0]
            for t in range(len(pair.prompt) + 1, len(row)):  # its first token is not guessed
                token_losses.append(F.cross_entropy(logits[t - 1], row[t]))
    plain = pairwise + lm_coef * torch.stack(token_losses).mean()
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), abs=1e-5)
    assert bt.item() == pytest.approx(pairwise.item(), abs=1e-5)
    assert right.item() == pytest.approx((scores[0] > scores[1]).float().mean().item())
    for gradient, p in zip(gradients, model.parameters(), strict=True):
        assert torch.allclose(gradient, p.grad, atol=1e-5)


def test_comparisons_are_encoded_with_their_end(tokenizer):
    for comparison in load_rows("comparisons", "heldout", limit=30):
        pair = encode_comparison(comparison, tokenizer, 256)
        assert tokenizer.decode(pair.prompt) == comparison.prompt
        for ids, text in ((pair.chosen, comparison.chosen), (pair.rejected, comparison.rejected)):
            assert ids[-1] == tokenizer.eos_id and tokenizer.decode(ids[:-1]) == text
        assert len(pair) == len(pair.prompt) + len(pair.chosen) + len(pair.rejected)


def test_a_word_that_goes_on_in_the_completion_is_not_merged(tokenizer):
    """Responses are scored as they were sampled: after the prompt's own tokens."""
    prompt, rest, eos = *map(tokenizer.encode, ("my sis", "ter")), tokenizer.eos_id
    assert tokenizer.encode("my sister") != prompt + rest
    pair = encode_comparison(Comparison("my sis", "ter", "ters"), tokenizer, 64)
    assert (pair.prompt, pair.chosen) == (prompt, [*rest, eos])
    assert pair.rejected == [*tokenizer.encode("ters"), eos]
    assert encode_labelled(Labelled("my sis", "ter", 1), tokenizer, 64) == [*prompt, *rest, eos]


@pytest.mark.parametrize("sides", [(" a" * 30, " b"), (" b", " a" * 30)])
def test_a_comparison_that_is_too_long_is_one_line(tokenizer, sides):
    comparison = Comparison("Post. TL;DR:", *sides)
    pair = encode_comparison(comparison, tokenizer, 1000)
    longest = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
    encode_comparison(comparison, tokenizer, longest)
    says = f"a comparison has {longest} tokens, more than the context of {longest - 1}$"
    with pytest.raises(ValueError, match=says):
        encode_comparison(comparison, tokenizer, longest - 1)


# ---------------------------------------------------------------- measuring


def test_margins_come_in_the_order_of_the_pairs():
    model, pairs = tiny(), some_pairs(23)
    plain = separate_scores(model, pairs, "chosen") - separate_scores(model, pairs, "rejected")
    assert torch.allclose(margins(model, pairs, PAD, batch_size=4), plain, atol=1e-5)


def test_responses_are_scored_at_their_last_token(tokenizer):
    model, prompts = tiny(of_world(tokenizer)), load_rows("prompts", "heldout", limit=7)
    ids = [tokenizer.encode(" sister" * i + " x") + [tokenizer.eos_id] * (i % 2) for i in range(7)]
    responses = Responses(prompts, ids, [""] * 7, [True] * 7)
    scores = score_responses(model, tokenizer, responses, batch_size=3)
    for score, prompt, response in zip(scores, prompts, ids):
        row = torch.tensor([tokenizer.encode(prompt.prompt) + response])
        assert score.item() == pytest.approx(model.values(row)[0, -1].item(), abs=1e-5)


def test_accuracies_by_hand():
    """A tie is wrong."""
    margin = torch.tensor([1.0, -1.0, -1.0, 2.0, 0.0])
    likely = (0.9, 0.3, 0.5, 0.05, 0.5)
    pairs = [Comparison("p", "a", "b", *of) for of in zip("xyxyy", likely)]
    assert accuracy(margin) == pytest.approx(2 / 5)
    assert accuracy_by_kind(margin, pairs) == pytest.approx({"x": 0.5, "y": 1 / 3})
    assert bayes_accuracy(pairs) == pytest.approx((0.9 + 0.7 + 0.5 + 0.95 + 0.5) / 5)


def test_nobody_beats_the_bayes_accuracy_on_the_committed_pairs():
    """A judge that knows the gold reward is right about as often as the Bayes accuracy says."""
    comparisons = load_rows("comparisons", "heldout")
    knows = torch.tensor([comparison.probability - 0.5 for comparison in comparisons])
    bound = bayes_accuracy(comparisons)
    error = (bound * (1 - bound) / len(comparisons)) ** 0.5
    assert 0.6 < bound < 1 and accuracy(knows) == pytest.approx(bound, abs=4 * error)


def test_measure_reports_against_the_ceiling(tokenizer):
    model, comparisons = tiny(of_world(tokenizer)), load_rows("comparisons", "heldout", limit=60)
    metrics = measure(model, tokenizer, comparisons)
    assert metrics["comparisons"] == 60 and metrics["bayes_accuracy"] == bayes_accuracy(comparisons)
    by_kind = metrics["accuracy_by_kind"]
    right = sum(by_kind[comparison.kind] for comparison in comparisons) / 60
    assert metrics["accuracy"] == pytest.approx(right)
    # the interval draws prompts: nine times the same pairs say no more than once
    repeated = measure(model, tokenizer, comparisons * 9)["accuracy_ci95"]
    assert repeated == pytest.approx(metrics["accuracy_ci95"])


# ---------------------------------------------------------------- normalising


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_normalising_gives_sft_samples_mean_0_and_standard_deviation_1(tokenizer, dtype):
    """The samples are drawn in the number format asked for."""
    config = of_world(tokenizer)
    policy, model = GPT(config), tiny(config)
    before, prompts = copy.deepcopy(model), load_rows("prompts", "train", limit=80)
    settings = RewardConfig(response_tokens=6, seed=4)
    mean, std = normalise_on(model, policy, tokenizer, prompts, settings, dtype)
    same = respond(policy, tokenizer, prompts, max_new_tokens=6, seed=5, dtype=dtype)
    old, new = (score_responses(m, tokenizer, same) for m in (before, model))
    assert (mean, std) == (pytest.approx(old.mean().item()), pytest.approx(old.std().item()))
    assert new.mean().item() == pytest.approx(0, abs=1e-3)
    assert new.std().item() == pytest.approx(1, abs=1e-3)
    assert torch.allclose(new, (old - mean) / std, atol=1e-3)


# ---------------------------------------------------------------- training


def test_training_learns_a_preference(capsys):
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(120):  # preferred: the completion that repeats the prompt's token
        right, wrong = torch.randperm(8, generator=generator)[:2].tolist()
        pairs.append(Pair([20, right + 2, 21], [30, right + 2, 0], [30, wrong + 2, 0]))
    config = RewardConfig(batch_size=20, epochs=20, lr=5e-3, muon_lr=1e-2, lm_coef=0.1)
    model, loop = RewardModel(GPT(CONFIG)), Loop("toy")
    history = train(model, comparison_batches(pairs, config, PAD), config, loop)
    assert history is loop.history and len(history) == 120
    assert history[0]["pairwise"] == pytest.approx(0.69, abs=0.2)
    assert history[-1]["pairwise"] < 0.2 and accuracy(margins(model, pairs, PAD)) > 0.95
    assert [row["rate"] for row in history] == [schedule(step, 120) for step in range(120)]


@pytest.mark.parametrize("lm_coef", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["pairs", "labels"])
def test_the_first_step_by_hand(kind, lm_coef, capsys):
    """Loss, metrics and gradient of the first batch, with the language-model loss weighed in."""
    config = RewardConfig(batch_size=8, lm_coef=lm_coef)
    model, pairs, loop = tiny(), some_pairs(8), Loop("toy")
    twin = copy.deepcopy(model)
    if kind == "pairs":
        batches, run, name = comparison_batches(pairs, config, PAD), train, "pairwise"
        first, lm, right = reward_loss(twin, batches[0])
    else:
        rows = [(pair.prompt + pair.chosen)[:16] for pair in pairs]  # of at most 24, padded to 16s
        batches, run = label_batches(rows, [1, 0] * 4, config, PAD), train_on_labels
        name, (first, lm, right) = "label", label_loss(twin, *batches[0])
    loss = first + lm_coef * lm
    loss.backward()
    learns = [p for p in twin.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(learns, 1.0).item()
    (row,) = run(model, batches, config, loop)
    assert row.keys() == {"step", "loss", name, "accuracy", "grad_norm", "rate"}
    expected = {"loss": loss.item(), name: first.item(), "accuracy": right.item()}
    assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-4)


# ---------------------------------------------------------------- labels


def test_the_label_loss_equals_a_loop_without_padding():
    model = tiny()
    rows, labels = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]], [1.0, 0.0, 1.0]
    ids, mask = right_pad(rows, PAD)
    label, lm, accuracy = label_loss(model, ids, mask, torch.tensor(labels))
    by_hand, nats, guessed, right = 0.0, 0.0, 0, 0
    for row, one in zip(rows, labels):
        alone = torch.tensor([row])
        score = model.values(alone)[0, -1].item()
        p = 1 / (1 + math.exp(-score))
        by_hand -= math.log(p if one else 1 - p) / len(rows)
        right += (score > 0) == (one == 1)
        log_p = model.gpt(alone)[0].log_softmax(-1)
        nats -= sum(log_p[t, row[t + 1]].item() for t in range(len(row) - 1))
        guessed += len(row) - 1
    assert label.item() == pytest.approx(by_hand, abs=1e-5)
    assert accuracy.item() == pytest.approx(right / 3)
    assert lm.item() == pytest.approx(nats / guessed, abs=1e-5)
    same, none, _ = label_loss(model, ids, mask, torch.tensor(labels), lm=False)
    assert same.item() == pytest.approx(by_hand, abs=1e-5) and none == 0


def test_label_batches_hold_each_text_with_its_label():
    rows = [[i + 2] * (i % 5 + 1) for i in range(20)]
    batches = label_batches(rows, [i % 2 for i in range(20)], RewardConfig(batch_size=6), PAD)
    seen = [
        (row[keep].tolist(), int(label))
        for ids, mask, labels in batches
        for row, keep, label in zip(ids, mask, labels)
    ]
    assert sorted(seen) == sorted((row, i % 2) for i, row in enumerate(rows))


def test_training_finds_the_token_that_decides(capsys):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(2, 40, (6,), generator=generator).tolist() for _ in range(64)]
    labels = [i % 3 % 2 for i in range(64)]
    rows = [[20 if label else 22, *row] for row, label in zip(rows, labels)]
    config = RewardConfig(pointwise=True, batch_size=16, epochs=15, lr=1e-2, lm_coef=0.0)
    history = train_on_labels(
        RewardModel(GPT(CONFIG)), label_batches(rows, labels, config, PAD), config, Loop("toy")
    )
    assert history[-1]["label"] < 0.1 < 0.4 < history[0]["label"]
    assert [row["rate"] for row in history] == [schedule(step, 60) for step in range(60)]


def test_accuracy_on_labels_and_its_ceiling_by_hand():
    labels, odds = (1, 0, 1, 0), (0.9, 0.6, 0.3, 0.8)
    items = [Labelled("p", " c", *known) for known in zip(labels, odds)]
    found = label_metrics(torch.tensor([2.0, 1.0, -0.5, -3.0]), items)
    assert found["accuracy"] == 0.5 and found["labels"] == 4
    assert found["bayes_accuracy"] == pytest.approx((0.9 + 0.6 + 0.7 + 0.8) / 4)
    low, high = found["accuracy_ci95"]
    assert 0 <= low <= 0.5 <= high <= 1
    assert "bayes_accuracy" not in label_metrics(torch.zeros(1), [Labelled("p", " c", 0)])


def test_labelled_texts_end_with_the_end_of_text(tokenizer):
    item = Labelled("My sister", " keeps my bike.", 1)
    row = encode_labelled(item, tokenizer, 64)
    assert row[-1] == tokenizer.eos_id
    assert tokenizer.decode(row[:-1]) == item.prompt + item.completion
    says = f"a labelled text has {len(row)} tokens, more than the context of 3"
    with pytest.raises(ValueError, match=says):
        encode_labelled(item, tokenizer, 3)
