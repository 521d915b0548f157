"""`python -m helpers hellaswag RUN`: HellaSwag of a checkpoint."""

from collections.abc import Sequence

from helpers.compare import hellaswag
from helpers.run.settings import data_folder, read_settings


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = read_settings()
    hellaswag.main(argv, settings.source, data_folder(settings))
