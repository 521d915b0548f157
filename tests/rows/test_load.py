"""Where rows come from: a local folder in each format, the embedded world, and unknown names."""

import csv
import json
from itertools import product
from pathlib import Path

import pytest

from helpers.engine.parser import SettingsError
from helpers.records import Comparison, Demonstration, Document
from helpers.rows.common import Limits
from helpers.rows.embedded import load_rows
from helpers.rows.tracks import SourceError
from tests.support.chosen_rows import load_track
from tests.support.folder_of_rows import PAIRS, SST2, write

ALPACA = [
    {"instruction": f"Count to {i}.", "input": "", "output": f"Yes, {i} 🙂"} for i in range(60)
]
DEMONSTRATIONS, LABELS = ("assistant", "demonstrations"), ("sentiment", "labels", "train")
PAIRWISE = "synthetic-instruct-gptj-pairwise"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path))
    return tmp_path


def refused(*names, **options) -> str:
    with pytest.raises(SourceError) as error:
        load_track(*names, **options)
    assert "\n" not in str(error.value)
    # no library's error is shown with it
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return str(error.value)


# a local folder

NAMES = ["train.jsonl", "train.jsonl.gz", "train.jsonl.xz", "train-00000-of-00001.jsonl"]


@pytest.mark.parametrize("name", [*NAMES, "data/train-00000-of-00001-e8c59e5c.jsonl"])
def test_jsonl_in_each_packing(folder, name):
    write(folder / "alpaca" / name, ALPACA)
    train, report = load_track(*DEMONSTRATIONS, "train")
    heldout, _ = load_track(*DEMONSTRATIONS, "heldout")
    assert Demonstration("Human: Count to 7.\n\nAssistant:", " Yes, 7 🙂") in train + heldout
    assert len(train) + len(heldout) == 60 and heldout and not set(train) & set(heldout)
    start = (
        f"assistant demonstrations/train (local: alpaca/{name}): {len(train)} records of 60 rows"
    )
    assert str(report) == f"{start}; {len(heldout)} rows of other splits"


def write_parquet(path: Path, columns: dict) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.table(columns), path)


def test_parquet_and_shards(folder):
    for shard, rows in enumerate((SST2[:20], SST2[20:])):
        path = folder / f"sst2/data/train-0000{shard}-of-00002.parquet"
        write_parquet(path, {name: [row[name] for row in rows] for name in rows[0]})
    records, report = load_track(*LABELS)
    heldout, _ = load_track("sentiment", "labels", "heldout")
    assert len(records) + len(heldout) == 30
    assert {record.label for record in records} == {0, 1} and not report.left_out
    path.write_bytes(path.read_bytes()[:-40])
    assert "train-00001-of-00002.parquet in data/ is damaged" in refused(*LABELS)
    path.unlink()
    for split in ("train", "heldout"):
        message = refused("sentiment", "labels", split)
        assert "has only 1 of the 2 files *-of-00002 in RLHF_DATA_DIR=" in message


@pytest.mark.parametrize(
    "cell, reason", [(b"x" * 9, "text is no text"), (None, "no text"), (1.5, "text is no text")]
)
def test_cells_of_parquet_that_are_no_text(folder, cell, reason):
    write_parquet(folder / "fineweb-edu/train.parquet", {"text": [cell]})
    assert f"({reason}: 1)" in refused("tldr", "documents", "train")


@pytest.mark.parametrize("ending", ["tsv", "csv", "tsv.gz", "csv.xz"])
@pytest.mark.parametrize("header", [True, False])
def test_tables_with_and_without_header(folder, ending, header):
    mark = "\t" if ending.startswith("tsv") else ","
    names = [f"sentence{mark}label"] * header
    lines = [f"{row['sentence']}{mark}{row['label']}" for row in SST2]
    write(folder / f"sst2/train.{ending}", [*names, *lines, "a line without the second cell"])
    write(folder / f"sst2/dev.{ending}", names + [f"again {line}" for line in lines[:3]])
    records, report = load_track(*LABELS)
    assert len(records) == 30 and report.left_out == {"line has not 2 cells": 1}
    assert len(load_track("sentiment", "labels", "heldout")[0]) == 3


