"""The committed files of every world: the same bytes again, and a record in every row."""

import hashlib
import json
import lzma

import pytest

from data.advice import build as advice
from data.build import World, build, content
from data.sentiment import build as sentiment
from data.tldr import build as tldr
from helpers.records import RECORDS
from helpers.rows.embedded import load_rows

MEGABYTE = 1_000_000
WORLDS = {"tldr": tldr.WORLD, "sentiment": sentiment.WORLD, "assistant": advice.WORLD}
# kinds of pairs that differ in a false fact
FILES = [(track, kind) for track, world in WORLDS.items() for kind in world.sizes]
worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def manifest(world: World) -> dict:
    return json.loads((world.folder / "manifest.json").read_text(encoding="utf-8"))


def committed(world: World, name: str) -> bytes:
    return lzma.decompress((world.folder / name).read_bytes())


@worlds
def test_the_manifest_describes_the_committed_files(world):
    entries = manifest(world)
    names = {
        f"{kind}.{split}.jsonl.xz": number
        for kind, splits in world.sizes.items()
        for split, number in splits.items()
    }
    assert entries.keys() == {*names, "tokenizer.json"}
    for name, number in names.items():
        written = committed(world, name)
        assert hashlib.sha256(written).hexdigest() == entries[name]["sha256"], name
        assert written.count(b"\n") == entries[name]["rows"] == number, name
    tokenizer = hashlib.sha256((world.folder / "tokenizer.json").read_bytes()).hexdigest()
    assert tokenizer == entries["tokenizer.json"]["sha256"]
    assert {path.name for path in world.folder.glob("*.xz")} == names.keys()


@pytest.mark.parametrize(("track", "kind"), FILES)
def test_committed_rows_come_out_again_bit_for_bit(track, kind):
    world = WORLDS[track]
    heldout = content(world, kind, "heldout", world.sizes[kind]["heldout"])
    assert heldout == committed(world, f"{kind}.heldout.jsonl.xz")
    train = committed(world, f"{kind}.train.jsonl.xz")
    assert train.startswith(content(world, kind, "train", 200))
    # the last row too: a row depends on its number only, not on the rows before it
    last = world.row(kind, "train", world.sizes[kind]["train"] - 1)
    assert train.endswith(b"\n" + json.dumps(last, ensure_ascii=False).encode() + b"\n")


@worlds
def test_the_builder_writes_what_is_committed(tmp_path, world):
    sizes = {kind: {"train": 20, "heldout": 10} for kind in world.sizes}
    written = build(world, tmp_path, sizes)
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8")) == written
    for kind in world.sizes:
        rows = lzma.decompress((tmp_path / f"{kind}.train.jsonl.xz").read_bytes())
        assert rows == b"".join(committed(world, f"{kind}.train.jsonl.xz").splitlines(True)[:20])
        digest = hashlib.sha256(rows).hexdigest()
        assert written[f"{kind}.train.jsonl.xz"] == {"rows": 20, "sha256": digest}
    again = tmp_path / "again"
    again.mkdir()
    assert build(world, again, sizes) == written
    for path in again.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_the_committed_data_are_small(root):
    paths = [path for path in (root / "data").rglob("*") if "__pycache__" not in path.parts]
    sizes = {path: path.stat().st_size for path in paths if path.is_file()}
    assert sum(sizes.values()) <= 8 * MEGABYTE
    sentiment_sizes = [size for path, size in sizes.items() if "sentiment" in path.parts]
    assert sum(sentiment_sizes) <= 2.5 * MEGABYTE


@pytest.mark.parametrize(("track", "kind"), FILES)
def test_every_row_is_a_record(track, kind):
    for split, number in WORLDS[track].sizes[kind].items():
        rows = load_rows(kind, split, track)
        assert len(rows) == number and {type(row) for row in rows} == {RECORDS[kind]}


@pytest.mark.parametrize("track", WORLDS)
def test_training_and_heldout_prompts_are_disjoint(track):
    kinds = [kind for kind in WORLDS[track].sizes if kind != "documents"]
    train, heldout = (
        {row.prompt for kind in kinds for row in load_rows(kind, split, track)}
        for split in ("train", "heldout")
    )
    assert len(train) > 5000 and len(heldout) > 500 and not train & heldout
