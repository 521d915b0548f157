"""Rows as a run reads them: from where the settings say, for tests that set RLHF_DATA_DIR."""

from helpers.rows import gpt2_bpe, load
from helpers.run.settings import data_folder, read_settings


def load_track(track, kind, split, source=None, limits=None, limit=None):
    """`helpers.rows.load.load_track` with the settings' source and folder."""
    settings = read_settings({"source": source})
    where = settings.source, limits, limit, data_folder(settings)
    return load.load_track(track, kind, split, *where)


def load_gpt2_tokenizer(folder=None):
    """`helpers.rows.gpt2_bpe.load_gpt2_tokenizer` with the settings' folder."""
    return gpt2_bpe.load_gpt2_tokenizer(folder, data_folder(read_settings()))