def test_quotes_are_text_in_tsv_and_quotes_in_csv(folder):
    sentence = 'it is " a film , with a quote in it " they say'
    write(folder / "sst2" / "train.tsv", [f"{sentence}\t1"])
    [record], _ = load_track(*LABELS)
    (folder / "sst2" / "train.tsv").unlink()
    write(folder / "sst2" / "train.csv", ['"' + sentence.replace('"', '""') + '",1'])
    assert load_track(*LABELS)[0] == [record]
    assert record.prompt + record.completion == sentence


def test_a_blank_before_a_quoted_cell_is_not_part_of_it(folder):
    text = 'it is, as they say, a film that is really, really "long"'
    write(folder / "sst2/train.csv", ["label, sentence", '1, "{}"'.format(text.replace('"', '""'))])
    [record], _ = load_track(*LABELS)
    assert record.prompt + record.completion == text


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_tsv_file_that_a_program_has_quoted(folder, quoting):
    texts = [f"{i} times they asked why the tram is late and got no answer" for i in range(200)]
    texts[60] = 'a "tram" is late and "why?" is what they asked all day'
    (folder / "sst2").mkdir()
    with open(folder / "sst2/train.tsv", "w", newline="") as file:
        rows = csv.writer(file, delimiter="\t", quoting=quoting)
        rows.writerows([["sentence", "label"], *([text, 1] for text in texts)])
    write(folder / "sst2/dev.jsonl", SST2[:1])
    records, _ = load_track(*LABELS)
    assert [record.prompt + record.completion for record in records] == texts


def test_a_mark_of_the_byte_order_and_long_cells_are_no_trouble(folder):
    lines = list(map(json.dumps, ALPACA))
    write(folder / "alpaca" / "train.jsonl", ["\ufeff" + lines[0], *lines[1:]])
    reports = [load_track("assistant", "prompts", split)[1] for split in ("train", "heldout")]
    assert not any(report.left_out for report in reports)
    texts = [f"{i} " + "word " * 30_000 for i in range(20)]
    write(folder / "fineweb-edu" / "train.csv", ["text", *texts])
    parts = [load_track("tldr", "documents", split)[0] for split in ("train", "heldout")]
    assert set(sum(parts, [])) == {Document(text.strip()) for text in texts}


def test_every_lost_row_is_counted_by_reason(folder):
    rows = [{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}] * 2
    path = folder / PAIRWISE / "train.jsonl"
    write(path, [*rows, {"prompt": "Why?"}, "{not json", '["a", "list"]', "null", ""])
    path.write_bytes(path.read_bytes() + '{"prompt": "naïve"}\n'.encode("latin-1"))
    records, report = load_track("instruct", "comparisons", "train")
    assert records == [Comparison("### Instruction:\nWhy?\n\n### Response:", " Because.", " No.")]
    assert report.left_out == {
        "line is not JSON": 2,
        "line is no object": 2,
        "duplicate": 1,
        "no chosen": 1,
        "line is not UTF-8": 1,
    }
    start = f"instruct comparisons/train (local: {PAIRWISE}/train.jsonl): 1 records of 8 rows; "
    assert str(report).startswith(start + "7 rows left out (line is not JSON: 2, ")
    assert str(report).endswith(
        f"; the first that can't be read is line 4 of train.jsonl in {PAIRWISE}/"
    )


