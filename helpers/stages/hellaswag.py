"""`python -m helpers hellaswag RUN`: HellaSwag of a checkpoint."""

import sys
from collections.abc import Sequence
from dataclasses import asdict

from helpers.compare.hellaswag import hellaswag, load_hellaswag
from helpers.config import SOURCES
from helpers.engine.hardware import choose_device, choose_dtype
from helpers.engine.parser import Parser, user_path
from helpers.rows.tracks import SourceError
from helpers.rows.vocabulary import read_tokenizer
from helpers.run.checkpoints import CheckpointError, load_stage, read_info
from helpers.run.settings import data_folder, read_settings


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = read_settings()
    parser = Parser(prog="python -m helpers hellaswag", description="HellaSwag of a checkpoint.")
    add = parser.add_argument
    add("run", type=user_path, help="a run folder, such as runs/t4-tldr-hub-seed0")
    add("--stage", default="pretrain", choices=("pretrain", "base", "sft", "ppo"))
    add("--limit", type=int, help="questions (default: all)")
    add("--source", choices=SOURCES, default=settings.source, help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        folder, device = args.run / "checkpoints" / args.stage, choose_device()
        track = read_info(folder, args.stage)["track"]
        model, _ = load_stage(folder, stage=args.stage, track=track, device=device)
        questions, report = load_hellaswag(args.source, args.limit, data_folder(settings))
        tokenizer = read_tokenizer(folder / "tokenizer.json")
        score = hellaswag(model, tokenizer, questions, choose_dtype(device))
    except (CheckpointError, SourceError, OSError, ValueError) as error:
        sys.exit(f"hellaswag: {error}")
    print(report, score, asdict(score), sep="\n")
