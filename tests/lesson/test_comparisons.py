"""What 2-RM-Training shows of its comparisons, of an embedded world and of real rows."""

import math
from dataclasses import replace

import pytest
import torch

from helpers.lesson import comparisons as lesson
from helpers.records import Comparison


@pytest.fixture
def real(comparisons):
    """The same pairs as people would have written them: no kinds, no probabilities."""
    return lesson.with_kinds([replace(c, kind="", probability=None) for c in comparisons])


def test_a_pair_without_a_kind_gets_one_by_its_lengths():
    texts = [("a b", "a"), ("a", "a b"), ("a", "b")]
    pairs = lesson.with_kinds([Comparison("p", *pair) for pair in texts])
    assert [c.kind for c in pairs] == ["chosen longer", "chosen shorter", "same length"]
    assert lesson.gaps_of(pairs, lesson.ceiling_of(pairs))[0].tolist() == [1, -1, 0]


def test_the_example_has_a_clear_label_and_fits(comparisons, tokenizer):
    example = lesson.clear_pair(comparisons, tokenizer, 256)
    assert example.probability > 0.5 and example.kind == "hallucinating"
    assert len(tokenizer.encode(example.prompt + 2 * example.chosen)) < 256


def test_the_ceiling_is_known_in_an_embedded_world_only(comparisons, real, capsys):
    margin = torch.linspace(-3, 3, len(comparisons))
    ceiling = lesson.ceiling_of(comparisons)
    assert 0.5 < ceiling.bayes < 1 and ceiling.progress(ceiling.bayes).startswith("100%")
    assert 0 <= lesson.doubtful_labels(margin, ceiling) < 0.5
    assert all(ceiling.agreement[i] > 0.8 for i in lesson.worst_pairs(margin, ceiling))
    assert "annotators prefer" in lesson.caption(comparisons[0], 1.0)
    assert lesson.gaps_of(comparisons, ceiling)[1].startswith("gold")
    capsys.readouterr()

    ceiling = lesson.ceiling_of(real)
    assert not ceiling.known and "nobody knows" in ceiling.progress(0.7)
    assert math.isnan(lesson.doubtful_labels(margin, ceiling))
    assert lesson.worst_pairs(margin, ceiling) == [0, 1, 2, 3]
    assert "annotators prefer" not in lesson.caption(real[0], 1.0)
    assert lesson.gaps_of(real, ceiling)[1].startswith("words")
    assert capsys.readouterr().out.count("not known") == 2


def test_a_changed_prompt_makes_the_rejected_summary_true(comparisons, tokenizer):
    about = lesson.by_fact(comparisons)
    rows, changed = lesson.with_changed_prompts(comparisons, tokenizer, most=5)
    assert rows and set(rows) <= set(about["option"])
    for i, pair in zip(rows, changed, strict=True):
        before = comparisons[i]
        assert pair.prompt != before.prompt
        assert (pair.chosen, pair.rejected) == (before.chosen, before.rejected)
        # wherever the post named those of the chosen summary
        named, once = lesson.options_of(pair.prompt), lesson.options_of(before.prompt)
        assert set(once) == set(lesson.options_of(before.chosen)) and len(named) == len(once)
        assert set(named) == set(lesson.options_of(before.rejected)) != set(once)


def test_elsewhere_a_pair_gets_another_prompt_that_is_no_longer(real, tokenizer):
    rows, changed = lesson.with_changed_prompts(
        [replace(c, kind="pair") for c in real], tokenizer, most=5
    )
    for i, pair in zip(rows, changed, strict=True):
        lengths = [len(tokenizer.encode(c.prompt)) for c in (pair, real[i])]
        assert pair.prompt != real[i].prompt and lengths[0] <= lengths[1]
