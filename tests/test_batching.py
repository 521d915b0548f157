"""Padding, buckets of similar length, and the one-line errors for prompts."""

import math

import pytest
import torch

from helpers.batching import Batches, batch_plan, check_prompts, left_pad, length_buckets, right_pad
from helpers.engine.transfer import Ahead, ahead


@pytest.mark.parametrize(
    ("pad", "ids", "mask"),
    [
        (left_pad, [[5, 6], [1, 7], [1, 1]], [[1, 1], [0, 1], [0, 0]]),
        (right_pad, [[5, 6], [7, 1], [1, 1]], [[1, 1], [1, 0], [0, 0]]),
    ],
)
def test_pads_go_where_they_are_told(pad, ids, mask):
    found, shown = pad([[5, 6], [7], []], pad_id=1)
    assert found.tolist() == ids and shown.int().tolist() == mask
    assert found.dtype == torch.int64 and shown.dtype == torch.bool
    with pytest.raises(ValueError, match="no rows"):
        pad([], 0)


def test_the_width_is_rounded_up_to_a_multiple():
    ids, mask = right_pad([[5, 6, 7], [8]], pad_id=1, multiple=4)
    assert ids.tolist() == [[5, 6, 7, 1], [8, 1, 1, 1]]
    assert mask.sum(1).tolist() == [3, 1]
    assert [right_pad([[5] * n], 1, multiple=4)[0].size(1) for n in (4, 5, 8)] == [4, 8, 8]


def test_a_pad_id_inside_a_row_is_a_real_token():
    _, mask = right_pad([[1, 1, 5], [2]], pad_id=1)
    assert mask.tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"),
    [(50, 8, 1), (50, 8, 3), (7, 16, 2), (48, 8, 1.0), (8, 8, 1), (1, 1, 1), (0, 4, 1)],
)
def test_every_row_comes_once_an_epoch_in_full_batches(rows, batch_size, epochs):
    lengths = torch.randint(1, 50, (rows,)).tolist()
    plan, a_pass = batch_plan(lengths, batch_size, epochs, seed=0), math.ceil(rows / batch_size)
    assert len(plan) == a_pass * epochs
    for start in range(0, len(plan), a_pass or 1):
        batches = plan[start : start + a_pass]
        assert sorted(i for batch in batches for i in batch) == list(range(rows))
        assert sum(len(batch) != batch_size for batch in batches) <= 1


def test_part_of_an_epoch_is_part_of_the_rows():
    plan = batch_plan([10] * 80, 8, 2.5, seed=0)
    assert len(plan) == 25 and len(set(sum(plan[20:], []))) == 5 * 8
    assert len(batch_plan([10] * 80, 8, 0.3, seed=0)) == 3


def test_the_order_is_fixed_by_the_seed_and_new_each_epoch():
    lengths = torch.randint(1, 50, (60,)).tolist()
    plan = batch_plan(lengths, 10, 2, seed=3)
    assert plan == batch_plan(lengths, 10, 2, seed=3) != batch_plan(lengths, 10, 2, seed=4)
    assert plan[:6] != plan[6:]


def test_buckets_waste_little_and_come_shuffled():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 100, (1000,), generator=generator).tolist()
    buckets = length_buckets(lengths, 20, generator)
    padded = sum(len(bucket) * max(lengths[i] for i in bucket) for bucket in buckets)
    assert padded < 1.05 * sum(lengths)  # random batches: about 1.9
    means = [sum(lengths[i] for i in bucket) / len(bucket) for bucket in buckets]
    assert means != sorted(means)


def test_rows_of_one_length_meet_others_each_time():
    generator = torch.Generator().manual_seed(0)
    first, second = (length_buckets([7] * 40, 10, generator) for _ in range(2))
    assert {frozenset(bucket) for bucket in first} != {frozenset(bucket) for bucket in second}


def test_bucket_size_is_checked():
    with pytest.raises(ValueError, match="batch_size.*0"):
        length_buckets([1, 2], 0)


@pytest.mark.parametrize(
    ("mask", "new", "message"),
    [
        (torch.ones(0, 3), 1, "no prompts"),
        (torch.tensor([[1, 1], [0, 0]]), 1, "row 1 is empty"),
        (torch.ones(2, 0), 1, "row 0 is empty"),
        (torch.tensor([[1, 1], [1, 0]]), 1, "padded on the left"),
        (torch.ones(2, 3), 0, "max_new_tokens.*0"),
        (torch.ones(2, 7), 4, "prompt of 7 and 4 new tokens do not fit the context of 10"),
    ],
)
def test_bad_prompts_are_named(mask, new, message):
    with pytest.raises(ValueError, match=message):
        check_prompts(mask, new, context=10)


def test_good_prompts_pass():
    check_prompts(torch.tensor([[0, 1], [1, 1]]), 8, context=10)


# ---------------------------------------------------------------- batches on demand


def test_batches_are_made_when_they_are_asked_for():
    made = []
    batches = Batches([[0, 1], [2], [3, 4]], lambda rows: made.append(rows) or tuple(rows))
    assert len(batches) == 3 and made == []
    assert batches[1] == (2,) and made == [[2]]
    assert list(batches[1:]) == [(2,), (3, 4)] and len(batches[:2]) == 2


def test_batches_ahead_are_the_same_from_any_step():
    batches = Batches([[i] for i in range(6)], lambda rows: (torch.tensor(rows),))
    early = Ahead(batches)
    assert [early[step][0].item() for step in (3, 4, 5, 0, 1, 1)] == [3, 4, 5, 0, 1, 1]
    assert ahead(batches, torch.device("cpu")) is batches and isinstance(
        ahead(batches, torch.device("cuda")), Ahead
    )


def test_an_error_in_a_batch_is_raised_where_it_is_asked_for():
    early = Ahead(Batches([[0], [1]], lambda rows: (1 // (1 - rows[0]),)))
    assert early[0] == (1,)
    with pytest.raises(ZeroDivisionError):
        early[1]