def test_other_rows_stand_in_only_where_there_are_none_of_its_own_and_the_report_says_so(folder):
    name = "instruction-preference/alpaca_eval_pairs"
    write(folder / f"{name}.train.jsonl", PAIRS[:60])
    write(folder / f"{name}.valid.jsonl", PAIRS[:9])
    records, report = load_track("instruct", "comparisons", "heldout")
    assert report.place == f"local: {name}.valid.jsonl, a stand-in for Dahoas/{PAIRWISE}"
    assert str(report) == f"instruct comparisons/heldout ({report.place}): 9 records"
    assert len(records) == 9
    write(folder / PAIRWISE / "train.jsonl", PAIRS[:50])
    for split in ("train", "heldout"):
        records, report = load_track("instruct", "comparisons", split)
        assert report.place == f"local: {PAIRWISE}/train.jsonl" and len(records) < 50


def test_files_that_are_not_read_are_named(folder):
    write(folder / "sst2/train.jsonl", SST2)
    others = ("sst2/train.csv", "sst2/train-00001.jsonl", "sst2.train.tsv.gz")
    for more, name in zip(("", " and 1 more", " and 2 more"), others):
        write(folder / name, ["sentence,label"])
        first = others[0] + more
        assert load_track(*LABELS)[1].place == f"local: sst2/train.jsonl, ignoring {first}"
    for name in ("validation", "dev"):  # and "validation" only once
        write(folder / f"sst2/{name}.jsonl", SST2[:5])
    _, report = load_track("sentiment", "labels", "heldout")
    assert report.place == "local: sst2/validation.jsonl, ignoring sst2/dev.jsonl"


def test_cut_posts_are_counted(folder):
    def row(text: str) -> dict:
        return {"prompt": f"SUBREDDIT: r/a\nTITLE: t\nPOST: {text}\nTL;DR:", "label": "Help."}

    rows = list(map(row, ("short", "one two three\n" * 20, "x " * 5000)))
    write(folder / "tldr/sft.train.jsonl.gz", rows)
    write(folder / "tldr/sft.valid.jsonl.gz", [row("other")])
    limits = Limits(str.split, prompt=20)
    records, report = load_track("tldr", "demonstrations", "train", limits=limits)
    assert (report.records, report.cut, len(records)) == (3, 2, 3)
    assert "2 prompts cut to fit" in str(report)


def test_limits_on_the_number_of_records(folder):
    write(folder / "sst2" / "train.jsonl", SST2)
    write(folder / "sst2" / "validation.jsonl", SST2[:9])
    assert len(load_track("sentiment", "demonstrations", "train", limit=4)[0]) == 4
    pairs, report = load_track("sentiment", "comparisons", "train", limit=4)
    assert len(pairs) == report.records == 4
    assert pairs == load_track("sentiment", "comparisons", "train")[0][:4]
    assert len(load_track("sentiment", "comparisons", "heldout")[0]) == 4


def test_a_renamed_column_is_named(folder):
    rows = [{"instruction": "a", "input": "", "response": "b"}] * 3
    write(folder / "alpaca" / "train.jsonl", rows)
    message = refused("assistant", "prompts", "train")
    assert "tatsu-lab/alpaca has no column output (found: input, instruction, response)" in message


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "names", [("Prompt", "Rejected", "Chosen"), (" PROMPT", "rejected ", "\ufeffChosen")]
)
def test_columns_go_by_their_names(folder, ending, names):
    values = [f"Why {i}?" for i in range(60)], ["No."] * 60, ["Yes."] * 60
    rows = list(zip(*values))
    path = folder / PAIRWISE / f"train.{ending}"
    if ending == "parquet":
        write_parquet(path, dict(zip(names, values)))
    elif ending == "jsonl":
        write(path, [dict(zip(names, row)) for row in rows])
    else:
        mark = "\t" if ending == "tsv" else ","
        write(path, list(map(mark.join, [names, *rows])))
    records, report = load_track("instruct", "comparisons", "train")
    assert {(record.chosen, record.rejected) for record in records} == {(" Yes.", " No.")}
    assert report.read == 60 and not report.left_out


