"""What a lesson knows about its rows."""

from helpers.lesson.known import floor_of
from helpers.records import Document


def test_the_floor_is_counted_per_token_and_only_where_it_is_known():
    known, unknown = Document("a text", -4.0), Document("another")
    assert floor_of([known, Document("a longer text", -3.5)], 5) == 7.5 / 5
    assert floor_of([known, unknown], 5) is None
