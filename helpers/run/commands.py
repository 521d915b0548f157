"""Commands whose work is done in other rooms: they read the settings and hand them down."""

from collections.abc import Sequence
from pathlib import Path

from helpers.rows import build_shards
from helpers.run.settings import data_folder, read_settings


def shards(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers shards`."""
    build_shards.main(argv, source_and_folder)


def source_and_folder(source: str | None, data_dir: Path | None) -> tuple[str, Path | None]:
    """Where rows come from, by the options or, where they are None, by the variables."""
    settings = read_settings({"source": source, "data_dir": data_dir})
    return settings.source, data_folder(settings)
