"""Token shards: whole documents, the same bytes after any interruption, one line per bad input."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
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
TOKENIZER = load_tokenizer()
TEXTS = [document.text for document in load_rows("documents", "train", limit=600)]
SIZES = {"heldout_tokens": 2_000, "shard_tokens": 5_000}


@pytest.fixture(autouse=True)
def rows(tmp_path, monkeypatch) -> Path:
    """A folder with 600 documents, which RLHF_DATA_DIR names; three of its lines are no
    documents.
    """
    path = tmp_path / "rows" / "fineweb-edu" / "train-000.jsonl.gz"
    bad = ["{", {"text": ""}, {"text": "a" + " " * 10**6 + "b"}]
    write(path, bad + [{"text": text} for text in TEXTS])
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path / "rows"))
    return path


def local() -> dict:
    """Where the rows of a test are."""
    return {"source": "local", "data_dir": Path(os.environ["RLHF_DATA_DIR"])}


def made(out: Path, tokens: int = 22_000, **options) -> list[str]:
    return list(build(out, tokens, TOKENIZER, **SIZES | local() | options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def token_ids(path: Path) -> list[int]:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint16).tolist()


def documents(split: str, seed: int | None = None) -> list[list[int]]:
    """The tokens of each document of a split, in the order of a seed, by a plain loop."""
    texts = [
        text.strip() for text in TEXTS if (split_of(text) == "heldout") == (split == "heldout")
    ]
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
    lines = made(tmp_path / "out")
    shards = [token_ids(path) for path in sorted((tmp_path / "out").glob("train-*.bin"))]
    full = sum(map(len, shards[:4]))
    expected = cut_into(documents("train", seed=0), [5_000] * 4 + [22_000 - full])
    assert shards == expected
    held = token_ids(tmp_path / "out" / "heldout.bin")
    assert [held] == cut_into(documents("heldout"), [2_000])
    total = sum(map(len, shards))
    assert lines[-2] == f"train-00004.bin: {len(shards[4]):,} tokens, {total:,} of 22,000"
    assert lines[-1] == "rows left out: 1 line is not JSON, 1 empty text, 1 100,000 blanks in a row"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["made_from"]["tokenizer"] == TOKENIZER.fingerprint
    for shard, ids in zip((manifest["heldout"], *manifest["shards"]), (held, *shards), strict=True):
        assert shard["tokens"] == len(ids) and shard["documents"] == ids.count(TOKENIZER.eos_id)
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    assert Tokenizer(tmp_path / "out" / "tokenizer.json").fingerprint == TOKENIZER.fingerprint


def test_tokens_are_those_of_encode():
    expected = [TOKENIZER.encode(text) + [TOKENIZER.eos_id] for text in TEXTS]
    assert [ids.tolist() for ids in tokenised(TEXTS, TOKENIZER)] == expected


def test_no_held_out_document_is_trained_on_and_none_is_lost():
    report = Report("documents", "local")
    found = {
        split: list(document_texts("tldr", "local", split, report, local()["data_dir"]))
        for split in ("train", "heldout")
    }
    assert set(found["train"]).isdisjoint(found["heldout"])
    assert sorted(found["train"] + found["heldout"]) == sorted(text.strip() for text in TEXTS)
    assert report.left_out == {
        "line is not JSON": 2,
        "empty text": 2,
        "100,000 blanks in a row": 2,
    }  # read twice


def test_the_shuffle_keeps_every_text_once_and_depends_on_the_seed():
    texts = [str(i) for i in range(500)]
    for buffer in (1, 7, 500, 10_000):
        assert sorted(shuffled(texts, 0, buffer)) == sorted(texts)
    assert list(shuffled(texts, 0, 1)) == texts
    assert (
        list(shuffled(texts, 3, 50)) == list(shuffled(texts, 3, 50)) != list(shuffled(texts, 4, 50))
    )
    order = [int(text) for text in shuffled(texts, 0, 50)]
    assert (
        max(i - place for place, i in enumerate(order)) < 50
    )  # no further forward than the buffer


def test_the_hub_and_a_folder_and_an_embedded_world_give_the_same_tokens(tmp_path, monkeypatch):
    calls = served(monkeypatch, [{"text": text} for text in TEXTS])
    made(tmp_path / "hub", source="hub")
    made(tmp_path / "local")
    data = TRACKS["tldr"].roles["documents"].data
    assert calls[0] == (
        data.repository,
        data.config,
        {"split": "train", "revision": data.revision, "streaming": True},
    )
    hub, local = contents(tmp_path / "hub"), contents(tmp_path / "local")
    assert json.loads(hub.pop("manifest.json"))["made_from"]["revision"] == data.revision
    assert local.pop("manifest.json") and hub == local
    monkeypatch.setattr(build_shards, "shuffled", lambda texts, seed: texts)
    made(tmp_path / "embedded", source="embedded", tokens=9_000)
    expected = [id_ for ids in tokenised(TEXTS[:100], TOKENIZER) for id_ in ids.tolist()]
    first = token_ids(tmp_path / "embedded" / "train-00000.bin")
    assert len(first) >= 5_000 and first == expected[: len(first)]


@pytest.mark.skipif(not (REAL / "fineweb-edu").is_dir(), reason="no fineweb-edu/ in RLHF_DATA_DIR")
def test_real_rows_with_gpt2s_tokenizer(tmp_path, monkeypatch):
    from helpers.rows.gpt2_bpe import load_gpt2_tokenizer

    monkeypatch.setenv("RLHF_DATA_DIR", str(REAL))
    tokenizer = load_gpt2_tokenizer()
    sizes = SIZES | {"heldout_tokens": 50_000, "shard_tokens": 100_000}
    list(build(tmp_path, 150_000, tokenizer, **sizes, **local()))
    shards = ShardSet(tmp_path, tokenizer)
    assert shards.tokens >= 150_000 and max(token_ids(tmp_path / "train-00000.bin")) > 50_000
    text = tokenizer.decode(shards.window(3, 1024).tolist())
    assert len(text) > 2_000 and " the " in text


# ---------------------------------------------------------------- interrupted, repeated, continued


def test_stopping_after_any_file_and_going_on_gives_the_same_bytes(tmp_path):
    made(tmp_path / "whole")
    for files in range(1, 6):
        lines = build(tmp_path / str(files), 22_000, TOKENIZER, **SIZES, **local())
        for _ in range(files):
            next(lines)
        lines.close()
        assert "already there" in made(tmp_path / str(files))[0]
        assert contents(tmp_path / str(files)) == contents(tmp_path / "whole")


def test_a_larger_number_of_tokens_goes_on_and_a_rerun_changes_nothing(tmp_path):
    for tokens in (3_000, 5_000, 12_000, 22_000):
        made(tmp_path / "grown", tokens)
    made(tmp_path / "whole")
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").glob("*.bin")}
    for tokens in (22_000, 4_000):  # fewer tokens than there are: nothing is taken away
        (line,) = made(tmp_path / "whole", tokens)
        assert line.endswith(" tokens in 5 shards are already there and intact")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").glob("*.bin")}


def test_kill_9_in_the_middle_loses_nothing(tmp_path, root):
    """A real process, killed while it writes; the same command then ends with the files of an
    undisturbed run.
    """
    command = [
        sys.executable,
        "-m",
        "helpers",
        "shards",
        "--tokens",
        "60k",
        "--heldout-tokens",
        "1k",
        "--shard-tokens",
        "250",
        "--tokenizer",
        str(TOKENIZER.path),
        "--source",
        "local",
    ]
    process = subprocess.Popen(
        [*command, "--out", tmp_path / "a"], cwd=root, stdout=subprocess.DEVNULL
    )
    while not (tmp_path / "a" / "train-00005.bin").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it must not have been done yet"
    assert 0 < build_shards.count(read_manifest(tmp_path / "a")["shards"]) < 60_000
    options = {"heldout_tokens": 1_000, "shard_tokens": 250}
    for out in ("a", "b"):
        list(build(tmp_path / out, 60_000, Tokenizer(TOKENIZER.path), **options, **local()))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_shard_that_was_damaged_is_made_again(tmp_path):
    made(tmp_path)
    whole = contents(tmp_path)
    for name, damage in (
        ("train-00002.bin", b"x" + whole["train-00002.bin"][1:]),
        ("heldout.bin", b"short"),
    ):
        (tmp_path / name).write_bytes(damage)
        assert name in made(tmp_path)[0] and contents(tmp_path) == whole
    (tmp_path / "train-00000.bin").unlink()
    assert "train-00000.bin is missing" in made(tmp_path)[0] and contents(tmp_path) == whole


# ---------------------------------------------------------------- the reader


@pytest.fixture
def shards(tmp_path) -> ShardSet:
    made(tmp_path / "out")
    return ShardSet(tmp_path / "out", TOKENIZER)


def test_an_epoch_predicts_every_token_once_in_an_order_of_its_own(shards, tmp_path):
    windows = shards.windows(64)
    lengths = [shard["tokens"] for shard in shards.shards]
    assert windows == sum((length - 1) // 63 for length in lengths)
    rows = [tuple(shards.window(i, 64).tolist()) for i in range(windows)]
    first = token_ids(tmp_path / "out" / "train-00000.bin")
    predicted = [id_ for row in rows[: (lengths[0] - 1) // 63] for id_ in row[1:]]
    assert predicted == first[1 : 1 + len(predicted)] and len(first) - len(predicted) <= 63
    batches = [shards.batch(step, 1, 64, seed=5)[0] for step in range(2 * windows)]
    epochs = [
        [tuple(ids[0].tolist()) for ids in batches[start : start + windows]]
        for start in (0, windows)
    ]
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
    assert (
        rows[0] + [id_ for row in rows[1:] for id_ in row[1:]] == tokens
        and max(map(len, rows)) == 64
    )
    assert shards.heldout_rows(64, 500)[:-1] == rows[: len(shards.heldout_rows(64, 500)) - 1]
    assert sum(len(row) - 1 for row in shards.heldout_rows(64, 500)) == 499


# ---------------------------------------------------------------- bad input


def refused(call) -> str:
    with pytest.raises(ShardError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_reader_refuses_what_has_changed(tmp_path):
    folder = tmp_path / "out"
    assert f"no shards in {folder}: `python -m helpers shards --out" in refused(
        lambda: ShardSet(folder)
    )
    made(folder)
    whole = contents(folder)
    (folder / "train-00001.bin").write_bytes(whole["train-00001.bin"][:-2])
    size = len(whole["train-00001.bin"])
    assert f"train-00001.bin has {size - 2:,} bytes instead of {size:,}" in refused(
        lambda: ShardSet(folder, checksums=False)
    )
    (folder / "train-00001.bin").write_bytes(b"??" + whole["train-00001.bin"][2:])
    assert "train-00001.bin has changed since it was made (checksum" in refused(
        lambda: ShardSet(folder)
    )
    (folder / "heldout.bin").unlink()
    assert "heldout.bin is missing" in refused(lambda: ShardSet(folder))
    (folder / "manifest.json").write_text("{")
    assert "manifest.json is damaged" in refused(lambda: ShardSet(folder))
    (folder / "manifest.json").write_text(
        json.dumps(json.loads(whole["manifest.json"]) | {"version": 99})
    )
    assert "is from another version of the course" in refused(lambda: ShardSet(folder))


def test_another_tokenizer_or_setting_is_refused(shards):
    other = load_tokenizer("sentiment")
    assert "was made with another tokenizer" in refused(lambda: ShardSet(shards.folder, other))
    again = refused(lambda: list(build(shards.folder, 30_000, other, **SIZES, **local())))
    assert f"made with tokenizer '{TOKENIZER.fingerprint}', not '{other.fingerprint}'" in again
    assert "made with seed 0, not 1" in refused(lambda: made(shards.folder, seed=1))
    assert "made with source 'local', not 'embedded'" in refused(
        lambda: made(shards.folder, source="embedded")
    )


def test_a_vocabulary_that_does_not_fit_16_bits(tmp_path):
    huge = Tokenizer(TOKENIZER.path)
    huge.vocab_size = 70_000
    said = refused(lambda: list(build(tmp_path, 100, huge, **SIZES, **local())))
    assert said == "a vocabulary of 70,000 exceeds 16 bits (65,536)"


def test_too_few_tokens_says_how_many_there_are_and_keeps_them(tmp_path):
    total = sum(map(len, documents("train")))
    said = refused(lambda: made(tmp_path / "out", 10**6))
    assert f"only {total:,} tokens to train on, not 1,000,000" in said
    assert ShardSet(tmp_path / "out").tokens == total
    assert said == refused(lambda: made(tmp_path / "out", 10**6)), "and says so again"
    held = sum(map(len, documents("heldout")))
    assert f"only {held:,} tokens to hold out" in refused(
        lambda: made(tmp_path / "b", heldout_tokens=10**6)
    )


def test_a_full_disk_leaves_complete_shards_and_no_rest(tmp_path):
    resource = pytest.importorskip("resource", reason="not on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    made(tmp_path, 8_000)
    kept = contents(tmp_path)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (9_000, hard)
    )  # the system refuses to write more than this to a file
    try:
        said = refused(lambda: made(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (
        "train-00001.bin can't be written (File too large): complete shards stay; make room" in said
    )
    assert contents(tmp_path) == kept
    assert "make room, or ask for fewer" in refused(lambda: made(tmp_path, 10**18))


def test_a_reader_says_when_no_row_fits(shards):
    with pytest.raises(ShardError, match=r"has 22,\d+ tokens: too few for one row of 9000"):
        shards.batch(0, 1, 9_000)
    with pytest.raises(IndexError, match="no such row of 64 tokens"):
        shards.window(99_999, 64)


def test_the_command_line_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    def run(*options: str):
        return shards_command(["--out", str(tmp_path / "out"), "--source", "local", *options])

    with pytest.raises(SystemExit, match="shards: No tokenizer at nowhere"):
        run("--tokenizer", "nowhere")
    with pytest.raises(SystemExit, match="shards: tokens must be 1 or more, not -5"):
        run("--tokenizer", str(TOKENIZER.path), "--tokens=-5")
    run(
        "--tokenizer",
        str(TOKENIZER.path),
        "--tokens",
        "4k",
        "--heldout-tokens",
        "1k",
        "--shard-tokens",
        "2k",
    )
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.startswith("train-00001.bin: ") and last.endswith(" of 4,000")
    monkeypatch.delenv("RLHF_DATA_DIR")
    with pytest.raises(SystemExit, match="RLHF_DATA_DIR is not set"):
        run("--tokenizer", str(TOKENIZER.path))
    assert [number_of(text) for text in ("7", "250k", "1.5M", "10B")] == [
        7,
        250_000,
        1_500_000,
        10**10,
    ]


def test_rows_without_texts_are_a_source_error(rows, tmp_path):
    write(rows, [{"words": "a"}])
    with pytest.raises(SourceError, match="has no column text"):
        made(tmp_path / "out")
