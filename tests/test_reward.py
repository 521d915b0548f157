"""Stage 2: pairs that share their prompt score as separate rows do; accuracy, Bayes accuracy,
normalisation, training; the model that learns from labels.
"""

import copy
import math

import pytest
import torch

from helpers.config import RewardConfig
from helpers.engine.loop import Loop
from helpers.evaluation import Responses, respond
from helpers.losses import bradley_terry_loss
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Comparison, Labelled
from helpers.reward import (
    Pair,
    Text,
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
    text_batch,
    train,
    train_on_labels,
)
from helpers.rows.embedded import load_rows
from helpers.stages.preferences import label_metrics, measure
from helpers.training import schedule
from tests.support.tensors import shaken

PAD = 1
CONFIG = GPTConfig(vocab_size=40, context=32, layers=2, heads=2, channels=16)


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
    return model(*text_batch([Text(pair.prompt, getattr(pair, part)) for pair in pairs], PAD))


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
    assert batch.part[0].tolist() == [0, 0, 1, 1, 2, 2, 2] + [0] * (width - 7)
    assert batch.part[1].tolist() == [0, 1, 2, 2] + [0] * (width - 4)
    assert batch.predictors[0, 2:7].tolist() == [1, 2, 1, 4, 5]  # of 7, 0, 8, 9, 0
    assert batch.predictors[1, 1:4].tolist() == [0, 0, 2]
    # rejected: the prompt, not chosen
    assert not batch.attention_mask[0, 4:7, 2:4].any() and batch.attention_mask[0, 4:7, :2].all()
    assert not batch.attention_mask[0, 2:4, 4:7].any()


def test_pairs_score_as_separate_rows_do():
    """Also a row of 34 tokens in a context of 32: each completion fits."""
    model, pairs = tiny(), [*some_pairs(), Pair([5] * 14, [6] * 9 + [0], [7] * 9 + [0])]
    chosen, rejected = score_pairs(model, pair_batch(pairs, PAD))
    assert torch.allclose(chosen, separate_scores(model, pairs, "chosen"), atol=1e-5)
    assert torch.allclose(rejected, separate_scores(model, pairs, "rejected"), atol=1e-5)
    assert chosen.std() > 0.1  # the agreement says something


@pytest.mark.parametrize("surprise_weight", [0.0, 0.3])
def test_loss_and_gradient_equal_those_of_separate_rows(surprise_weight):
    # a tie is decided by rounding
    pairs = [pair for pair in some_pairs() if pair.chosen != pair.rejected]
    model = shaken(RewardModel(GPT(CONFIG), surprise_weight))
    loss, right = reward_loss(model, pair_batch(pairs, PAD))
    learned = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, learned, allow_unused=True)

    scores = [separate_scores(model, pairs, part) for part in ("chosen", "rejected")]
    plain = bradley_terry_loss(*scores)
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), abs=1e-5)
    assert right.item() == pytest.approx((scores[0] > scores[1]).float().mean().item())
    for gradient, p in zip(gradients, learned, strict=True):
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
    labelled = encode_labelled(Labelled("my sis", "ter", 1), tokenizer, 64)
    assert labelled == Text(prompt, [*rest, eos])


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


def test_responses_are_scored_as_they_were_sampled(tokenizer):
    model, prompts = tiny(of_world(tokenizer)), load_rows("prompts", "heldout", limit=7)
    ids = [tokenizer.encode(" sister" * i + " x") + [tokenizer.eos_id] * (i % 2) for i in range(7)]
    responses = Responses(prompts, ids, [""] * 7, [True] * 7)
    scores = score_responses(model, tokenizer, responses, batch_size=3)
    for score, prompt, response in zip(scores, prompts, ids):
        alone = model(*text_batch([Text(tokenizer.encode(prompt.prompt), response)], PAD))
        assert score.item() == pytest.approx(alone.item(), abs=1e-4)


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
    config = RewardConfig(batch_size=20, epochs=20, lr=5e-3, muon_lr=1e-2)
    model, loop = RewardModel(GPT(CONFIG)), Loop("toy")
    history = train(model, comparison_batches(pairs, config, PAD), config, loop)
    assert history is loop.history and len(history) == 120
    assert history[0]["loss"] == pytest.approx(0.69, abs=0.2)
    assert history[-1]["loss"] < 0.2 and accuracy(margins(model, pairs, PAD)) > 0.95
    assert [row["rate"] for row in history] == [schedule(step, 120) for step in range(120)]


