"""A checkpoint folder on the Hugging Face Hub: `python -m helpers publish FOLDER owner/name`.

The repository is private unless --public is given. The token is huggingface_hub's own (`hf auth
login`, or HF_TOKEN); this program never prints or saves it.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers.engine.network import redact, within
from helpers.engine.parser import Parser, user_path
from helpers.run.checkpoints import CheckpointError, check_files, read_info
from helpers.run.session import quiet_libraries

SECONDS = 8  # the longest wait for the Hub's first answer
REFUSALS = {
    401: "the Hub does not know this token; log in again with `hf auth login`",
    403: "this token may not write there; it needs the right to write, and to be the owner's",
    404: "there is no such owner, or this token may not see it",
}


class PublishError(RuntimeError):
    """A checkpoint that could not be published: one line that says why and what to do."""


def push(folder: str | Path, repository: str, private: bool = True) -> str:
    """Upload a checkpoint with its model card; returns the repository's address.

    repository: "owner/name"; created if it doesn't exist. Raises CheckpointError for a damaged
    checkpoint, PublishError for a bad name or token, a refusal, or no network (within 10 seconds).
    """
    from huggingface_hub import HfApi, get_token  # imported here: most runs never need it

    folder = Path(folder).absolute()
    info = read_info(folder)
    check_files(folder, info)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository):
        raise PublishError(f"{redact(repository)!r} is no name of a repository: give owner/name")
    if get_token() is None:
        raise PublishError(
            "no token for the Hub: run `hf auth login` or set HF_TOKEN, with the right to write"
        )
    files = uploads(folder, info)
    try:
        api = HfApi()
        within(SECONDS, lambda: api.create_repo(repository, private=private, exist_ok=True))
        message = f"{info['track']}: {info['stage']}"
        api.create_commit(repository, operations=files, commit_message=message)
    except Exception as error:  # its own message may quote the request
        raise PublishError(f"{repository} {reason(error)}") from None
    return f"https://huggingface.co/{repository}"


def uploads(folder: Path, info: dict) -> list:
    """What is uploaded: the files of a checkpoint and its adapters, which no longer say where on
    this machine their base is. Raises CheckpointError for damaged adapters.
    """
    from huggingface_hub import CommitOperationAdd

    names = [folder / name for name in (*info["files"], "stage.json", "README.md")]
    paths = [path for path in (*names, *(folder / "adapter").glob("*")) if path.is_file()]
    contents = {path.relative_to(folder).as_posix(): path for path in paths}
    config = "adapter/adapter_config.json"
    if config in contents:
        try:
            settings = dict(json.loads(contents[config].read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError):
            raise CheckpointError(f"{contents[config]} is damaged") from None
        settings["base_model_name_or_path"] = None
        contents[config] = json.dumps(settings, indent=1).encode()
    return [CommitOperationAdd(name, content) for name, content in contents.items()]


def reason(error: Exception) -> str:
    """What an answer of the Hub means, as the end of a sentence about the repository."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in REFUSALS:
        return f"was refused: {REFUSALS[status]}"
    if status is not None:
        return f"could not be written: the Hub answered with HTTP {status}"
    return f"could not be reached, there may be no network ({type(error).__name__})"


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers publish`."""
    parser = Parser(prog="python -m helpers publish", description="A checkpoint on the Hub.")
    add = parser.add_argument
    add("folder", type=user_path, help="a checkpoint, such as runs/cpu-tldr-seed0/checkpoints/ppo")
    add("repository", help="owner/name")
    add("--public", action="store_true", help="for everybody to see (default: private)")
    args = parser.parse_args(argv)
    quiet_libraries()
    try:
        print(push(args.folder, args.repository, private=not args.public))
    except (CheckpointError, PublishError) as error:
        sys.exit(f"publish: {error}")
