"""No row is lost in silence: for damaged files of every format, the rows that are written are those
that are used and those that are left out, by reason.
"""

import csv
import gzip
import io
import json
import lzma
import random
import time
from pathlib import Path

import pytest

from helpers.rows.load import load_track

COLUMNS = ("prompt", "chosen", "rejected")
BITS = [
    "why",
    " ",
    ",",
    "\t",
    '""',
    "é",
    "🙂",
    "$$",
    "\0",
    "\ufeff",
    "'",
    "\\n",
    "\u2028",
    "x" * 300,
]


def text(rng: random.Random) -> str:
    return "t" + "".join(rng.choices(BITS, k=rng.randrange(9))) + str(rng.random())


def cells_of(rng: random.Random) -> list:
    """A row of a table: mostly good, else with a cell too many or few, or empty."""
    cells = [text(rng) for _ in COLUMNS]
    damage = rng.randrange(12)
    if damage == 0:
        cells += ["more"]
    elif damage == 1:
        cells.pop()
    elif damage == 2:
        cells[rng.randrange(3)] = ""
    elif damage == 3:
        cells[2] = cells[1]
    return cells


def json_line(rng: random.Random) -> bytes:
    row = dict(zip(COLUMNS, cells_of(rng)))
    values = [None, True, 7, 1.5, [], {}, "\ud83d", [[]] * 3, float("nan")]
    if rng.random() < 0.2:
        row[rng.choice(COLUMNS)] = rng.choice(values)
    line = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    odd = [
        "",
        "7",
        "null",
        '"x"',
        "[1]",
        "{",
        "9" * 5000,
        "[" * 100_000,
        '{"a": ' + "1" * 5000 + "}",
    ]
    odd += ['{"prompt": "a", "prompt": "b"}', "\ufeff" + line.decode("utf-8", "replace")]
    damage = rng.randrange(6)
    if damage == 0:
        return rng.choice(odd).encode()
    if damage == 1:
        place = rng.randrange(len(line))
        return line[:place] + rng.choice([b"\xff", b'"', b"{", b"\\"]) + line[place:]
    return line + b"\r" * (damage == 2)


def csv_row(cells: list, quoting: int) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="", quoting=quoting).writerow(cells)
    return out.getvalue().encode()


def csv_line(rng: random.Random) -> bytes:
    """A line with a quotation mark too few or too many, or a byte that is not UTF-8."""
    cells = [cell.replace('""', '"') for cell in cells_of(rng)]
    line = csv_row(cells, rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    damage = rng.randrange(6)
    if damage == 0:
        return line.removesuffix(b'"') if rng.random() < 0.5 else line.replace(b'"', b"", 1)
    if damage == 1:
        return b'"' + line
    return line.replace(b"w", b"\xe9", 1) if damage == 2 else line


def tsv_line(rng: random.Random) -> bytes:
    line = "\t".join(cell.replace("\t", " ") for cell in cells_of(rng)).encode()
    return b'"' + line if rng.random() < 0.1 else line.replace(b"w", b"\xe9", rng.randrange(5) == 0)


LINES = {"jsonl": json_line, "csv": csv_line, "tsv": tsv_line}
PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def write(folder: Path, ending: str, content: bytes) -> None:
    path = folder / "synthetic-instruct-gptj-pairwise" / f"train.{ending}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def read_and_used(folder: Path) -> tuple[int, int]:
    """Rows read, and rows used in training records; for each split they add up."""
    reports = {}
    for split in ("train", "heldout"):
        records, report = load_track("instruct", "comparisons", split, "local", data_dir=folder)
        assert report.used == report.records == len(records)
        assert report.read == report.used + report.elsewhere + report.left_out.total()
        assert f" of {report.read:,} rows" in str(report) and "\n" not in str(report)
        reports[split] = report
    assert reports["train"].elsewhere >= reports["heldout"].used
    [read] = {report.read for report in reports.values()}
    return read, reports["train"].used


@pytest.mark.parametrize("ending", [kind + pack for kind in LINES for pack in PACKERS])
@pytest.mark.parametrize("seed", range(4))
def test_rows_add_up_in_damaged_files(tmp_path, ending, seed):
    rng = random.Random(f"{ending} {seed}")
    kind, _, pack = ending.partition(".")
    lines = [LINES[kind](rng) for _ in range(299)] + [b"the last line"]
    if kind == "csv":  # two damaged lines in turn may make a good row together
        lines[1:-1:2] = [csv_row([text(rng) for _ in COLUMNS], csv.QUOTE_ALL) for _ in range(149)]
    if kind != "jsonl":
        lines.insert(0, (b"\t" if kind == "tsv" else b",").join(name.encode() for name in COLUMNS))
    content = rng.choice([b"\n", b"\r\n"]).join(lines) + b"\n" * rng.randrange(2)
    write(tmp_path, ending, PACKERS["." + pack if pack else ""](content))
    read, used = read_and_used(tmp_path)
    assert read == 300 and used > 70


def test_rows_add_up_in_parquet(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    rng = random.Random(0)
    texts = [[text(rng).encode() for _ in range(3000)] for _ in COLUMNS]
    for column in texts:
        for i in rng.sample(range(3000), 40):
            column[i] = rng.choice([b"\xff", b"", None, b"a\xe9"])
    arrays = [pyarrow.array(column) for column in texts]  # bytes, taken for texts below
    arrays = [
        pyarrow.StringArray.from_buffers(3000, *a.buffers()[1:], a.buffers()[0]) for a in arrays
    ]
    path = tmp_path / "synthetic-instruct-gptj-pairwise/train.parquet"
    path.parent.mkdir()
    write_table(pyarrow.table([*arrays, range(3000)], [*COLUMNS, "id"]), path)
    read, used = read_and_used(tmp_path)
    assert read == 3000 and used > 2000


def test_an_open_quotation_mark_costs_its_own_line(tmp_path):
    lines = [f"why {i}?,because {i},no" for i in range(1000)]
    lines[300] = '"' + lines[300]
    lines[500] = '"why, is it?","two\nlines, or ""three""\n","no"'
    content = "prompt,chosen,rejected\n" + "\n".join(lines)
    for damaged in (content, content.replace("why 700?", '"why 700?'), content + '\n"why?,open'):
        write(tmp_path, "csv", damaged.encode())
        _, report = load_track("instruct", "comparisons", "train", "local", data_dir=tmp_path)
        bad = damaged.count('"why') - 1
        assert report.left_out == {"quotation mark is not closed, or not doubled": bad}
        assert report.read == 1000 + damaged.endswith("open")
        assert report.first.startswith("line 302 of train.csv")


@pytest.mark.parametrize("line", ['x","y,z', 'x","y","z'])
def test_many_open_quotation_marks_take_linear_time(tmp_path, line):
    good = '"why\n, ""is"" it?","two\nlines, or ""three""\n\n","no"\n'
    header = "prompt,chosen,rejected\n"
    write(tmp_path, "csv", (header + good + f"{line}\n" * 20_000 + good).encode())
    started = time.perf_counter()
    _, report = load_track("instruct", "comparisons", "train", "local", data_dir=tmp_path)
    assert time.perf_counter() - started < 8
    assert report.left_out.total() >= 20_000
