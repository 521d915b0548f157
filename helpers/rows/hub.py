"""Rows from the Hugging Face Hub, through `datasets`: from its cache, or else over the network; a
clear error within seconds without them.
"""

from collections.abc import Iterator
from pathlib import Path

from helpers.engine.network import redact, within
from helpers.rows.tracks import HubData

SECONDS = 6  # the longest wait for the Hub's first answer


def check_hub(data: HubData) -> None:
    """Raise SourceError if the data set can't be read: no network, missing, gated, bad token."""
    from huggingface_hub import HfApi  # imported here: most runs never need it

    options = {"revision": data.revision, "timeout": SECONDS - 1}
    try:
        within(SECONDS, lambda: HfApi().dataset_info(data.repository, **options))
    except Exception as error:  # whose message may quote the request
        raise data.unavailable(reason(error)) from None


def reason(error: Exception) -> str:
    """What an error of the Hub means, as the end of a sentence about the data set."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "is not in the cache of `datasets`, and HF_HUB_OFFLINE forbids to download it"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return "is gated: accept its terms on its page and log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no longer has the pinned revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "is not on the Hub, or is private and this token may not read it"
    if status in (401, 403):
        advice = "renew it, or remove it for public data"
        return f"was refused with the token that is set here (HTTP {status}): {advice}"
    if status is not None:
        return f"could not be had: the Hub answered with HTTP {status}"
    return f"could not be reached on the Hub, there may be no network ({type(error).__name__})"


def cached_files(data: HubData, split: str) -> list[Path]:
    """The files of a split, at the pinned revision, that `datasets` has downloaded and prepared:
    OWNER___NAME/CONFIG/VERSION/REVISION/NAME-SPLIT.arrow, or several in place of the last one.
    """
    from datasets import config

    owner, name = data.repository.split("/")
    cache = Path(config.HF_DATASETS_CACHE).expanduser()
    for folder in cache.glob(f"{owner}___{name}/{data.config or '*'}/*/{data.revision}"):
        files = sorted(folder.glob(f"*-{split}.arrow")) or sorted(
            folder.glob(f"*-{split}-*-of-*.arrow")
        )
        if files and (len(files) == 1 or files[0].stem.endswith(f"-of-{len(files):05d}")):
            return files
    return []


def hub_rows(data: HubData, heldout: bool) -> Iterator[dict]:
    """The rows of a data set's split; those that are not in the cache are streamed where the data
    set is large. Raises SourceError.
    """
    from datasets import Dataset, load_dataset

    split = data.heldout if heldout and data.heldout else data.train
    options = {"split": split, "revision": data.revision, "streaming": data.streaming}
    files = cached_files(data, split)
    if not files:
        check_hub(data)
    try:
        for file in files:
            yield from Dataset.from_file(str(file))
        if not files:
            yield from load_dataset(data.repository, data.config, **options)
    except Exception as error:
        why = f"could not be read, split {split!r} ({type(error).__name__}: {redact(str(error))})"
        raise data.unavailable(why) from None
