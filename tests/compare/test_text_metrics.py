"""ROUGE, BLEU, distinct-n and lengths against the packages called directly and against counts by
hand.
"""

import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer

from helpers.compare.text_metrics import (
    ROUGE,
    bleu_ci95,
    bleu_counts,
    bleu_of,
    distinct,
    distinct_ci95,
    mean_words,
    rouge,
    text_metrics,
    text_shape,
)

REFERENCES = [
    "My brother painted the shed without asking. Should I say something?",
    "The cat sleeps in the oven.",
    "Neighbours keep parking on the lawn, we tried a sign.",
    "🙂 🙃",
    "Naïve café owners, 3 of them, don't agree!",
    "A summary that nobody answered.",
]
PREDICTIONS = [
    "Brother paints shed, should I say anything?",
    "The cat sleeps in the oven.",  # identical
    "",  # empty
    "🙂 🙃",  # emoji only
    "naïve CAFÉ owner (three) don’t agree",
    "answered nobody that summary A .",  # the same words backwards
]


def bleu(predictions, references) -> float:
    return bleu_of(bleu_counts(predictions, references).sum(0))


def test_rouge_is_that_of_the_package_called_directly():
    scorer, scores = RougeScorer(list(ROUGE), use_stemmer=True), rouge(PREDICTIONS, REFERENCES)
    assert list(scores) == ["ROUGE-1", "ROUGE-2", "ROUGE-L"]
    direct = [scorer.score(target=r, prediction=p) for p, r in zip(PREDICTIONS, REFERENCES)]
    for key, name in ROUGE.items():
        expected = [score[key].fmeasure for score in direct]
        assert scores[name].tolist() == pytest.approx(expected, abs=1e-6)


def test_rouge_by_hand():
    scores = rouge(["the cats sat down", *PREDICTIONS[1:]], ["the cat sat", *REFERENCES[1:]])
    one, two, longest = (scores[name].tolist() for name in ROUGE.values())
    assert one[0] == pytest.approx(2 * (3 / 4) / (3 / 4 + 1))  # "cats" has the stem of "cat"
    assert two[0] == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert (one[1], two[1], longest[1]) == (1, 1, 1) and (one[2], two[2], longest[2]) == (0, 0, 0)
    assert one[3] == 0  # no letters, no words
    assert (one[5], two[5]) == (1, 0) and longest[5] == pytest.approx(1 / 5)


def test_corpus_bleu_is_that_of_sacrebleu_called_directly():
    for rows in (slice(None), slice(2), slice(2, None), slice(4, None)):  # without some n-grams too
        texts, references = PREDICTIONS[rows], REFERENCES[rows]
        expected = sacrebleu.corpus_bleu(texts, [references]).score
        assert bleu(texts, references) == pytest.approx(expected)
    assert 5 < bleu(PREDICTIONS, REFERENCES) < 95
    assert bleu(REFERENCES, REFERENCES) == pytest.approx(100)
    assert bleu([""], ["A text."]) == sacrebleu.corpus_bleu([""], [["A text."]]).score == 0
    metric = sacrebleu.metrics.BLEU()
    metric.corpus_score(PREDICTIONS, [REFERENCES])
    signature = metric.get_signature().format()
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp")


def test_bleu_counts_by_hand():
    counts = bleu_counts(["the cat sat", ""], ["the cat stood", "gone"])
    assert counts.tolist() == [[2, 1, 0, 0, 3, 2, 1, 0, 3, 3], [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]


def test_the_interval_of_bleu_is_over_pairs_of_resamples():
    counts = bleu_counts(PREDICTIONS * 5, REFERENCES * 5)
    low, high = bleu_ci95(counts)
    assert low < bleu(PREDICTIONS * 5, REFERENCES * 5) < high
    assert bleu_ci95(counts) == [low, high]
    same = bleu_counts(REFERENCES[:3], REFERENCES[:3])
    assert bleu_ci95(same) == pytest.approx([100, 100], abs=1e-3)


def test_distinct_by_hand():
    texts = ["a b a b", "a b", "", "c"]
    # a b c of 7 words; "a b", "b a" of 4 pairs, none across texts; "a b a", "b a b"; "a b a b"
    assert [distinct(texts, n) for n in (1, 2, 3, 4, 5)] == [3 / 7, 2 / 4, 2 / 2, 1, 0]
    assert distinct(["x y"] * 10, 1) == 2 / 20 and distinct([], 1) == 0.0
    with pytest.raises(ValueError, match="n must be at least 1"):
        distinct(texts, 0)


def test_the_interval_of_distinct_is_a_jackknife_over_texts():
    texts = ["a b c", "a b", "c d e f", "b c", "x y z"]
    for n in (1, 2):
        shares = [distinct(texts[:i] + texts[i + 1 :], n) for i in range(5)]
        without = torch.tensor(shares, dtype=torch.float64)
        error = ((5 - 1) / 5 * ((without - without.mean()) ** 2).sum()).sqrt().item()
        low, high = distinct_ci95(texts, n)
        assert low == pytest.approx(distinct(texts, n) - 1.96 * error)
        assert high == pytest.approx(min(1.0, distinct(texts, n) + 1.96 * error))
    assert distinct_ci95(["a b"], 1) == [1.0, 1.0] and distinct_ci95(["", ""], 2) == [0.0, 0.0]


def test_the_jackknife_is_as_wide_as_samples_differ():
    generator, weights = torch.Generator().manual_seed(0), 1 / torch.arange(1, 400).float()

    def sample() -> list[str]:
        draws = torch.multinomial(weights, 60 * 8, replacement=True, generator=generator)
        return [" ".join(map(str, row)) for row in draws.view(60, 8).tolist()]

    spread = torch.tensor([distinct(sample(), 1) for _ in range(60)]).std().item()
    low, high = distinct_ci95(sample(), 1)
    assert (high - low) / (2 * 1.96) == pytest.approx(spread, rel=0.35)


def test_one_row_of_the_table():
    assert mean_words(["a b  c\n", "", "d"]) == 4 / 3
    row, shape = text_metrics(PREDICTIONS, REFERENCES), text_shape(PREDICTIONS)
    assert row["ROUGE-L"] == rouge(PREDICTIONS, REFERENCES)["ROUGE-L"].mean().item()
    assert row["BLEU"] == bleu(PREDICTIONS, REFERENCES)
    assert torch.tensor(row["BLEU_ci95"]).isfinite().all()
    assert shape["words"] == mean_words(PREDICTIONS)
    assert shape["distinct-2"] == distinct(PREDICTIONS, 2)
    for key, numbers in (("ROUGE-1", row), ("words", shape)):
        assert numbers[f"{key}_ci95"][0] < numbers[key] < numbers[f"{key}_ci95"][1]


def test_lists_that_do_not_fit_are_refused():
    for call in (rouge, bleu_counts, text_metrics):
        with pytest.raises(ValueError, match="2 predictions, but 1 references"):
            call(["a", "b"], ["a"])
        with pytest.raises(ValueError, match="no predictions"):
            call([], [])
    with pytest.raises(ValueError, match="no texts"):
        mean_words([])
