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

GOOD = {"prompt": "P", "chosen": " a", "rejected": " b", "kind": "mixed", "probability": 0.75}


def write(folder, lines, kind="comparisons", split="train") -> None:
    content = "".join(line + "\n" for line in lines).encode()
    (folder / f"{kind}.{split}.jsonl.xz").write_bytes(lzma.compress(content))


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 200
    return message


@pytest.mark.parametrize(
    ("track", "kind"),
    [("tldr", kind) for kind in RECORDS if kind != "labels"]
    + [("sentiment", kind) for kind in RECORDS],
)
@pytest.mark.parametrize("split", SPLITS)
def test_some_of_every_committed_file_is_read(track, kind, split):
    rows = load_rows(kind, split, track, limit=20)
    assert len(rows) == 20 and all(type(row) is RECORDS[kind] for row in rows)
    assert len(set(map(repr, rows))) >= 18  # two sentences may begin alike


def test_rows_hold_what_the_file_says(tmp_path):
    lines = [
        json.dumps(GOOD | {"chosen": f" naïve {i} 🙂", "unknown": 1}, ensure_ascii=i == 1)
        for i in range(3)
    ]
    write(tmp_path, lines)
    expected = [Comparison("P", f" naïve {i} 🙂", " b", "mixed", 0.75) for i in range(3)]
    assert load_rows("comparisons", "train", folder=tmp_path) == expected
    assert load_rows("comparisons", "train", folder=tmp_path, limit=2) == expected[:2]
    assert load_rows("comparisons", "train", folder=tmp_path, limit=99) == expected


def test_a_line_break_inside_a_text_is_not_a_row(tmp_path):
    write(
        tmp_path, [json.dumps({"text": "a\u2028b\r\nc\x85d"}, ensure_ascii=False)], kind="documents"
    )
    assert load_rows("documents", "train", folder=tmp_path) == [Document("a\u2028b\r\nc\x85d")]


def test_fields_that_may_be_left_out():
    assert parse_row(Document, '{"text": "x"}', "here") == Document("x", None)
    assert parse_row(Demonstration, '{"prompt": "p", "completion": " c"}', "here") == Demonstration(
        "p", " c", "", None
    )
    assert parse_row(Prompt, '{"prompt": "p", "facts": null}', "here") == Prompt("p", None)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            '{"prompt": "P", "chosen": " a"}',
            r"the field 'rejected' is missing \(found: prompt, chosen\)",
        ),
        ("{}", r"the field 'prompt' is missing \(found: none\)"),
        (json.dumps(GOOD | {"chosen": ""}), "'chosen' must be a text that is not empty"),
        (json.dumps(GOOD | {"chosen": " \n"}), "'chosen' must be a text that is not empty"),
        (json.dumps(GOOD | {"rejected": 7}), "'rejected' must be a text"),
        (json.dumps(GOOD | {"rejected": None}), "'rejected' must be a text"),
        (json.dumps(GOOD | {"rejected": ["x"]}), "'rejected' must be a text"),
        (json.dumps(GOOD | {"kind": 3}), "'kind' must be a text"),
        (json.dumps(GOOD | {"probability": "high"}), "'probability' must be a number"),
        ('["prompt", "chosen"]', "must be an object with fields, not list"),
        ("null", "must be an object with fields, not NoneType"),
        ('{"prompt": "P", ', "not JSON"),
        ("prompt,chosen,rejected", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path, line, says):
    write(tmp_path, [json.dumps(GOOD), line, json.dumps(GOOD)])
    with pytest.raises(ValueError, match=says) as error:
        load_rows("comparisons", "train", folder=tmp_path)
    assert one_line(error).startswith("comparisons.train.jsonl.xz, line 2: ")
    assert (
        len(load_rows("comparisons", "train", folder=tmp_path, limit=1)) == 1
    )  # what is not read cannot hurt


@pytest.mark.parametrize("label", ["2", '"1"', "true", "null", "0.5", "1.0"])
def test_a_label_is_0_or_1(label):
    line = '{"prompt": "p", "completion": " c", "label": %s}'
    with pytest.raises(ValueError, match="here: the field 'label' must be 0 or 1"):
        parse_row(Labelled, line % label, "here")
    assert parse_row(Labelled, line % 0, "here") == Labelled("p", " c", 0, None)


def test_facts_and_logprobs_have_their_types():
    with pytest.raises(ValueError, match="here: the field 'facts' must be an object"):
        parse_row(Prompt, '{"prompt": "p", "facts": "sister"}', "here")
    with pytest.raises(ValueError, match="here: the field 'logprob' must be a number"):
        parse_row(Document, '{"text": "x", "logprob": "-3"}', "here")


@pytest.mark.parametrize(("kind", "split"), [("documents", "test"), ("posts", "train"), ("", "")])
def test_an_unknown_kind_or_split_lists_the_known_ones(kind, split):
    with pytest.raises(ValueError) as error:
        load_rows(kind, split)
    assert all(name in one_line(error) for name in (*RECORDS, *SPLITS))


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"documents\.heldout\.jsonl\.xz is missing.*make data"
    ):
        load_rows("documents", "heldout", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="make data"):
        load_rows("documents", "heldout", track="nowhere")
    with pytest.raises(FileNotFoundError, match="make data"):
        load_tokenizer("nowhere")


@pytest.mark.parametrize(
    "damage", [lambda x: x[: len(x) // 2], lambda x: b"PK" + x[2:], lambda x: b"", lambda x: x[:-9]]
)
def test_a_damaged_file_is_one_line(tmp_path, damage):
    path = tmp_path / "comparisons.train.jsonl.xz"
    write(tmp_path, [json.dumps(GOOD | {"prompt": f"P{i}"}) for i in range(500)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"comparisons\.train\.jsonl\.xz is damaged.*make data"
    ) as error:
        load_rows("comparisons", "train", folder=tmp_path)
    one_line(error)


def test_text_in_another_encoding_is_one_line(tmp_path):
    (tmp_path / "documents.train.jsonl.xz").write_bytes(
        lzma.compress('{"text": "naïve"}\n'.encode("latin-1"))
    )
    with pytest.raises(ValueError, match=r"documents\.train\.jsonl\.xz is damaged") as error:
        load_rows("documents", "train", folder=tmp_path)
    one_line(error)


def test_the_fingerprint_tells_records_apart():
    rows = [Document("a", -1.0), Document("b", -2.0)]
    assert fingerprint(rows) == fingerprint(list(rows)) != fingerprint(rows[::-1])
    assert len({fingerprint(r) for r in ([], rows, rows[:1], [Document("a", -1.5), rows[1]])}) == 4
