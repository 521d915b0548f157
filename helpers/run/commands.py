"""Commands whose work is done in other rooms: they read the settings and hand them down."""

from collections.abc import Sequence

from helpers.rows import build_shards
from helpers.run.settings import data_folder, read_settings


def shards(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers shards`."""
    settings = read_settings()
    build_shards.main(argv, settings.source, data_folder(settings))
