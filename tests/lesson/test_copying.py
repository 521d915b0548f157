"""Whether a model copies: measured on tokens that are there, in every world."""

import pytest

from helpers.lesson.copying import COUNTED, mention_losses
from helpers.pretrain import encode_documents
from tests.support.courses import course_in


@pytest.mark.parametrize("track", ["tldr", "sentiment", "assistant"])
def test_every_world_has_first_and_later_mentions(track, tmp_path):
    course = course_in(tmp_path, "pretrain", track=track)
    rows, heldout = (
        encode_documents(course.rows("documents", split, COUNTED), course.tokenizer, 256)
        for split in ("train", "heldout")
    )

    def one_nat_each(row):
        return [1.0] * len(row)

    series = mention_losses(course, one_nat_each, rows, heldout, documents=20)
    assert all(loss >= 1 for kind in series.values() for loss in kind.values())
