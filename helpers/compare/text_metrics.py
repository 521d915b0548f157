"""Responses against references (ROUGE, BLEU), and the variety and length of a set of texts
(distinct-n, words). ROUGE and BLEU come from rouge-score and sacrebleu, as in papers.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from helpers.evaluation import bootstrap_ci95

ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}  # rouge-score's names: ours
ORDER = 4  # BLEU counts n-grams of 1 to 4 tokens
RESAMPLES = 1000


def check_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Raise ValueError unless there is at least one prediction, and one reference for each."""
    if not predictions:
        raise ValueError("no predictions to compare with references")
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions, but {len(references)} references")


def rouge(
    predictions: Sequence[str], references: Sequence[str], kinds: Sequence[str] = tuple(ROUGE)
) -> dict[str, Tensor]:
    """F-measure, 0 to 1, of each prediction with its reference: {"ROUGE-1": (N,), ...}.

    kinds: rouge-score's names. Words are stemmed; a text without a letter a-z or a digit has none,
    so two equal emoji score 0. Raises ValueError for lists of different lengths. Source: Lin 2004.
    """
    from rouge_score.rouge_scorer import RougeScorer  # imported here: most runs have no references

    check_pairs(predictions, references)
    scorer = RougeScorer(list(kinds), use_stemmer=True)
    scores = [scorer.score(*texts) for texts in zip(references, predictions)]
    return {
        ROUGE[kind]: torch.tensor([float(score[kind].fmeasure) for score in scores])
        for kind in kinds
    }


def bleu_counts(predictions: Sequence[str], references: Sequence[str]) -> Tensor:
    """The counts behind corpus BLEU, a row per pair, (N, 10) int64; those of a set of pairs are the
    sum of its rows.

    Columns: matching n-grams for n = 1 to 4, all n-grams of the prediction for n = 1 to 4, tokens
    of the prediction, tokens of the reference.
    """
    from sacrebleu.metrics import BLEU

    check_pairs(predictions, references)
    metric = BLEU(effective_order=True)  # changes a sentence's score, not its counts
    rows = []
    for prediction, reference in zip(predictions, references):
        score = metric.sentence_score(prediction, [reference])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return torch.tensor(rows)


def bleu_of(counts: Tensor) -> float:
    """Corpus BLEU, 0 to 100, of summed counts (10,), with sacrebleu's defaults:
    case:mixed|eff:no|tok:13a|smooth:exp, one reference. Source: Papineni et al. 2002; Post 2018.
    """
    from sacrebleu.metrics import BLEU

    *grams, predicted, expected = counts.tolist()
    lengths = predicted, expected
    return BLEU.compute_bleu(grams[:ORDER], grams[ORDER:], *lengths, smooth_method="exp").score


def bleu_ci95(counts: Tensor) -> list[float]:
    """95% percentile-bootstrap interval of corpus BLEU, [low, high], over the pairs behind counts
    (N, 10); of NaNs for a single pair.

    BLEU is not a mean over pairs: each resample adds up its pairs' counts. Source: Koehn 2004.
    """
    if len(counts) < 2:
        return [math.nan, math.nan]
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(counts), (RESAMPLES, len(counts)), generator=generator)
    scores = torch.tensor([bleu_of(counts[draw].sum(0)) for draw in draws])
    return torch.quantile(scores, torch.tensor([0.025, 0.975])).tolist()


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text's words, which are separated by spaces."""
    return list(zip(*(text.split()[i:] for i in range(n))))


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of a set of texts, 0 to 1; 0 if no text has n words.

    It falls as texts grow longer or more numerous, so compare only sets of similar size. Source: Li
    et al. 2016. Raises ValueError for n below 1.
    """
    if n < 1:
        raise ValueError(f"distinct-n: n must be at least 1, not {n}")
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def distinct_ci95(texts: Sequence[str], n: int) -> list[float]:
    """95% jackknife interval of distinct-n, [low, high], over the texts.

    Not a bootstrap: a text that is drawn twice repeats itself, so every resample would be less
    varied than the texts. The jackknife leaves out one text at a time (Efron and Stein 1981).
    """
    share, rows = distinct(texts, n), [ngrams(text, n) for text in texts]
    owners = Counter(gram for row in rows for gram in set(row))  # the number of texts with it
    kinds, total = len(owners), sum(map(len, rows))
    without = [
        (kinds - sum(owners[gram] == 1 for gram in set(row))) / (total - len(row))
        for row in rows
        if total > len(row)
    ]
    if len(without) < 2:
        return [share, share]
    spread = torch.tensor(without, dtype=torch.float64).var(unbiased=False).item()
    half = 1.96 * math.sqrt((len(without) - 1) * spread)
    return [max(0.0, share - half), min(1.0, share + half)]


def mean_words(texts: Sequence[str]) -> float:
    """Mean length in words, separated by spaces. Raises ValueError without texts."""
    if not texts:
        raise ValueError("no texts to measure")
    return sum(len(text.split()) for text in texts) / len(texts)


def text_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float | list]:
    """ROUGE and BLEU of the predictions, each with a 95% interval under NAME_ci95."""
    row: dict[str, float | list] = {}
    for name, scores in rouge(predictions, references).items():
        row[name], row[f"{name}_ci95"] = scores.mean().item(), bootstrap_ci95(scores)
    counts = bleu_counts(predictions, references)
    return row | {"BLEU": bleu_of(counts.sum(0)), "BLEU_ci95": bleu_ci95(counts)}


def text_shape(texts: Sequence[str]) -> dict[str, float | list]:
    """How long texts are and how varied, each with a 95% interval under NAME_ci95."""
    lengths = torch.tensor([float(len(text.split())) for text in texts])
    row: dict[str, float | list] = {"words": mean_words(texts)}
    row["words_ci95"] = bootstrap_ci95(lengths)
    for n in (1, 2, 3):
        row[f"distinct-{n}"] = distinct(texts, n)
        row[f"distinct-{n}_ci95"] = distinct_ci95(texts, n) if len(texts) > 1 else [math.nan] * 2
    return row
