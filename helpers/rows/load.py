"""Records of a track from one of three sources: the Hub, a local folder with the same rows, or the
embedded world.

`records, report = load_track("sentiment", "demonstrations", "train")` reads the embedded world,
source="local" the folder `data_dir`, source="hub" the Hub. What a row becomes does not depend on
its source.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field as attribute
from itertools import chain, islice
from pathlib import Path

from helpers.config import SOURCES
from helpers.rows.common import Limits, Unusable, digest, prompt_hash, split_of, usable
from helpers.rows.embedded import SPLITS, load_rows
from helpers.rows.hub import hub_rows
from helpers.rows.local import local_split
from helpers.rows.tracks import TRACKS, HubData, Role, SourceError

PEEK = 100  # rows in which every column must appear at least once


@dataclass
class Report:
    """How many rows became records, and how many did not, by reason. str() is one line."""

    what: str  # "tldr demonstrations/train"
    place: str  # "local: openai_summarize_tldr/train.jsonl": what a model card should name
    records: int = 0
    cut: int = 0  # records whose prompt was shortened to fit
    left_out: Counter = attribute(default_factory=Counter)  # reason: rows

    def __str__(self) -> str:
        parts = [f"{self.what} ({self.place}): {self.records:,} records"]
        if self.cut:
            parts.append(f"{self.cut:,} prompts cut to fit")
        if self.left_out:
            reasons = ", ".join(f"{reason}: {n:,}" for reason, n in self.left_out.most_common())
            parts.append(f"{self.left_out.total():,} rows left out ({reasons})")
        return "; ".join(parts)


def load_track(
    track: str,
    kind: str,
    split: str,
    source: str = "embedded",
    limits: Limits | None = None,
    limit: int | None = None,
    data_dir: Path | None = None,
) -> tuple[list, Report]:
    """The first `limit` records of a track, and the report of what was left out.

    kind: documents, demonstrations, comparisons or prompts; for sentiment also labels (one text and
    its label). split: train or heldout. No prompt is in both, whatever the kinds. data_dir: the
    folder of source "local". Raises ValueError for an unknown name, SourceError when the rows can't
    be had or none can be used.
    """
    role = find_role(track, kind, split, source)
    report = Report(f"{track} {kind}/{split}", source)
    if source == "embedded":
        records = load_rows(kind, split, track, limit)
        report.records = len(records)
        return records, report
    rows, separate, place = READERS[source](role.data, split, data_dir)
    report.place, rows = f"{source}: {place}", checked(rows, role.data)
    limits, wanted, heldout = limits or Limits(), splits_wanted(role, kind, split, separate), set()
    if split == "train" and kind != "documents":
        heldout = heldout_hashes(track, role, source, data_dir)
    some = None if role.combine else limit
    records = collect(rows, role, wanted, heldout, limits, some, report)
    if role.combine:
        records, left_out = role.combine(records, limits)
        report.left_out.update(left_out)
        records = records[:limit]
    report.records = len(records)
    if not records:
        why = "no row can be used"
        if not report.left_out:
            why = "no row falls into this split, more rows are needed"
        raise SourceError(f"{why}: {report}")
    return records, report


def find_role(track: str, kind: str, split: str, source: str) -> Role:
    """How a track makes a kind of record. Raises ValueError with the names to choose from."""
    names = {"track": (track, TRACKS), "split": (split, SPLITS), "source": (source, SOURCES)}
    for what, (name, valid) in names.items():
        if name not in valid:
            raise ValueError(f"no {what} {name!r}: choose from {', '.join(valid)}")
    roles = TRACKS[track].roles
    if kind not in roles:
        raise ValueError(f"{track} has no {kind!r}: choose from {', '.join(roles)}")
    return roles[kind]


def hub_split(data: HubData, split: str, _: Path | None) -> tuple[Iterator[dict], bool, str]:
    """The Hub's rows, whether its held-out rows are a split of their own, and its name."""
    return hub_rows(data, split == "heldout"), data.heldout is not None, data.repository


READERS = {"hub": hub_split, "local": local_split}


def checked(rows: Iterable[dict | Unusable], data: HubData) -> Iterator[dict | Unusable]:
    """The same rows. Raises SourceError when none of the first ones has a column that we need."""
    rows = iter(rows)
    first = list(islice(rows, PEEK))
    columns = {name for row in first if isinstance(row, dict) for name in row}
    missing = [name for name in data.columns if name not in columns]
    if columns and missing:
        raise data.unavailable(
            f"has no column {', '.join(missing)} (found: {', '.join(sorted(columns))})"
        )
    return chain(first, rows)


def splits_wanted(role: Role, kind: str, split: str, separate: bool) -> set[str]:
    """Which of the splits by hash the records are from. separate: held-out rows are elsewhere."""
    every = {"train", "reserve", "heldout"}
    if split == "heldout":
        return every if separate else {"heldout"}
    names = every if separate else every - {"heldout"}
    if not role.reserve:
        return names
    return {"reserve"} if kind == "prompts" else names - {"reserve"}


def heldout_hashes(track: str, role: Role, source: str, data_dir: Path | None) -> set[int]:
    """Hashes of the held-out prompts of a track that `splits_wanted` does not exclude already.

    Two data sets of a track may hold the same post, one in its training split and one in its
    held-out split.
    """
    hashes: set[int] = set()
    kinds = TRACKS[track].roles.items()
    for data, other in {r.data: r for kind, r in kinds if kind != "documents"}.items():
        try:
            rows, separate, _ = READERS[source](data, "heldout", data_dir)
        except SourceError:  # a local folder without this data set: nothing is measured with it
            continue
        if data != role.data or separate:
            keys = usable(rows, other.key, Counter())  # counted where these rows are loaded
            hashes |= {prompt_hash(k) for k in keys if separate or split_of(k) == "heldout"}
    return hashes


def collect(
    rows: Iterable[dict | Unusable],
    role: Role,
    wanted: set[str],
    heldout: set[int],
    limits: Limits,
    limit: int | None,
    report: Report,
) -> list:
    """At most `limit` records of the rows in the wanted splits, each once, none of whose prompts
    has a hash in `heldout`; the report counts unusable rows.
    """
    seen = set()

    def make(row: dict) -> object:
        key = role.key(row)
        if split_of(key) not in wanted:
            return None
        if prompt_hash(key) in heldout:
            raise Unusable("held out for measuring")
        record = role.record(row, limits)
        content = digest(repr(record))
        if content in seen:
            raise Unusable("duplicate")
        seen.add(content)
        report.cut += bool(role.was_cut and role.was_cut(row, record))
        return record

    records = (record for record in usable(rows, make, report.left_out) if record is not None)
    return list(islice(records, limit))
