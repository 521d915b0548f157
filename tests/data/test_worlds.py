"""The committed files of every world: the same bytes again, rows as stated, labels as likely as
they say.
"""

import hashlib
import json
import lzma
import math
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from data.advice import answers, build as advice, gold as advice_gold
from data.annotators import compare, preference
from data.build import World, build, content
from data.draws import Draws
from data.sentiment import build as sentiment, gold as sentiment_gold, writers
from data.tldr import build as tldr, gold as tldr_gold, summaries
from helpers.records import RECORDS
from helpers.rows.embedded import load_rows

MEGABYTE = 1_000_000
BUILDS = {"tldr": tldr, "sentiment": sentiment, "assistant": advice}
WORLDS = {track: module.WORLD for track, module in BUILDS.items()}
GOLDS = {"tldr": tldr_gold, "sentiment": sentiment_gold, "assistant": advice_gold}
WRITERS = {
    "tldr": dict(zip(summaries.WRITERS, summaries.WRITER_SHARES)),
    "sentiment": writers.WRITERS,
    "assistant": dict(zip(answers.WRITERS, answers.WRITER_SHARES)),
}
# kinds of pairs that differ in a false fact
INVENTED = [("tldr", "hallucinating"), ("assistant", "inventing")]
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
        for kind in world.sizes
        for split, number in world.sizes[kind].items()
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
    assert (
        hashlib.sha256(heldout).hexdigest() == manifest(world)[f"{kind}.heldout.jsonl.xz"]["sha256"]
    )
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
        assert written[f"{kind}.train.jsonl.xz"] == {
            "rows": 20,
            "sha256": hashlib.sha256(rows).hexdigest(),
        }
    again = tmp_path / "again"
    again.mkdir()
    assert build(world, again, sizes) == written
    for path in again.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_the_committed_data_are_small(root):
    files = [
        path
        for path in (root / "data").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sum(path.stat().st_size for path in files) <= 8 * MEGABYTE
    assert sum(path.stat().st_size for path in files if "sentiment" in path.parts) <= 2.5 * MEGABYTE


@pytest.mark.parametrize(("track", "kind"), FILES)
def test_every_row_is_a_record(track, kind):
    for split, number in WORLDS[track].sizes[kind].items():
        rows = load_rows(kind, split, track)
        assert len(rows) == number and {type(row) for row in rows} == {RECORDS[kind]}


@worlds
def test_training_and_heldout_prompts_are_disjoint(world):
    track = next(name for name, other in WORLDS.items() if other is world)
    kinds = [kind for kind in world.sizes if kind != "documents"]
    train, heldout = (
        {row.prompt for kind in kinds for row in load_rows(kind, split, track)}
        for split in ("train", "heldout")
    )
    assert len(train) > 5000 and len(heldout) > 500
    assert not train & heldout


def labelled_pairs(track: str) -> Iterator[tuple[float, bool]]:
    """The better side's probability to be preferred, and whether it was; at one half either side is
    the better one.
    """
    for row in load_rows("comparisons", "train", track) + load_rows(
        "comparisons", "heldout", track
    ):
        assert 0 <= row.probability <= 1 and row.chosen != row.rejected
        if row.probability != 0.5:
            yield max(row.probability, 1 - row.probability), row.probability > 0.5


@pytest.mark.parametrize("track", WORLDS)
def test_annotators_choose_as_often_as_their_probability_says(track):
    """Among pairs where the better side is preferred with about probability p, it is chosen in a
    share p of them.
    """
    bins: dict[int, list[tuple[float, bool]]] = {}
    for better, right in labelled_pairs(track):
        bins.setdefault(int(better * 20), []).append((better, right))
    assert len(bins) >= 5
    for pairs in bins.values():
        expected = sum(p for p, _ in pairs)
        error = math.sqrt(sum(p * (1 - p) for p, _ in pairs)) + 0.5
        assert abs(sum(right for _, right in pairs) - expected) < 4 * error, expected / len(pairs)


@pytest.mark.parametrize("track", WORLDS)
def test_demonstrations_have_the_stated_writers(track):
    """But where a review has conceded something: only one careful writer may go on then
    (test_sentiment_files.py).
    """
    assert sum(WRITERS[track].values()) == pytest.approx(1.0)
    rows = [
        row
        for row in load_rows("demonstrations", "train", track)
        if track != "sentiment" or not row.prompt.startswith(("although", "despite"))
    ]
    check_shares(Counter(row.writer for row in rows), WRITERS[track])


@pytest.mark.parametrize("track", WORLDS)
def test_pairs_are_of_the_stated_kinds(track):
    module = BUILDS[track]
    assert sum(module.PAIR_SHARES) == pytest.approx(1.0)
    rows = load_rows("comparisons", "heldout", track)
    check_shares(
        Counter(row.kind for row in rows), dict(zip(module.PAIR_KINDS, module.PAIR_SHARES))
    )


def check_shares(counts: Counter, shares: dict[str, float]) -> None:
    """Each name is drawn as often as its share says, within four standard errors."""
    number = counts.total()
    assert counts.keys() == shares.keys()
    for name, share in shares.items():
        assert counts[name] / number == pytest.approx(
            share, abs=4 * math.sqrt(share * (1 - share) / number)
        ), name


@pytest.mark.parametrize(("track", "kind"), INVENTED)
def test_a_rule_that_never_reads_the_prompt_is_at_chance_on_false_facts(track, kind):
    """False values are drawn like true ones, so how often a word was preferred says nothing on
    other pairs.
    """

    def halves(split: str) -> list[tuple[set[str], set[str]]]:
        pairs = [row for row in load_rows("comparisons", split, track) if row.kind == kind]
        words = [
            [set(re.findall(r"[A-Za-z]+", text)) for text in (row.chosen, row.rejected)]
            for row in pairs
        ]
        return [(chosen - rejected, rejected - chosen) for chosen, rejected in words]

    liked = Counter()
    for chosen, rejected in halves("train"):
        liked.update(chosen)
        liked.subtract(rejected)
    margins = [
        sum(liked[word] for word in chosen) - sum(liked[word] for word in rejected)
        for chosen, rejected in halves("heldout")
    ]
    right = sum((margin > 0) + (margin == 0) / 2 for margin in margins) / len(margins)
    assert abs(right - 0.5) < 4 * 0.5 / math.sqrt(len(margins))


def test_preference_is_bradley_terry():
    assert preference(1.0, 1.0) == 0.5
    assert preference(2.0, 0.0) == pytest.approx(1 / (1 + math.exp(-2)))
    for a, b in ((3.0, -1.5), (-7.0, 5.0), (0.2, 0.1)):
        assert preference(a, b) + preference(b, a) == pytest.approx(1.0)
        assert math.log(preference(a, b) / preference(b, a)) == pytest.approx(a - b)


def test_a_comparison_carries_the_probability_of_its_own_label():
    found = {compare(Draws(seed), ("a", "b"), (1.0, 0.0)) for seed in range(50)}
    assert found == {("a", "b", 0.7311), ("b", "a", 0.2689)}


# ---------------------------------------------------------------- data/WORLDS.md


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "data/WORLDS.md").read_text(encoding="utf-8")


@worlds
def test_the_page_states_rows_and_fields_and_names_every_source(page, world):
    for kind, splits in world.sizes.items():
        row = json.loads(committed(world, f"{kind}.heldout.jsonl.xz").split(b"\n", 1)[0])
        fields = ", ".join(f"`{name}`" for name in row)
        assert f"| `{kind}` | {splits['train']:,} | {splits['heldout']:,} | {fields} |" in page
    assert f"a byte-level BPE of {world.vocab_size:,} tokens" in page
    for path in [
        *world.folder.glob("*.py"),
        *world.folder.glob("*.json"),
        *world.folder.parent.glob("*.py"),
    ]:
        assert path.name == "__init__.py" or path.name in page


@pytest.mark.parametrize("track", WORLDS)
def test_the_page_states_shares_and_the_gold_formula(page, track):
    module = BUILDS[track]
    for name, share in [*WRITERS[track].items(), *zip(module.PAIR_KINDS, module.PAIR_SHARES)]:
        assert f"| {name} | {share:.0%} |" in page
    formula = re.search(r"\n(    gold = .*\n.*\n)", GOLDS[track].__doc__)[1]
    assert f"\n{formula}" in page