@pytest.mark.parametrize(
    "header, missing",
    [
        ("prompt,rejected,accepted", "chosen"),
        ("question,bad,good", "prompt, chosen, rejected"),
        ("Question,Better answer,Worse answer", "prompt, chosen, rejected"),
        ('"prompt,rejected,accepted', "chosen"),
        ("id,prompt,text", "chosen, rejected"),
        ("prompt;chosen;rejected", None),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.xz"])
def test_a_table_with_other_names_is_refused(folder, header, missing, ending):
    rows = [f"Why {i}?,yes,no" for i in range(60)]
    mark = "\t" if ending == "tsv" else ","
    write(
        folder / PAIRWISE / f"train.{ending}", [row.replace(",", mark) for row in [header, *rows]]
    )
    if missing is None:
        assert load_track("instruct", "comparisons", "train")[1].left_out == {
            "line has not 3 cells": 1
        }
        return
    message = refused("instruct", "comparisons", "train")
    place = f"in the first line of train.{ending} in {PAIRWISE}/"
    assert f"has no column {missing} {place} (found: " in message
    assert header.strip('"').split(",")[1] in message


def test_a_column_named_twice_is_refused(folder):
    path = folder / PAIRWISE / "train.csv"
    for header in ("prompt,chosen,rejected,chosen", "Prompt,PROMPT,chosen,rejected"):
        write(path, [header, "a?,b,c,d"])
        assert "two columns" in refused("instruct", "comparisons", "train")
    path.unlink()
    pair = {"prompt": "a?", "chosen": "b", "Rejected": "c", "REJECTED": "d"}
    write(path.with_suffix(".jsonl"), [pair, *PAIRS[:20]])
    _, report = load_track("instruct", "comparisons", "train")
    assert report.left_out == {"two columns rejected": 1}


@pytest.mark.parametrize("before", [["", " "], ["sep=;"], ["", "SEP=\t", ""], ['"sep=,"']])
def test_lines_before_the_names_that_are_no_rows(folder, before):
    mark = next((line.strip('"')[-1] for line in before if "=" in line), ",")
    lines = [f"No, {i}.{mark}Why {i}?{mark}Yes".replace(", ", " ") for i in range(60)]
    header = mark.join(("rejected", "prompt", "chosen"))
    path = folder / PAIRWISE / "train.csv"
    write(path, [*before, header, *lines, header, "x"])
    records, report = load_track("instruct", "comparisons", "train")
    assert {record.chosen for record in records} == {" Yes"} and len(records) > 40
    assert report.left_out == {"line names the columns again": 1, "line has not 3 cells": 1}
    assert report.read == 62 == report.used + report.elsewhere + 2
    assert report.first == f"line {len(before) + 62} of train.csv in {PAIRWISE}/"
    write(path, ["# of May 3", *before, header, *lines])
    line = f"train.csv in {PAIRWISE}/ names columns in line {len(before) + 2}: only the first can"
    assert mark != "," or refused("instruct", "comparisons", "train") == line
    write(path, [*before, header, *lines, mark.join(("prompt", "chosen", "rejected"))])
    assert "names columns in line" in refused("instruct", "comparisons", "train")


def test_a_table_of_texts_has_no_header_unless_it_names_them(folder):
    write(
        folder / "fineweb-edu/train.csv", ['"Once upon a time, it rained."'] * 2 + ["It stopped."]
    )
    _, report = load_track("tldr", "documents", "train")
    assert report.read == 3
    write(folder / "fineweb-edu/train.csv", ["content", "It rained.", "It stopped."])
    assert "has no column text in the first line" in refused("tldr", "documents", "train")
    write(folder / "fineweb-edu/train.csv", ["url,TEXT", "x,It rained.", "y,It stopped."])
    assert load_track("tldr", "documents", "train")[1].read == 2


def test_alpaca_without_an_input(folder):
    lines = ["instruction,output", *(f"Count to {i}.,Yes {i}" for i in range(60))]
    write(folder / "alpaca/train.csv", lines)
    train, report = load_track(*DEMONSTRATIONS, "train")
    assert report.read == 60 == report.used + report.elsewhere
    (folder / "alpaca/train.csv").unlink()
    rows = [{"instruction": f"Count to {i}.", "output": f"Yes {i}"} for i in range(60)]
    rows = [row | {"input": None} if i % 2 else row for i, row in enumerate(rows)]
    write(folder / "alpaca/train.jsonl", rows)
    assert load_track(*DEMONSTRATIONS, "train")[0] == train


def test_missing_folders_and_files_name_what_to_fill(folder, monkeypatch):
    message = refused(*LABELS)
    missing = "stanfordnlp/sst2 has no file for train"
    for part in (missing, "sst2/train.jsonl", "RLHF_DATA_DIR", "embedded world"):
        assert part in message
    monkeypatch.setenv("RLHF_DATA_DIR", str(folder / "nowhere"))
    assert "there is no such folder" in refused(*LABELS)
    monkeypatch.delenv("RLHF_DATA_DIR")
    assert "RLHF_DATA_DIR is not set" in refused(*LABELS, source="local")


@pytest.mark.parametrize("ending", ["jsonl.xz", "jsonl.gz", "tsv.xz"])
@pytest.mark.parametrize(
    "damage", [lambda x: x[: len(x) // 2], lambda x: b"PK" + x[2:], lambda x: x[:-9]]
)
def test_a_corrupt_file_is_one_line(folder, ending, damage):
    path = folder / "sst2" / f"train.{ending}"
    rows = [{"sentence": f"{row['sentence']} {i}", "label": 1} for i in range(20) for row in SST2]
    write(path, rows if "jsonl" in ending else [f"{row['sentence']}\t1" for row in rows])
    path.write_bytes(damage(path.read_bytes()))
    assert f"train.{ending} in sst2/ is damaged" in refused(*LABELS)


def test_a_table_in_another_encoding_and_a_file_of_rubbish(folder):
    (folder / "sst2").mkdir()
    (folder / "sst2" / "train.tsv").write_bytes("naïve films\t1\n".encode("latin-1"))
    assert "no row can be used" in (message := refused(*LABELS))
    assert "(line is not UTF-8: 1); the first that can't be read is line 1 of train.tsv" in message
    (folder / "alpaca").mkdir()
    encodings = ("utf-16", "utf-16-le", "utf-16-be")  # the first with a mark of the byte order
    for ending, encoding in product(("tsv", "csv", "jsonl"), encodings):
        path = folder / f"alpaca/train.{ending}"
        path.write_text("instruction\tinput\toutput\n", encoding=encoding)
        message = refused(*DEMONSTRATIONS, "train")
        assert message == f"train.{ending} in alpaca/ is UTF-16: save it as UTF-8"
        path.unlink()
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
    "names, valid",
    [
        (("poems", "prompts", "train"), "tldr, sentiment, assistant, instruct"),
        (("tldr", "prompts", "test"), "heldout"),
        (("tldr", "labels", "train"), "demonstrations"),
        (("tldr", "prompts", "train", "web"), "embedded, local, hub"),
    ],
)
def test_unknown_names_list_the_known_ones(names, valid):
    with pytest.raises((SettingsError, ValueError), match=valid):
        load_track(*names)


@pytest.mark.parametrize("word", ["Text", "TEXT"])
def test_a_document_may_be_a_column_s_name(folder, word):
    """A file of one column is read on: nothing can be in the wrong place."""
    texts = [f"Document number {i}." for i in range(40)]
    path = folder / "fineweb-edu" / "train.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["text", *texts, word, "text"]) + "\n")
    records, report = load_track("tldr", "documents", "train")
    assert report.read == 42 == report.used + report.elsewhere + report.left_out.total()
    assert report.left_out["line names the columns again"] == 1
