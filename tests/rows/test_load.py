"""Where rows come from: a local folder in each format, the embedded world, and real rows where
there are any.
"""

import json
from pathlib import Path

import pytest

from helpers.records import Comparison, Demonstration, Document
from helpers.rows.common import Limits
from helpers.rows.embedded import load_rows
from helpers.rows.tracks import SourceError
from tests.support.chosen_rows import load_track
from tests.support.folder_of_rows import write

ALPACA = [
    {"instruction": f"Count to {i}.", "input": "", "output": f"Yes, {i} 🙂"} for i in range(60)
]
PAIRS = [{"prompt": f"Why {i}?", "chosen": f"Because {i}.", "rejected": "No."} for i in range(60)]
SST2 = [
    {
        "sentence": f"film {i} is a long and {'fine' if i % 2 else 'dull'} one to see tonight",
        "label": i % 2,
    }
    for i in range(30)
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path))
    return tmp_path


def refused(*names, **options) -> str:
    with pytest.raises(SourceError) as error:
        load_track(*names, **options)
    message = str(error.value)
    assert "\n" not in message
    assert (
        error.value.__suppress_context__ or error.value.__context__ is None
    )  # no library's error is shown with it
    return message


# a local folder


@pytest.mark.parametrize(
    "name",
    [
        "train.jsonl",
        "train.jsonl.gz",
        "train.jsonl.xz",
        "train-00000-of-00002.jsonl",
        "data/train-00000-of-00001-e8c59e5c.jsonl",
    ],
)
def test_jsonl_in_each_packing(folder, name):
    write(folder / "alpaca" / name, ALPACA)
    train, report = load_track("assistant", "demonstrations", "train")
    heldout, _ = load_track("assistant", "demonstrations", "heldout")
    assert Demonstration("Human: Count to 7.\n\nAssistant:", " Yes, 7 🙂") in train + heldout
    assert len(train) + len(heldout) == 60 and heldout and not set(train) & set(heldout)
    assert (
        str(report)
        == f"assistant demonstrations/train (local: alpaca/{name}): {len(train)} records"
    )


def test_parquet_and_shards(folder):
    import pyarrow
    from pyarrow.parquet import write_table

    (folder / "sst2" / "data").mkdir(parents=True)
    for shard, rows in enumerate((SST2[:20], SST2[20:])):
        path = folder / "sst2" / "data" / f"train-0000{shard}-of-00002.parquet"
        write_table(pyarrow.Table.from_pylist(rows), path)
    records, report = load_track("sentiment", "labels", "train")
    held, _ = load_track("sentiment", "labels", "heldout")
    assert (
        len(records) + len(held) == 30
        and {r.label for r in records} == {0, 1}
        and not report.left_out
    )
    path.write_bytes(path.read_bytes()[:-40])
    assert "train-00001-of-00002.parquet in data/ is damaged" in refused(
        "sentiment", "labels", "train"
    )


@pytest.mark.parametrize(
    ("ending", "mark"), [("tsv", "\t"), ("csv", ","), ("tsv.gz", "\t"), ("csv.xz", ",")]
)
@pytest.mark.parametrize("header", [True, False])
def test_tables_with_and_without_header(folder, ending, mark, header):
    lines = [f"{row['sentence']}{mark}{row['label']}" for row in SST2]
    lines = [f"sentence{mark}label"] * header + lines + ["a line without the second cell"]
    write(folder / "sst2" / f"train.{ending}", lines)
    other = [f"{row['sentence']} again{mark}{row['label']}" for row in SST2[:3]]
    write(folder / "sst2" / f"dev.{ending}", [f"sentence{mark}label"] * header + other)
    records, report = load_track("sentiment", "labels", "train")
    assert len(records) == 30 and report.left_out == {"line has not 2 cells": 1}
    assert len(load_track("sentiment", "labels", "heldout")[0]) == 3


def test_quotes_are_text_in_tsv_and_quotes_in_csv(folder):
    sentence = 'it is " a film , with a quote in it " they say'
    write(folder / "sst2" / "train.tsv", [f"{sentence}\t1"])
    [record], _ = load_track("sentiment", "labels", "train")
    (folder / "sst2" / "train.tsv").unlink()
    write(folder / "sst2" / "train.csv", ['"' + sentence.replace('"', '""') + '",1'])
    assert load_track("sentiment", "labels", "train")[0] == [record]
    assert record.prompt + record.completion == sentence


