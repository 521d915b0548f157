"""HellaSwag: which of four endings does a base model find most likely? `python -m
helpers.compare.hellaswag RUN --limit 1000`.

Each question is the beginning of a short scene; one ending is true, three were written by a model
and chosen to fool models (Zellers et al. 2019). Who guesses is right in 25%; a person in 95%. Rows
come from the Hub or RLHF_DATA_DIR.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from helpers.compare.perplexity import continuation_nats
from helpers.config import SOURCES
from helpers.engine.hardware import choose_device, choose_dtype
from helpers.engine.parser import Parser
from helpers.model import GPT
from helpers.rows.common import Unusable, field
from helpers.rows.load import READERS, Report, checked
from helpers.rows.tracks import HubData, SourceError
from helpers.run.checkpoints import CheckpointError, load_stage, read_info
from helpers.tokenizer import Tokenizer
from helpers.training import autocast

ENDINGS = 4
DATA = HubData(
    "Rowan/hellaswag",
    "218ec52e09a7e7462a5400043bb9a69a41d06b76",
    ("ctx", "endings", "label"),
    train="validation",
    streaming=True,
    stand_ins=("hellaswag/hellaswag_val",),
)
# The test split has no labels, so everybody measures on the 10,042 questions of "validation";
# nothing is trained.


@dataclass(frozen=True)
class Question:
    """A scene, four ways to go on, and which of them (from 0) is true."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Score:
    """The share of right answers, and how far such a share of so many questions scatters by chance
    alone.

    accuracy_norm picks the ending with the highest mean log-probability a token, as build-nanogpt
    and llm.c do: there the released GPT-2 124M has 0.2955 (and 0.2859 for `accuracy`, which picks
    the highest sum and so favours short endings). EleutherAI's harness divides by characters and
    writes the scenes otherwise: its numbers are higher.
    """

    questions: int
    accuracy: float
    accuracy_norm: float
    standard_error: float  # of accuracy_norm: sqrt(p (1 - p) / n)
    cut: int  # questions whose beginning was cut off to fit the model's context

    def __str__(self) -> str:
        share = f"{100 * self.accuracy_norm:.1f}% +- {100 * self.standard_error:.1f}%"
        return (
            f"HellaSwag: {share} of {self.questions:,} questions right (chance: "
            f"{100 / ENDINGS:.0f}%)"
        )


def question(row: dict) -> Question:
    """A row as a question; the Hub has the label as a text. Raises Unusable."""
    endings, label = row.get("endings"), row.get("label")
    if not isinstance(endings, list) or len(endings) != ENDINGS:
        raise Unusable(f"not {ENDINGS} endings")
    if str(label) not in map(str, range(ENDINGS)):
        raise Unusable(f"no label from 0 to {ENDINGS - 1}")
    texts = tuple(field({"ending": ending}, "ending") for ending in endings)
    return Question(field(row, "ctx"), texts, int(label))


def load_hellaswag(
    source: str = "embedded", limit: int | None = None, data_dir: Path | None = None
) -> tuple[list[Question], Report]:
    """The first `limit` questions (None: all 10,042), and the report of rows that could not be
    used.

    Raises SourceError when the rows can't be had, as on an embedded world, or none can be used.
    """
    if source not in READERS:
        raise DATA.unavailable(
            f"does not go with source {source!r}, whose model knows only the words of its world"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, not {limit}")
    rows, _, place = READERS[source](DATA, "train", data_dir)
    report, questions = Report("HellaSwag", f"{source}: {place}"), []
    for row in checked(rows, DATA):
        try:
            if isinstance(row, Unusable):
                raise row
            questions.append(question(row))
        except Unusable as reason:
            report.left_out[str(reason)] += 1
        if len(questions) == limit:
            break
    report.kept = len(questions)
    if not questions:
        raise SourceError(f"no row can be used: {report}")
    return questions, report


def ending_logprobs(
    model: GPT, tokenizer: Tokenizer, questions: Sequence[Question], batch_size: int = 64
) -> tuple[Tensor, Tensor, int]:
    """log p(ending | scene) in nats and tokens of the endings, both (N, 4), and how many scenes had
    to be cut.

    An ending is written behind a space. Where scene and ending do not fit the context together, the
    scene loses its beginning, for all four endings alike. batch_size: endings at once.
    """
    before, after, cut = [], [], 0
    for asked in questions:
        endings = [
            tokenizer.encode(" " + ending)[: model.config.context - 1] for ending in asked.endings
        ]
        scene, room = tokenizer.encode(asked.context), model.config.context - max(map(len, endings))
        cut += len(scene) > room
        before += [scene[-room:]] * ENDINGS
        after += endings
    logprobs = -continuation_nats(model, before, after, batch_size)
    return (
        logprobs.view(-1, ENDINGS),
        torch.tensor([len(ids) for ids in after]).view(-1, ENDINGS),
        cut,
    )


def hellaswag(
    model: GPT,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    dtype=torch.float32,
    batch_size: int = 64,
) -> Score:
    """The score of a model, which computes in `dtype`. Raises ValueError without questions."""
    if not questions:
        raise ValueError("no questions to ask")
    with autocast(model.wte.weight.device, dtype):
        sums, tokens, cut = ending_logprobs(model, tokenizer, questions, batch_size)
    labels = torch.tensor([asked.label for asked in questions])
    right, right_norm = (
        (scores.argmax(1) == labels).double().mean().item() for scores in (sums, sums / tokens)
    )
    error = math.sqrt(right_norm * (1 - right_norm) / len(questions))
    return Score(len(questions), right, right_norm, error, cut)


def main(argv: Sequence[str] | None = None, source: str = "embedded", data_dir=None) -> None:
    """The command line; source and data_dir are the run's settings."""
    parser = Parser(prog="python -m helpers hellaswag", description="HellaSwag of a checkpoint.")
    parser.add_argument("run", type=Path, help="a run folder, such as runs/t4-tldr-hub-seed0")
    parser.add_argument("--stage", default="pretrain", choices=("pretrain", "base", "sft", "ppo"))
    parser.add_argument("--limit", type=int, help="questions (default: all)")
    parser.add_argument("--source", choices=SOURCES, default=source, help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        folder, device = args.run / "checkpoints" / args.stage, choose_device()
        info = read_info(folder, args.stage)
        model, _ = load_stage(folder, stage=args.stage, track=info["track"], device=device)
        questions, report = load_hellaswag(args.source, args.limit, data_dir)
        score = hellaswag(
            model, Tokenizer(folder / "tokenizer.json"), questions, choose_dtype(device)
        )
    except (CheckpointError, SourceError, OSError, ValueError) as error:
        sys.exit(f"hellaswag: {error}")
    print(report, score, asdict(score), sep="\n")
