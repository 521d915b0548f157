"""Rows as a run reads them: from where the settings say, for tests that set RLHF_DATA_DIR."""

from helpers.rows import load
from helpers.run.settings import data_folder, read_settings


def load_track(track, kind, split, source=None, limits=None, limit=None):
    """`helpers.rows.load.load_track` with the settings' source and folder."""
    settings = read_settings({"source": source})
    where = settings.source, limits, limit, data_folder(settings)
    return load.load_track(track, kind, split, *where)
