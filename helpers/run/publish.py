"""Put a checkpoint folder on the Hugging Face Hub: `python -m helpers publish FOLDER
owner/name`.

The repository is private unless --public is given. The token is huggingface_hub's own (`hf auth
login`, or HF_TOKEN); this program never prints or saves it.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers.engine.network import redact, within
from helpers.engine.parser import Parser
from helpers.run.checkpoints import CheckpointError, check_files, read_info
from helpers.run.session import quiet_libraries

SECONDS = 8  # the longest wait for the Hub's first answer


class PublishError(RuntimeError):
    """A checkpoint that could not be published: one line that says why and what to do."""


def push(folder: str | Path, repository: str, private: bool = True) -> str:
    """Upload a checkpoint with its model card; returns the repository's address.

    repository: "owner/name"; made if it isn't there (one that is there keeps who may see it).
    Raises CheckpointError when the folder is no whole checkpoint, PublishError for a bad name, no
    token or a wrong one, a refusal, or no network (within ten seconds).
    """
    from huggingface_hub import HfApi, get_token  # imported here: most runs never need it

    folder = Path(folder).absolute()
    info = read_info(folder, None)
    check_files(folder, info)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository):
        raise PublishError(f"{redact(repository)!r} is no name of a repository: give owner/name")
    if get_token() is None:
        raise PublishError(
            "no token for the Hub: run `hf auth login` or set HF_TOKEN, with the right to write"
        )
    try:
        api = HfApi()
        within(SECONDS, lambda: api.create_repo(repository, private=private, exist_ok=True))
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[*info["files"], "adapter/*", "stage.json", "README.md"],
            commit_message=f"{info['track']}: {info['stage']}",
        )
    except Exception as error:
        raise PublishError(
            f"{repository} {reason(error)}"
        ) from None  # a library's own message may quote the request
    return f"https://huggingface.co/{repository}"


def reason(error: Exception) -> str:
    """What an answer of the Hub means, as the end of a sentence that begins with the repository's
    name.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "was refused: the Hub does not know this token; log in again with `hf auth login`"
    if status == 403:
        return (
            "was refused: this token may not write there; it needs the right to write, and to "
            "be the owner's"
        )
    if status == 404:
        return "was refused: there is no such owner, or this token may not see it"
    if status is not None:
        return f"could not be written: the Hub answered with HTTP {status}"
    return f"could not be reached, there may be no network ({type(error).__name__})"


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m helpers publish`."""
    parser = Parser(prog="python -m helpers publish", description="A checkpoint on the Hub.")
    parser.add_argument(
        "folder", type=Path, help="a checkpoint, such as runs/cpu-tldr-seed0/checkpoints/ppo"
    )
    parser.add_argument("repository", help="owner/name")
    parser.add_argument(
        "--public", action="store_true", help="for everybody to see (default: private)"
    )
    args = parser.parse_args(argv)
    quiet_libraries()
    try:
        print(push(args.folder, args.repository, private=not args.public))
    except (CheckpointError, PublishError) as error:
        sys.exit(f"publish: {error}")
