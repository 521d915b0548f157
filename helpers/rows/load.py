"""Records of a track from one of three sources: the Hub, a local folder with the same rows, or the
embedded world.

`records, report = load_track("sentiment", "demonstrations", "train")` reads the embedded world,
source="local" the folder `data_dir`, source="hub" the Hub. What a row becomes does not depend on
where it lay.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field as attribute
from itertools import chain, islice
from pathlib import Path

from helpers.config import SOURCES
from helpers.rows.common import Limits, Unusable, digest, mark, split_of
from helpers.rows.embedded import SPLITS, load_rows
from helpers.rows.hub import hub_rows
from helpers.rows.local import find_files, local_rows
from helpers.rows.tracks import TRACKS, HubData, Role, SourceError

PEEK = 100  # rows in which every column must appear at least once


@dataclass
class Report:
    """How many rows became records, and how many did not, by reason. str() is one line."""

    what: str  # "tldr demonstrations/train"
    place: str  # "local: openai_summarize_tldr/train.jsonl": what a model card should name
    kept: int = 0
    cut: int = 0  # records whose prompt was shortened to fit
    left_out: Counter = attribute(default_factory=Counter)  # reason: rows

    def __str__(self) -> str:
        parts = [f"{self.what} ({self.place}): {self.kept:,} records"]
        if self.cut:
            parts.append(f"{self.cut:,} prompts cut to fit")
        if self.left_out:
            reasons = ", ".join(
                f"{reason}: {count:,}" for reason, count in self.left_out.most_common()
            )
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
        report.kept = len(records)
        return records, report
    rows, apart, place = READERS[source](role.data, split, data_dir)
    report.place = f"{source}: {place}"
    rows = checked(rows, role.data)
    limits = limits or Limits()
    wanted = splits_wanted(role, kind, split, apart)
    measured = (
        marks_held_out(track, role, source, data_dir)
        if split == "train" and kind != "documents"
        else set()
    )
    records = collect(rows, role, wanted, measured, limits, None if role.combine else limit, report)
    if role.combine:
        records, left_out = role.combine(records, limits)
        report.left_out.update(left_out)
        records = records[:limit]
    report.kept = len(records)
    if not records:
        why = (
            "no row can be used"
            if report.left_out
            else "no row falls into this split, more rows are needed"
        )
        raise SourceError(f"{why}: {report}")
    return records, report


def find_role(track: str, kind: str, split: str, source: str) -> Role:
    """How a track makes a kind of record. Raises ValueError with the names to choose from."""
    for what, name, names in (
        ("track", track, TRACKS),
        ("split", split, SPLITS),
        ("source", source, SOURCES),
    ):
        if name not in names:
            raise ValueError(f"no {what} {name!r}: choose from {', '.join(names)}")
    roles = TRACKS[track].roles
    if kind not in roles:
        raise ValueError(f"{track} has no {kind!r}: choose from {', '.join(roles)}")
    return roles[kind]


def hub_split(
    data: HubData, split: str, data_dir: Path | None = None
) -> tuple[Iterator[dict], bool, str]:
    """The Hub's rows, whether held-out rows are a split of their own there, and the repository's
    name.
    """
    return hub_rows(data, split == "heldout"), data.heldout is not None, data.repository


def local_split(
    data: HubData, split: str, data_dir: Path | None = None
) -> tuple[Iterator[dict | Unusable], bool, str]:
    """The rows in `data_dir`, whether held-out rows have files of their own there, and the first
    file's name.

    Raises SourceError.
    """
    if data_dir is None:
        raise data.unavailable("was asked for in a local folder, but RLHF_DATA_DIR is not set")
    folder = data_dir
    if not folder.is_dir():
        raise data.unavailable(
            f"was asked for in RLHF_DATA_DIR={folder}, but there is no such folder"
        )
    found, stand_in = find_files(folder, data)
    files = found[split] or found["train"]
    if not files:
        raise data.unavailable(f"has no file for {split} in RLHF_DATA_DIR={folder}")
    place = files[0].relative_to(folder).as_posix() + (
        f" and {len(files) - 1} more" if len(files) > 1 else ""
    )
    if stand_in:
        place += f", a stand-in for {data.repository}"
    return local_rows(files, data), bool(found["heldout"]), place


READERS = {"hub": hub_split, "local": local_split}


def checked(rows: Iterable[dict | Unusable], data: HubData) -> Iterator[dict | Unusable]:
    """The same rows. Raises SourceError when a column that we need is in none of the first ones: it
    was renamed.
    """
    rows = iter(rows)
    first = list(islice(rows, PEEK))
    found = {name for row in first if isinstance(row, dict) for name in row}
    missing = [name for name in data.columns if name not in found]
    if found and missing:
        raise data.unavailable(
            f"has no column {', '.join(missing)} (found: {', '.join(sorted(found))})"
        )
    return chain(first, rows)


def splits_wanted(role: Role, kind: str, split: str, apart: bool) -> set[str]:
    """Which of the splits by hash the records are from. `apart`: held-out rows are not among these
    rows anyway.
    """
    every = {"train", "reserve", "heldout"}
    if split == "heldout":
        return every if apart else {"heldout"}
    names = every if apart else every - {"heldout"}
    if not role.reserve:
        return names
    return {"reserve"} if kind == "prompts" else names - {"reserve"}


def marks_held_out(track: str, role: Role, source: str, data_dir: Path | None = None) -> set[int]:
    """Marks of the prompts that any stage of the track is measured with, but for those that
    `splits_wanted` keeps out.

    Two data sets of a track may hold the same post, one in its training split and one in its
    held-out split.
    """
    marks: set[int] = set()
    others = {
        other.data: other for kind, other in TRACKS[track].roles.items() if kind != "documents"
    }
    for data, other in others.items():
        try:
            rows, apart, _ = READERS[source](data, "heldout", data_dir)
        except SourceError:  # a local folder without this data set: nothing is measured with it
            continue
        if data != role.data or apart:
            marks |= {mark(key) for key in keys(rows, other) if apart or split_of(key) == "heldout"}
    return marks


def keys(rows: Iterable[dict | Unusable], role: Role) -> Iterator[str]:
    """The texts that decide on the split, of the rows that have one."""
    for row in rows:
        try:
            if not isinstance(row, Unusable):
                yield role.key(row)
        except Unusable:  # what reads these rows for themselves reports them
            continue


def collect(
    rows: Iterable[dict | Unusable],
    role: Role,
    wanted: set[str],
    measured: set[int],
    limits: Limits,
    limit: int | None,
    report: Report,
) -> list:
    """Records of the rows in the wanted splits, at most `limit`, each once; the others are counted
    in the report.

    measured: marks of prompts that must not be learned from.
    """
    records, seen = [], set()
    if limit == 0:
        return records
    for row in rows:
        try:
            if isinstance(row, Unusable):
                raise row
            key = role.key(row)
            if split_of(key) not in wanted:
                continue
            if mark(key) in measured:
                raise Unusable("held out for measuring")
            record = role.record(row, limits)
            content = digest(repr(record))
            if content in seen:
                raise Unusable("duplicate")
        except Unusable as reason:
            report.left_out[str(reason)] += 1
            continue
        seen.add(content)
        records.append(record)
        report.cut += bool(role.was_cut and role.was_cut(row, record))
        if len(records) == limit:
            break
    return records
