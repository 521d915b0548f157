"""Token shards: whole documents, the same bytes after any interruption, one line per bad input."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch

from helpers.rows import build_shards
from helpers.rows.build_shards import build, document_texts, number_of, shuffled, tokenised
from helpers.rows.common import split_of
from helpers.rows.embedded import load_rows, load_tokenizer
from helpers.rows.load import Report
from helpers.rows.shards import ShardError, ShardSet, read_manifest
from helpers.rows.tracks import TRACKS, SourceError
from helpers.run.commands import shards as shards_command
from helpers.tokenizer import Tokenizer
from tests.support.folder_of_rows import write
from tests.support.local_hub import served

REAL = Path(os.environ.get("RLHF_DATA_DIR", "nowhere"))
TOKENIZER, FILE = load_tokenizer(), ("--tokenizer", str(load_tokenizer().path))
TEXTS = [document.text for document in load_rows("documents", "train", limit=600)]
SIZES = {"heldout_tokens": 2_000, "shard_tokens": 5_000}


@pytest.fixture(autouse=True)
def rows(tmp_path, monkeypatch) -> Path:
    """A folder with 600 documents, which RLHF_DATA_DIR names; three of its lines are no
    documents.
    """
    path = tmp_path / "rows" / "fineweb-edu" / "train-000.jsonl.gz"
    bad = ["{", {"text": ""}]
    write(path, bad + [{"text": text} for text in TEXTS])
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path / "rows"))
    return path


def start(out: Path, tokens: int = 22_000, tokenizer: Tokenizer = TOKENIZER, **options):
    """Shards of the rows that RLHF_DATA_DIR names, made while the lines are read."""
    local = {"source": "local", "data_dir": Path(os.environ["RLHF_DATA_DIR"])}
    return build(out, tokens, tokenizer, **SIZES | local | options)


def made(*names, **options) -> list[str]:
    return list(start(*names, **options))


def refused(call, *names, **options) -> str:
    with pytest.raises(ShardError) as error:
        call(*names, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def token_ids(path: Path) -> list[int]:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint16).tolist()


def documents(split: str, seed: int | None = None) -> list[list[int]]:
    """The tokens of each document of a split, in the order of a seed, by a plain loop."""
    heldout = split == "heldout"
    texts = [text.strip() for text in TEXTS if (split_of(text) == "heldout") == heldout]
    texts = texts if seed is None else shuffled(texts, seed)
    return [[*TOKENIZER.encode(text), TOKENIZER.eos_id] for text in texts]


def cut_into(documents: list[list[int]], sizes: list[int]) -> list[list[int]]:
    """Shards of whole documents, each of the first that make up a size."""
    rest, shards = iter(documents), []
    for size in sizes:
        shards.append([])
        while len(shards[-1]) < size:
            shards[-1] += next(rest)
    return shards


# ---------------------------------------------------------------- what is written


def test_shards_are_whole_documents_in_shuffled_order(tmp_path):
    out = tmp_path / "out"
    lines = made(out)
    shards = [token_ids(path) for path in sorted(out.glob("train-*.bin"))]
    full = sum(map(len, shards[:4]))
    assert shards == cut_into(documents("train", seed=0), [5_000] * 4 + [22_000 - full])
    held = token_ids(out / "heldout.bin")
    assert [held] == cut_into(documents("heldout"), [2_000])
    total = sum(map(len, shards))
    assert lines[-2] == f"train-00004.bin: {len(shards[4]):,} tokens, {total:,} of 22,000"
    for what in ("heldout", "train"):
        place = "fineweb-edu/train-000.jsonl.gz"
        assert f"{what} rows left out of {place}: 1 line is not JSON, 1 empty text" in lines
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["made_from"]["tokenizer"] == TOKENIZER.fingerprint
    for shard, ids in zip((manifest["heldout"], *manifest["shards"]), (held, *shards), strict=True):
        assert shard["tokens"] == len(ids) and shard["documents"] == ids.count(TOKENIZER.eos_id)
        content = (out / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    assert Tokenizer(out / "tokenizer.json").fingerprint == TOKENIZER.fingerprint


def test_no_held_out_document_is_trained_on_and_none_is_lost(tmp_path):
    report = Report("documents", "local")
    train, heldout = (
        list(document_texts("tldr", "local", tmp_path / "rows", split, report))
        for split in ("train", "heldout")
    )
    assert set(train).isdisjoint(heldout)
    assert sorted(train + heldout) == sorted(text.strip() for text in TEXTS)
    reasons = ("line is not JSON", "empty text")
    assert report.left_out == dict.fromkeys(reasons, 2)  # read twice


def test_a_document_of_blanks_stops_nothing():
    text = "a" + " " * 1_200_000 + "b"
    [ids] = tokenised([text], TOKENIZER)
    assert TOKENIZER.decode(ids[:-1].tolist()) == text and ids[-1] == TOKENIZER.eos_id


def test_the_shuffle_keeps_every_text_once_and_depends_on_the_seed():
    texts = [str(i) for i in range(500)]
    for buffer in (1, 7, 500, 10_000):
        assert sorted(shuffled(texts, 0, buffer)) == sorted(texts)
    assert list(shuffled(texts, 0, 1)) == texts
    one, again, other = (list(shuffled(texts, seed, 50)) for seed in (3, 3, 4))
    assert one == again != other
    # no further forward than the buffer
    assert max(int(text) - place for place, text in enumerate(one)) < 50


def test_the_hub_and_a_folder_and_an_embedded_world_give_the_same_tokens(tmp_path, monkeypatch):
    calls = served(monkeypatch, [{"text": text} for text in TEXTS])
    made(tmp_path / "hub", source="hub")
    made(tmp_path / "local")
    data = TRACKS["tldr"].roles["documents"].data
    options = {"split": "train", "revision": data.revision, "streaming": True}
    assert calls[0] == (data.repository, data.config, options)
    hub, local = contents(tmp_path / "hub"), contents(tmp_path / "local")
    assert json.loads(hub.pop("manifest.json"))["made_from"]["revision"] == data.revision
    assert local.pop("manifest.json") and hub == local
    monkeypatch.setattr(build_shards, "shuffled", lambda texts, seed: texts)
    made(tmp_path / "embedded", 9_000, source="embedded")
    expected = [id_ for ids in tokenised(TEXTS[:100], TOKENIZER) for id_ in ids.tolist()]
    first = token_ids(tmp_path / "embedded" / "train-00000.bin")
    assert len(first) >= 5_000 and first == expected[: len(first)]


@pytest.mark.skipif(not (REAL / "fineweb-edu").is_dir(), reason="no fineweb-edu/ in RLHF_DATA_DIR")
def test_real_rows_with_gpt2s_tokenizer(tmp_path, monkeypatch):
    from helpers.rows.gpt2_bpe import load_gpt2_tokenizer

    monkeypatch.setenv("RLHF_DATA_DIR", str(REAL))
    tokenizer = load_gpt2_tokenizer(data_dir=REAL)
    made(tmp_path, 150_000, tokenizer, heldout_tokens=50_000, shard_tokens=100_000)
    shards = ShardSet(tmp_path, tokenizer)
    assert shards.tokens >= 150_000 and max(token_ids(tmp_path / "train-00000.bin")) > 50_000
    text = tokenizer.decode(shards.window(3, 1024).tolist())
    assert len(text) > 2_000 and " the " in text


# ---------------------------------------------------------------- interrupted, repeated, continued


def test_stopping_after_any_file_and_going_on_gives_the_same_bytes(tmp_path):
    made(tmp_path / "all")
    for files in range(1, 6):
        lines = start(tmp_path / str(files))
        for _ in range(files):
            next(lines)
        lines.close()
        assert "already there" in made(tmp_path / str(files))[0]
        assert contents(tmp_path / str(files)) == contents(tmp_path / "all")


def test_a_larger_number_of_tokens_goes_on_and_a_rerun_changes_nothing(tmp_path):
    for tokens in (3_000, 5_000, 12_000, 22_000):
        made(tmp_path / "grown", tokens)
    made(tmp_path / "all")
    assert contents(tmp_path / "grown") == contents(tmp_path / "all")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "all").glob("*.bin")}
    for tokens in (22_000, 4_000):  # fewer tokens than there are: nothing is taken away
        (line,) = made(tmp_path / "all", tokens)
        assert line.endswith(" tokens in 5 shards are already there and intact")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "all").glob("*.bin")}


def test_kill_9_in_the_middle_loses_nothing(tmp_path, root):
    """A real process, killed while it writes; the same command then ends with the files of an
    undisturbed run.
    """
    options = ("--tokens=60k", "--heldout-tokens=1k", "--shard-tokens=250", "--source=local")
    command = [sys.executable, "-m", "helpers", "shards", *options, *FILE, "--out", tmp_path / "a"]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL)
    while not (tmp_path / "a" / "train-00005.bin").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must not have been done yet"
    assert 0 < build_shards.count(read_manifest(tmp_path / "a")["shards"]) < 60_000
    for out in ("a", "b"):
        made(tmp_path / out, 60_000, heldout_tokens=1_000, shard_tokens=250)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_shard_that_was_damaged_is_made_again(tmp_path):
    made(tmp_path)
    intact = contents(tmp_path)
    damaged = b"x" + intact["train-00002.bin"][1:]
    for name, damage in (("train-00002.bin", damaged), ("heldout.bin", b"short")):
        (tmp_path / name).write_bytes(damage)
        assert name in made(tmp_path)[0] and contents(tmp_path) == intact
    (tmp_path / "train-00000.bin").unlink()
    assert "train-00000.bin is missing" in made(tmp_path)[0] and contents(tmp_path) == intact


# ---------------------------------------------------------------- the reader


@pytest.fixture
def shards(tmp_path) -> ShardSet:
    made(tmp_path / "out")
    return ShardSet(tmp_path / "out", TOKENIZER)


def test_an_epoch_predicts_every_token_once_in_an_order_of_its_own(shards):
    windows = shards.windows(64)
    lengths = [shard["tokens"] for shard in shards.shards]
    assert windows == sum((length - 1) // 63 for length in lengths)
    rows = [tuple(shards.window(i, 64).tolist()) for i in range(windows)]
    first = token_ids(shards.folder / "train-00000.bin")
    predicted = [id_ for row in rows[: (lengths[0] - 1) // 63] for id_ in row[1:]]
    assert predicted == first[1 : 1 + len(predicted)] and len(first) - len(predicted) <= 63
    read = [tuple(shards.batch(step, 1, 64, seed=5)[0][0].tolist()) for step in range(2 * windows)]
    epochs = read[:windows], read[windows:]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(rows)
    assert epochs[0] != epochs[1] != rows != epochs[0]


def test_batches_depend_on_seed_and_step_alone(shards):
    again = ShardSet(shards.folder, checksums=False)
    for step in (40, 3, 0, 1_000):  # in any order, from any object
        ids, mask = shards.batch(step, 6, 128, seed=1)
        assert ids.shape == mask.shape == (6, 128) and ids.dtype == torch.int64 and mask.all()
        assert torch.equal(ids, again.batch(step, 6, 128, seed=1)[0])
        assert not torch.equal(ids, shards.batch(step, 6, 128, seed=2)[0])
        small = torch.cat([shards.batch(2 * step + half, 3, 128, seed=1)[0] for half in (0, 1)])
        assert torch.equal(ids, small), "the order of rows does not depend on the batch size"


def test_held_out_rows_are_the_held_out_tokens(shards):
    rows, (tokens,) = shards.heldout_rows(64), cut_into(documents("heldout"), [2_000])
    assert rows[0] + [id_ for row in rows[1:] for id_ in row[1:]] == tokens
    assert max(map(len, rows)) == 64
    some = shards.heldout_rows(64, 500)
    assert some[:-1] == rows[: len(some) - 1] and sum(len(row) - 1 for row in some) == 499


# ---------------------------------------------------------------- bad input


def test_a_reader_refuses_what_has_changed(tmp_path):
    out, shard = tmp_path / "out", tmp_path / "out" / "train-00001.bin"
    assert f"no shards in {out}: `python -m helpers shards --out" in refused(ShardSet, out)
    made(out)
    manifest, content = json.loads((out / "manifest.json").read_text()), shard.read_bytes()
    shard.write_bytes(content[:-2])
    line = f"train-00001.bin has {len(content) - 2:,} bytes instead of {len(content):,}"
    assert line in refused(ShardSet, out, checksums=False)
    shard.write_bytes(b"??" + content[2:])
    assert "train-00001.bin has changed since it was made (checksum" in refused(ShardSet, out)
    (out / "heldout.bin").unlink()
    assert "heldout.bin is missing" in refused(ShardSet, out)
    for text, line in (
        ("{", "manifest.json is damaged"),
        (json.dumps(manifest | {"version": 99}), "is from another version of the course"),
    ):
        (out / "manifest.json").write_text(text)
        assert line in refused(ShardSet, out)


def test_another_tokenizer_or_setting_is_refused(shards):
    folder, other = shards.folder, load_tokenizer("sentiment")
    assert "was made with another tokenizer" in refused(ShardSet, folder, other)
    line = f"made with tokenizer '{TOKENIZER.fingerprint}', not '{other.fingerprint}'"
    assert line in refused(made, folder, tokenizer=other)
    assert "made with seed 0, not 1" in refused(made, folder, seed=1)
    assert "made with source 'local', not 'embedded'" in refused(made, folder, source="embedded")


def test_changed_rows_are_refused(rows, tmp_path):
    made(tmp_path / "out", 8_000)
    old = read_manifest(tmp_path / "out")["made_from"]["rows"]
    write(rows.with_name("train.csv"), ["text"])  # it would be read first
    assert (
        "made with data 'fineweb-edu/train-000.jsonl.gz', not 'fineweb-edu/train.csv'"
        in refused(made, tmp_path / "out")
    )
    rows.with_name("train.csv").unlink()
    others = ({"text": text} for text in TEXTS), ({"text": text} for text in TEXTS[9:])
    for name, texts in zip(("valid.jsonl", rows.name), others):
        write(rows.with_name(name), list(texts))
        line = refused(made, tmp_path / "out")
        assert f"was made with rows {old!r}, not '" in line
        rows.with_name(name).unlink()


def test_a_vocabulary_that_does_not_fit_16_bits(tmp_path):
    huge = Tokenizer(TOKENIZER.path)
    huge.vocab_size = 70_000
    line = "a vocabulary of 70,000 exceeds 16 bits (65,536)"
    assert refused(made, tmp_path, tokenizer=huge) == line


def test_too_few_tokens_says_how_many_there_are_and_keeps_them(tmp_path):
    train, held = (sum(map(len, documents(split))) for split in ("train", "heldout"))
    line = refused(made, tmp_path / "out", 10**6)
    assert f"only {train:,} tokens to train on, not 1,000,000" in line
    assert ShardSet(tmp_path / "out").tokens == train
    assert line == refused(made, tmp_path / "out", 10**6), "and says so again"
    few = f"only {held:,} tokens to hold out"
    assert few in refused(made, tmp_path / "b", heldout_tokens=10**6)


def test_a_full_disk_leaves_complete_shards_and_no_rest(tmp_path):
    resource = pytest.importorskip("resource", reason="not on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    made(tmp_path, 8_000)
    before = contents(tmp_path)
    # the system refuses to write more than this to a file
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, hard))
    try:
        line = refused(made, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "train-00001.bin can't be written (File too large): complete shards stay; make" in line
    assert contents(tmp_path) == before
    assert "make room, or ask for fewer" in refused(made, tmp_path, 10**18)


def test_a_reader_says_when_no_row_fits(shards):
    with pytest.raises(ShardError, match=r"has 22,\d+ tokens: too few for one row of 9000"):
        shards.batch(0, 1, 9_000)
    with pytest.raises(IndexError, match="no such row of 64 tokens"):
        shards.window(99_999, 64)


def test_the_command_line_fails_in_one_line(tmp_path, monkeypatch, capsys):
    def run(*options: str):
        shards_command(["--out", str(tmp_path / "out"), "--source", "local", *options])

    with pytest.raises(SystemExit, match="shards: No tokenizer at .*nowhere"):
        run("--tokenizer", "nowhere")
    for content in ("{}", "no JSON"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(SystemExit, match=r"shards: .*bad\.json is damaged or no tokenizer"):
            run("--tokenizer", str(tmp_path / "bad.json"))
    with pytest.raises(SystemExit, match="shards: tokens must be 1 or more, not -5"):
        run(*FILE, "--tokens=-5")
    run(*FILE, "--tokens=4k", "--heldout-tokens=1k", "--shard-tokens=2k")
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.startswith("train-00001.bin: ") and last.endswith(" of 4,000")
    monkeypatch.delenv("RLHF_DATA_DIR")
    with pytest.raises(SystemExit, match="RLHF_DATA_DIR is not set"):
        run(*FILE)


def test_a_folder_selects_the_source_local(rows, tmp_path, monkeypatch):
    def source(*options: str) -> str:
        sizes = ("--tokens=2k", "--heldout-tokens=1k")
        out = tmp_path / "".join(options).replace("/", "")
        shards_command(["--out", str(out), *FILE, *sizes, *options])
        return json.loads((out / "manifest.json").read_text())["made_from"]["source"]

    monkeypatch.delenv("RLHF_DATA_DIR")
    folder = f"--data-dir={rows.parent.parent}"
    assert [source(), source(folder)] == ["embedded", "local"]
    assert source(folder, "--source=embedded") == "embedded"


def test_numbers_of_tokens():
    numbers = [number_of(text) for text in ("7", "250k", "1.5M", "10B")]
    assert numbers == [7, 250_000, 1_500_000, 10**10]
    for text in ("", "k", "inf", "nan", "12x"):
        with pytest.raises(ArgumentTypeError, match=f"^'{text}' is no number of tokens"):
            number_of(text)


def test_rows_without_texts_are_a_source_error(rows, tmp_path):
    write(rows, [{"words": "a"}])
    with pytest.raises(SourceError, match="has no column text"):
        made(tmp_path / "out")