@pytest.mark.parametrize("kind", ["pairs", "labels"])
def test_the_first_step_by_hand(kind, capsys):
    """Loss, metrics and gradient of the first batch."""
    config = RewardConfig(batch_size=8)
    model, pairs, loop = tiny(), some_pairs(8), Loop("toy")
    twin = copy.deepcopy(model)
    if kind == "pairs":
        batches, run = comparison_batches(pairs, config, PAD), train
        loss, right = reward_loss(twin, batches[0])
    else:
        texts = [Text(pair.prompt[:6], pair.chosen) for pair in pairs]
        batches, run = label_batches(texts, [1, 0] * 4, config, PAD), train_on_labels
        loss, right = label_loss(twin, *batches[0])
    loss.backward()
    learns = [p for p in twin.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(learns, 1.0).item()
    (row,) = run(model, batches, config, loop)
    assert row.keys() == {"step", "loss", "accuracy", "grad_norm", "rate"}
    expected = {"loss": loss.item(), "accuracy": right.item()}
    assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-4)


# ---------------------------------------------------------------- labels


def test_the_label_loss_by_hand():
    model = tiny()
    texts, labels = [Text([5], [6, 7]), Text([8, 9], [10, 11, 12]), Text([13], [14])], [1, 0, 1]
    loss, accuracy = label_loss(model, *text_batch(texts, PAD), torch.tensor(labels).float())
    by_hand, right = 0.0, 0
    for text, label in zip(texts, labels):
        score = model(*text_batch([text], PAD)).item()
        p = 1 / (1 + math.exp(-score))
        by_hand -= math.log(p if label else 1 - p) / len(texts)
        right += (score > 0) == (label == 1)
    assert loss.item() == pytest.approx(by_hand, abs=1e-5)
    assert accuracy.item() == pytest.approx(right / 3)


def test_label_batches_hold_each_text_with_its_label():
    texts = [Text([i + 2] * (i % 3 + 1), [i + 2] * (i % 5 + 1)) for i in range(20)]
    batches = label_batches(texts, [i % 2 for i in range(20)], RewardConfig(batch_size=6), PAD)
    seen = [
        (row[real & ~of].tolist(), row[of].tolist(), int(label))
        for batch in batches
        for row, real, of, label in zip(*batch)
    ]
    expected = [(text.prompt, text.completion, i % 2) for i, text in enumerate(texts)]
    assert sorted(seen) == sorted(expected)


def test_training_finds_the_token_that_decides(capsys):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(2, 40, (6,), generator=generator).tolist() for _ in range(64)]
    labels = [i % 3 % 2 for i in range(64)]
    rows = [[20 if label else 22, *row] for row, label in zip(rows, labels)]
    config = RewardConfig(pointwise=True, batch_size=16, epochs=15, lr=1e-2)
    batches = label_batches([Text(row[:3], row[3:]) for row in rows], labels, config, PAD)
    history = train_on_labels(RewardModel(GPT(CONFIG), 0.0), batches, config, Loop("toy"))
    assert history[-1]["loss"] < 0.1 < 0.4 < history[0]["loss"]
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
    text = encode_labelled(item, tokenizer, 64)
    assert tokenizer.decode(text.prompt) == item.prompt
    assert text.completion == tokenizer.encode(item.completion) + [tokenizer.eos_id]
    says = f"a labelled text has {len(text)} tokens, more than the context of 3"
    with pytest.raises(ValueError, match=says):
        encode_labelled(item, tokenizer, 3)