def test_a_mark_of_the_byte_order_and_long_cells_are_no_trouble(folder):
    (folder / "alpaca").mkdir()
    (folder / "alpaca" / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in ALPACA), encoding="utf-8-sig"
    )
    assert all(
        not load_track("assistant", "prompts", split)[1].left_out for split in ("train", "heldout")
    )
    texts = [f"{i} " + "word " * 30_000 for i in range(20)]
    write(folder / "fineweb-edu" / "train.csv", ["text", *texts])
    found = [load_track("tldr", "documents", split)[0] for split in ("train", "heldout")]
    assert set(sum(found, [])) == {Document(text.strip()) for text in texts}


def test_cells_of_parquet_that_are_no_text(folder):
    import pyarrow
    from pyarrow.parquet import write_table

    (folder / "fineweb-edu").mkdir()
    for column, says in (
        ([b"x" * 9], "text is no text"),
        ([None], "no text"),
        ([1.5], "text is no text"),
    ):
        write_table(pyarrow.table({"text": column}), folder / "fineweb-edu" / "train.parquet")
        assert f"({says}: 1)" in refused("tldr", "documents", "train")


def test_every_lost_row_is_counted_by_reason(folder):
    good = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    changes = (
        {},
        {},
        {"chosen": "No. "},
        {"chosen": None},
        {"rejected": 3},
        {"prompt": ""},
        {"chosen": "So " * 50},
    )
    rows = [
        *(good | change for change in changes),
        {"prompt": "Why?"},
        "{not json",
        '["a", "list"]',
        "null",
        "",
    ]
    path = folder / "synthetic-instruct-gptj-pairwise" / "train.jsonl"
    write(path, rows)
    path.write_bytes(path.read_bytes() + '{"prompt": "naïve"}\n'.encode("latin-1"))
    limits = Limits(lambda text: text.split(), prompt=20, context=30)
    records, report = load_track("instruct", "comparisons", "train", limits=limits)
    assert records == [Comparison("### Instruction:\nWhy?\n\n### Response:", " Because.", " No.")]
    assert report.left_out == {
        "duplicate": 1,
        "chosen equals rejected": 1,
        "no chosen": 2,
        "rejected is no text": 1,
        "empty prompt": 1,
        "too long for the context": 1,
        "line is not JSON": 2,
        "line is no object": 2,
        "line is not UTF-8": 1,
    }
    assert report.kept + report.left_out.total() == 13
    assert str(report).startswith(
        "instruct comparisons/train (local: synthetic-instruct-gptj-pairwise/train.jsonl): "
    )
    assert "): 1 records; 12 rows left out (no chosen: 2, " in str(report)
    assert "\n" not in str(report)


def test_other_rows_stand_in_only_where_there_are_none_of_its_own_and_the_report_says_so(folder):
    write(folder / "instruction-preference" / "alpaca_eval_pairs.train.jsonl", PAIRS)
    write(folder / "instruction-preference" / "alpaca_eval_pairs.valid.jsonl", PAIRS[:9])
    records, report = load_track("instruct", "comparisons", "heldout")
    assert len(records) == 9
    assert report.place == (
        "local: instruction-preference/alpaca_eval_pairs.valid.jsonl, "
        "a stand-in for Dahoas/synthetic-instruct-gptj-pairwise"
    )
    assert str(report) == f"instruct comparisons/heldout ({report.place}): 9 records"
    write(folder / "synthetic-instruct-gptj-pairwise" / "train.jsonl", PAIRS[:50])
    for split in ("train", "heldout"):
        records, report = load_track("instruct", "comparisons", split)
        assert (
            report.place == "local: synthetic-instruct-gptj-pairwise/train.jsonl"
            and len(records) < 50
        )


def test_cut_posts_are_counted(folder):
    post = "SUBREDDIT: r/a\nTITLE: t\nPOST: {}\nTL;DR:"
    write(
        folder / "tldr" / "sft.train.jsonl.gz",
        [
            {"prompt": post.format(text), "label": "Help."}
            for text in ("short", "one two three\n" * 20, "x " * 5000)
        ],
    )
    write(
        folder / "tldr" / "sft.valid.jsonl.gz", [{"prompt": post.format("other"), "label": "Help."}]
    )
    records, report = load_track(
        "tldr", "demonstrations", "train", limits=Limits(str.split, prompt=20)
    )
    assert (report.kept, report.cut, len(records)) == (3, 2, 3) and "2 prompts cut to fit" in str(
        report
    )


