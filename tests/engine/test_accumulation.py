"""A batch in parts: the same gradients, loss and weights as in one piece, for each stage's loss."""

import copy
import re

import pytest
import torch

from helpers import pointwise, pretrain, reward, sft
from helpers.config import PretrainConfig, RewardConfig, SFTConfig
from helpers.engine.accumulation import label_parts, pair_parts, row_slices, token_parts
from helpers.model import GPT
from helpers.reward import pair_batch, reward_loss
from tests.support.runs import LABELS, PAIRS, ROWS, model

SPLIT_ROWS = [(ids, len(ids) // 3) for ids in ROWS]  # with the prompt's length
TWICE = dict(batch_size=8, epochs=2.0)
STAGES = {  # name: train(model, micro_batch), and whether the model is a reward model
    "pretrain": (
        lambda m, n: pretrain.train(m, ROWS, PretrainConfig(**TWICE, micro_batch=n), 1),
        False,
    ),
    "sft": (lambda m, n: sft.train(m, SPLIT_ROWS, SFTConfig(**TWICE, micro_batch=n), 1), False),
    "pairs": (lambda m, n: reward.train(m, PAIRS, RewardConfig(**TWICE, micro_batch=n), 1), True),
    "labels": (
        lambda m, n: pointwise.train(m, ROWS, LABELS, RewardConfig(**TWICE, micro_batch=n), 1),
        True,
    ),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", [1, 3])
def test_a_run_in_parts_is_the_run_in_one_piece(stage, size, capsys):
    train, scored = STAGES[stage]
    whole, parts = model(scored), model(scored)
    expected, found = train(whole, 0), train(parts, size)
    assert len(found) == len(expected) > 3
    for a, b in zip(expected, found):
        assert b == pytest.approx(a, rel=2e-3, abs=1e-4)
    # Muon's 16-bit products enlarge differences in the last digit
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, atol=5e-3, rtol=0, msg=name)


@pytest.mark.parametrize("stage", ["labels", "pairs"])
def test_gradients_of_two_means_add_up(stage):
    """In float64, so that nothing but an error of weighting can show."""
    scored = model(True).double()
    ids, mask = reward.right_pad(ROWS, 1)
    labels = torch.tensor(LABELS, dtype=torch.float32)
    if stage == "pairs":
        batch, loss_of, split = pair_batch(PAIRS, 1), reward_loss, pair_parts(4, 0.7)
        whole = loss_of(scored, batch, 0.7)[0]
    else:
        batch, loss_of, split = (ids, mask, labels), pointwise.label_loss, label_parts(4, 0.7)
        whole = loss_of(scored, *batch, 0.7)[0]
    expected = torch.autograd.grad(whole, list(scored.parameters()))
    twin = copy.deepcopy(scored)
    shares = []
    for part, share in split(batch):
        (share * loss_of(twin, *part)[0]).backward()
        shares.append(share)
    assert sum(shares) == pytest.approx(1)
    for gradient, parameter in zip(expected, twin.parameters()):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-5)
    uneven = sum(share * loss_of(twin, *part[:-1], 0.7)[0].item() for part, share in split(batch))
    assert uneven != pytest.approx(whole.item(), abs=1e-5), (
        "the parts' own lm_coef must matter here"
    )


def test_a_batch_in_one_piece_is_untouched():
    ids, mask = reward.right_pad(ROWS, 1)
    (((same_ids, same_mask), share),) = token_parts(0)((ids, mask))
    assert torch.equal(same_ids, ids) and torch.equal(same_mask, mask) and share == 1.0
    ((part, share),) = label_parts(0, 0.3)((ids, mask, torch.ones(len(ids))))
    assert part[3] == 0.3 and share == 1.0
    assert [len(range(23)[rows]) for rows in row_slices(23, 8)] == [8, 8, 7]


# ---------------------------------------------------------------- when the memory runs out


LACKS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", LACKS)
def test_parts_get_smaller_until_they_fit(error, capsys):
    """A machine that holds at most three rows at once: the run is the one that was in small parts
    from the start.
    """
    whole, limited = model(False), model(False)
    expected = pretrain.train(whole, ROWS, PretrainConfig(**TWICE, micro_batch=2), 1)
    hidden = GPT.hidden

    def tight(self, ids, *rest, **options):
        if self is limited and len(ids) > 3:
            raise error
        return hidden(self, ids, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GPT, "hidden", tight)
        found = pretrain.train(limited, ROWS, PretrainConfig(**TWICE), 1)
    assert re.search(
        r"out of memory with \d rows at once: from now on \d, in \d parts instead of 1; the batch "
        r"stays",
        capsys.readouterr().out,
    )
    assert [row["loss"] for row in found] == pytest.approx(
        [row["loss"] for row in expected], rel=1e-3
    )


def test_one_row_that_does_not_fit_and_other_errors_are_raised():
    parts = token_parts(1)
    batch = reward.right_pad(ROWS, 1)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        parts.shrink(torch.OutOfMemoryError("CUDA out of memory"), batch)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        token_parts(0).shrink(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), batch)
