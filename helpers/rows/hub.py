"""Rows from the Hugging Face Hub, through `datasets`; a clear error within seconds without them."""

from collections.abc import Iterator

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


def hub_rows(data: HubData, heldout: bool) -> Iterator[dict]:
    """The rows of a data set's split, streamed where it is large. Raises SourceError."""
    check_hub(data)
    from datasets import load_dataset

    split = data.heldout if heldout and data.heldout else data.train
    options = {"split": split, "revision": data.revision, "streaming": data.streaming}
    try:
        yield from load_dataset(data.repository, data.config, **options)
    except Exception as error:
        why = f"could not be read, split {split!r} ({type(error).__name__}: {redact(str(error))})"
        raise data.unavailable(why) from None
