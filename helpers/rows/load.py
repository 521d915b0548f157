"""Records of a track from one of three sources: the Hub, a local folder with the same rows, or the
embedded world.

`records, report = load_track("sentiment", "demonstrations", "train")` reads the embedded world,
source="local" the folder `data_dir`, source="hub" the Hub. What a row becomes does not depend on
its source.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from helpers.config import SOURCES
from helpers.rows.common import Limits, Report, Unusable, digest, prompt_hash, split_of, usable
from helpers.rows.embedded import SPLITS, load_rows
from helpers.rows.hub import hub_rows
from helpers.rows.local import local_split
from helpers.rows.tracks import TRACKS, HubData, Role, SourceError, plain_name

PEEK = 100  # rows in which every column must appear at least once


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
        report.records = report.read = report.used = len(records)
        return records, report
    rows, separate, place = READERS[source](role.data, split, data_dir)
    report.place, rows = f"{source}: {place}", checked(rows, role.data)
    limits, wanted, heldout = limits or Limits(), splits_wanted(role, kind, split, separate), set()
    if split == "train" and kind != "documents":
        heldout = heldout_hashes(track, role, source, data_dir)
    some = None if role.combine else limit
    records = collect(rows, role, wanted, heldout, limits, some, report)
    if role.combine:
        pairs, left_out = role.combine(records, limits)
        report.left_out.update(left_out)
        records = pairs[:limit]
        if surplus := len(pairs) - len(records):
            report.left_out["beyond the number asked for"] += 2 * surplus
    report.records = len(records)
    report.used = len(records) * (2 if role.combine else 1)
    if not records:
        why = "no row can be used"
        if not report.left_out:
            why = "no row falls into this split, more rows are needed"
        raise SourceError(f"{why if report.read else 'there is no row'}: {report}")
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
    """The same rows, with their columns named as we name them. Raises SourceError when none of the
    first rows has a column that we need.
    """
    rows = iter(rows)
    first = list(islice(rows, PEEK))
    present = {name for row in first if isinstance(row, dict) for name in row}
    missing = [name for name in data.needed if name not in map(plain_name, present)]
    if present and missing:
        raise data.lacks(missing, present)
    return (named(row, data) for row in chain(first, rows))


def named(row: dict | Unusable, data: HubData) -> dict | Unusable:
    """A row with our names of the columns, whatever their capitals and blanks are in the file."""
    if isinstance(row, Unusable) or all(name in row for name in data.columns):
        return row
    try:
        return {name: row[found] for name, found in data.find_columns(row).items()}
    except Unusable as reason:
        return reason


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
            rows, separate, place = READERS[source](data, "heldout", data_dir)
        except SourceError:  # a local folder without this data set: nothing is measured with it
            continue
        if data != role.data or separate:
            # its report is of no use here: these rows are counted where they are loaded
            keys = usable(checked(rows, data), other.key, Report("heldout", place))
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
    has a hash in `heldout`; the report counts the rows.
    """
    seen = set()

    def make(row: dict) -> object:
        key = role.key(row)
        if split_of(key) not in wanted:
            report.elsewhere += 1
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

    records = (record for record in usable(rows, make, report) if record is not None)
    return list(islice(records, limit))