def test_limits_on_the_number_of_records(folder):
    write(folder / "sst2" / "train.jsonl", SST2)
    write(folder / "sst2" / "validation.jsonl", SST2[:9])
    assert len(load_track("sentiment", "demonstrations", "train", limit=4)[0]) == 4
    pairs, report = load_track("sentiment", "comparisons", "train", limit=4)
    assert (
        len(pairs) == report.kept == 4
        and pairs == load_track("sentiment", "comparisons", "train")[0][:4]
    )
    assert len(load_track("sentiment", "comparisons", "heldout")[0]) == 4


def test_a_renamed_column_is_named(folder):
    write(
        folder / "alpaca" / "train.jsonl", [{"instruction": "a", "input": "", "response": "b"}] * 3
    )
    message = refused("assistant", "prompts", "train")
    assert "tatsu-lab/alpaca has no column output (found: input, instruction, response)" in message


def test_missing_folders_and_files_name_what_to_fill(folder, monkeypatch):
    message = refused("sentiment", "labels", "train")
    for part in (
        "stanfordnlp/sst2 has no file for train",
        "sst2/train.jsonl",
        "RLHF_DATA_DIR",
        "embedded world",
    ):
        assert part in message
    monkeypatch.setenv("RLHF_DATA_DIR", str(folder / "nowhere"))
    assert "there is no such folder" in refused("sentiment", "labels", "train")
    monkeypatch.delenv("RLHF_DATA_DIR")
    assert "RLHF_DATA_DIR is not set" in refused("sentiment", "labels", "train", source="local")


@pytest.mark.parametrize("ending", ["jsonl.xz", "jsonl.gz", "tsv.xz"])
@pytest.mark.parametrize(
    "damage", [lambda x: x[: len(x) // 2], lambda x: b"PK" + x[2:], lambda x: x[:-9]]
)
def test_a_corrupt_file_is_one_line(folder, ending, damage):
    path = folder / "sst2" / f"train.{ending}"
    rows = [{"sentence": f"{row['sentence']} {i}", "label": 1} for i in range(20) for row in SST2]
    write(path, rows if "jsonl" in ending else [f"{row['sentence']}\t1" for row in rows])
    path.write_bytes(damage(path.read_bytes()))
    assert f"train.{ending} in sst2/ is damaged" in refused("sentiment", "labels", "train")


def test_a_table_in_another_encoding_and_a_file_of_rubbish(folder):
    write(folder / "sst2" / "train.tsv", ["x"])
    (folder / "sst2" / "train.tsv").write_bytes("naïve films\t1\n".encode("latin-1"))
    assert "train.tsv in sst2/ is damaged ('utf-8'" in refused("sentiment", "labels", "train")
    write(folder / "alpaca" / "train.jsonl", ["rubbish"] * 3)
    message = refused("assistant", "prompts", "train")
    assert "no row can be used" in message and "(line is not JSON: 3)" in message
    write(folder / "alpaca" / "train.jsonl", ALPACA[:1])
    assert "more rows are needed" in refused("assistant", "prompts", "heldout")


# the embedded world, and names


def test_the_embedded_world_is_what_it_was(monkeypatch):
    records, report = load_track("tldr", "comparisons", "heldout", source="embedded", limit=5)
    assert records == load_rows("comparisons", "heldout", limit=5)
    assert str(report) == "tldr comparisons/heldout (embedded): 5 records"
    monkeypatch.delenv("RLHF_DATA_DIR")
    assert load_track("tldr", "comparisons", "heldout", limit=5)[0] == records


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("poems", "prompts", "train"), "tldr, sentiment, assistant, instruct"),
        (("tldr", "prompts", "test"), "heldout"),
        (("tldr", "labels", "train"), "demonstrations"),
        (("tldr", "prompts", "train", "web"), "embedded, local, hub"),
    ],
)
def test_unknown_names_list_the_known_ones(names, says):
    with pytest.raises(ValueError, match=says):
        load_track(*names)
