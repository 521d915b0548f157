"""Rows of a track: what is read, and one clear line for each way a file can be wrong."""

import json
import lzma

import pytest

from helpers.records import (
    RECORDS,
    Comparison,
    Demonstration,
    Document,
    Labelled,
    Prompt,
    fingerprint,
)
from helpers.rows.embedded import SPLITS, load_rows, load_tokenizer, parse_row
from tests.support.folder_of_rows import write

GOOD = {"prompt": "P", "chosen": " a", "rejected": " b", "kind": "mixed", "probability": 0.75}
FILE = "comparisons.train.jsonl.xz"
KINDS = [("sentiment", kind) for kind in RECORDS]
KINDS += [("tldr", kind) for kind in RECORDS if kind != "labels"]


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 200
    return message


@pytest.mark.parametrize(("track", "kind"), KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_some_of_every_committed_file_is_read(track, kind, split):
    rows = load_rows(kind, split, track, limit=20)
    assert len(rows) == 20 and all(type(row) is RECORDS[kind] for row in rows)
    assert len(set(map(repr, rows))) >= 18  # two sentences may begin alike


def test_rows_hold_what_the_file_says(tmp_path):
    rows = [GOOD | {"chosen": f" naïve {i} 🙂", "unknown": 1} for i in range(3)]
    write(tmp_path / FILE, [json.dumps(rows[0]), *rows[1:]])  # with and without escapes
    expected = [Comparison("P", f" naïve {i} 🙂", " b", "mixed", 0.75) for i in range(3)]
    for limit, number in ((None, 3), (2, 2), (99, 3)):
        rows = load_rows("comparisons", "train", folder=tmp_path, limit=limit)
        assert rows == expected[:number]


def test_a_line_break_inside_a_text_is_not_a_row(tmp_path):
    write(tmp_path / "documents.train.jsonl.xz", [{"text": "a\u2028b\r\nc\x85d"}])
    assert load_rows("documents", "train", folder=tmp_path) == [Document("a\u2028b\r\nc\x85d")]


def test_fields_that_may_be_left_out():
    assert parse_row(Document, '{"text": "x"}', "here") == Document("x", None)
    answer = '{"prompt": "p", "completion": " c", "label": 0}'
    assert parse_row(Labelled, answer, "here") == Labelled("p", " c", 0, None)
    line = '{"prompt": "p", "completion": " c"}'
    assert parse_row(Demonstration, line, "here") == Demonstration("p", " c", None)
    assert parse_row(Prompt, '{"prompt": "p", "facts": null}', "here") == Prompt("p", None)


@pytest.mark.parametrize(
    "row, fault",
    [
        ({"prompt": "P", "chosen": " a"}, r"'rejected' is missing \(found: prompt, chosen\)"),
        ({}, r"the field 'prompt' is missing \(found: none\)"),
        (GOOD | {"chosen": ""}, "'chosen' must be a text that is not empty"),
        (GOOD | {"chosen": " \n"}, "'chosen' must be a text that is not empty"),
        (GOOD | {"rejected": 7}, "'rejected' must be a text"),
        (GOOD | {"rejected": None}, "'rejected' must be a text"),
        (GOOD | {"rejected": ["x"]}, "'rejected' must be a text"),
        (GOOD | {"kind": 3}, "'kind' must be a text"),
        (GOOD | {"probability": "high"}, "'probability' must be a number"),
        ('["prompt", "chosen"]', "must be an object with fields, not list"),
        ("null", "must be an object with fields, not NoneType"),
        ('{"prompt": "P", ', "not JSON"),
        ("prompt,chosen,rejected", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path, row, fault):
    write(tmp_path / FILE, [GOOD, row, GOOD])
    with pytest.raises(ValueError, match=fault) as error:
        load_rows("comparisons", "train", folder=tmp_path)
    assert one_line(error).startswith(f"{FILE}, line 2: ")
    # what is not read cannot hurt
    assert len(load_rows("comparisons", "train", folder=tmp_path, limit=1)) == 1


ANSWER = '{"prompt": "p", "completion": " c", "label": %s}'
LABELS = [(Labelled, ANSWER % x, "0 or 1") for x in ("2", '"1"', "true", "null", "0.5", "1.0")]


@pytest.mark.parametrize(
    "record, line, kind",
    [
        *LABELS,
        (Prompt, '{"prompt": "p", "facts": "sister"}', "an object"),
        (Document, '{"text": "x", "logprob": "-3"}', "a number"),
    ],
)
def test_a_field_of_another_type_is_named(record, line, kind):
    with pytest.raises(ValueError, match=f"^here: the field '.*' must be {kind}$"):
        parse_row(record, line, "here")


@pytest.mark.parametrize(("kind", "split"), [("documents", "test"), ("posts", "train"), ("", "")])
def test_an_unknown_kind_or_split_lists_the_known_ones(kind, split):
    with pytest.raises(ValueError) as error:
        load_rows(kind, split)
    assert all(name in one_line(error) for name in (*RECORDS, *SPLITS))


def test_a_missing_file_says_how_to_make_it(tmp_path):
    missing = r"documents\.heldout\.jsonl\.xz is missing.*make data"
    for options in ({"folder": tmp_path}, {"track": "nowhere"}):
        with pytest.raises(FileNotFoundError, match=missing):
            load_rows("documents", "heldout", **options)
    with pytest.raises(FileNotFoundError, match="make data"):
        load_tokenizer("nowhere")


DAMAGES = [lambda x: x[: len(x) // 2], lambda x: b"PK" + x[2:], lambda x: b"", lambda x: x[:-9]]
LATIN = lzma.compress('{"prompt": "naïve"}\n'.encode("latin-1"))


@pytest.mark.parametrize("damage", [*DAMAGES, lambda x: LATIN])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    write(tmp_path / FILE, [GOOD | {"prompt": f"P{i}"} for i in range(500)])
    (tmp_path / FILE).write_bytes(damage((tmp_path / FILE).read_bytes()))
    with pytest.raises(ValueError, match=rf"{FILE} is damaged.*make data") as error:
        load_rows("comparisons", "train", folder=tmp_path)
    one_line(error)


def test_the_fingerprint_tells_records_apart():
    rows = [Document("a", -1.0), Document("b", -2.0)]
    assert fingerprint(rows) == fingerprint(list(rows)) != fingerprint(rows[::-1])
    assert len({fingerprint(r) for r in ([], rows, rows[:1], [Document("a", -1.5), rows[1]])}) == 4
