"""The four tracks: which public data sets each stage reads, at which revision, and how a row
becomes a record.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from helpers.rows import common, instructions, sentiment, tldr


class SourceError(RuntimeError):
    """Rows that can't be had: one line with the data set, the reason, and what to do instead."""


def plain_name(name: str) -> str:
    """A column's name without what programs add to it: capitals, blanks, marks."""
    return name.strip(" \t\r\n\ufeff\"'").casefold()


def printable(text: str) -> str:
    """A text that any console can show: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class HubData:
    """A data set on the Hub, and where the same rows lie in a local folder."""

    repository: str  # "owner/name"
    revision: str  # a commit: the same rows next year
    columns: tuple[str, ...]  # that the course reads, in the order of a file without a header
    train: str = "train"  # the Hub's name of the split to learn from
    heldout: str | None = None  # and to measure with; None: a tenth of the prompts, by their hash
    config: str | None = None
    streaming: bool = False  # read over the network row by row instead of downloading first
    optional: tuple[str, ...] = ()  # columns that a file may lack
    # Other rows with these columns, read from a folder that lacks this data set: files without
    # ending, where {split} is a split's name. The report names them as stand-ins.
    stand_ins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The last part of the repository's name, and the folder to put its files in."""
        return self.repository.split("/")[-1]

    @property
    def needed(self) -> list[str]:
        """The columns that no file may lack."""
        return [name for name in self.columns if name not in self.optional]

    def is_column(self, name: str) -> bool:
        """Whether a name is that of a column, but for capitals and blanks."""
        return plain_name(name) in self.columns

    def find_columns(self, names: Collection[str]) -> dict[str, str]:
        """Our columns among the names that a file gives: {ours: the file's}. Capitals and blanks
        make no difference where there is no exact name. Raises Unusable for two such names.
        """
        alike: dict[str, list[str]] = {}
        for name in names:
            alike.setdefault(plain_name(name), []).append(name)
        found = {}
        for column in self.columns:
            choice = [name for name in names if name == column] or alike.get(column, [])
            if len(choice) > 1:
                raise common.Unusable(f"two columns {column}")
            if choice:
                found[column] = choice[0]
        return found

    def lacks(self, missing: Iterable[str], names: Iterable[str], where: str = "") -> SourceError:
        """The error that names the columns that are missing, and those that there are."""
        shown = ", ".join(sorted({" ".join(printable(name).split())[:40] for name in names})[:20])
        return self.unavailable(f"has no column {', '.join(missing)}{where} (found: {shown})")

    def unavailable(self, why: str) -> SourceError:
        """The error that says why this data set can't be read, and the two other sources."""
        return SourceError(
            f"{self.repository} {why}. Without it: put its rows into {self.name}/{self.train}.jsonl"
            " (or .parquet, .tsv, .csv; .gz and .xz too) of a folder, set RLHF_DATA_DIR to that "
            "folder and RLHF_SOURCE=local; or take the embedded world of the track: "
            "RLHF_SOURCE=embedded."
        )


@dataclass(frozen=True)
class Role:
    """How one kind of record is made from a data set."""

    data: HubData
    key: Callable[[dict], str]  # row -> the text whose hash decides on the split
    record: Callable[[dict, common.Limits], object]  # row -> record; raises Unusable
    # all records -> pairs of them
    combine: Callable[[Sequence, common.Limits], tuple[list, dict]] | None = None
    # whether the record lacks the end of the row's prompt
    was_cut: Callable[[dict, object], bool] | None = None
    # a second tenth is set aside for PPO: prompts that no other stage learns from
    reserve: bool = False


@dataclass(frozen=True)
class Track:
    """A task: the form of its prompts, and the source of each kind of record."""

    name: str
    template: str  # of a prompt; it ends without a space, completions begin with one
    roles: dict[str, Role]  # by kind: documents, demonstrations, comparisons, prompts, labels


FINEWEB = HubData(
    "HuggingFaceFW/fineweb-edu",
    "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
    ("text",),
    config="sample-10BT",
    streaming=True,
    stand_ins=("prose/{split}-*",),
)
POSTS = HubData(
    "CarperAI/openai_summarize_tldr",
    "80e30a9d12e98de09639bc46ee50299b9e871d20",
    ("prompt", "label"),
    heldout="valid",
    streaming=True,
    stand_ins=("tldr/sft.{split}",),
)
SUMMARIES = HubData(
    "CarperAI/openai_summarize_comparisons",
    "a320fae2cd84f04610a1b57ac83c2a2f674b8bcd",
    ("prompt", "chosen", "rejected"),
    heldout="valid1",
    stand_ins=("tldr/comparisons.{split}",),
)
SST2 = HubData(
    "stanfordnlp/sst2",
    "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb",
    ("sentence", "label"),
    heldout="validation",
)
ALPACA = HubData(
    "tatsu-lab/alpaca",
    "dce01c9b08f87459cf36a430d809084718273017",
    ("instruction", "input", "output"),
    optional=("input",),
    stand_ins=("alpaca/alpaca_real",),
)
RM_STATIC = HubData(
    "Dahoas/rm-static",
    "64fd53cc91f7cb73b283a6e4f661205e277d23c9",
    ("prompt", "chosen", "rejected"),
    heldout="test",
    streaming=True,
    stand_ins=("instruction-preference/llamafactory_dpo_en_demo",),
)
PAIRWISE = HubData(
    "Dahoas/synthetic-instruct-gptj-pairwise",
    "9abadba52d78fbcbbfaea7363e091cdac1ef4178",
    ("prompt", "chosen", "rejected"),
    stand_ins=("instruction-preference/alpaca_eval_pairs.{split}",),
)

DOCUMENTS = Role(FINEWEB, common.document_key, common.document)
TLDR = {
    "documents": DOCUMENTS,
    "demonstrations": Role(POSTS, tldr.key, tldr.demonstration, was_cut=tldr.was_cut),
    "comparisons": Role(SUMMARIES, tldr.key, tldr.preference, was_cut=tldr.was_cut),
    "prompts": Role(POSTS, tldr.key, tldr.prompt, was_cut=tldr.was_cut),
}
SENTIMENT = {
    "documents": DOCUMENTS,
    "demonstrations": Role(SST2, sentiment.key, sentiment.demonstration),
    "labels": Role(SST2, sentiment.key, sentiment.labelled),
    "comparisons": Role(SST2, sentiment.key, sentiment.labelled, combine=sentiment.pairs),
    "prompts": Role(SST2, sentiment.key, sentiment.prompt),
}
ASSISTANT = {
    "documents": DOCUMENTS,
    "demonstrations": Role(ALPACA, instructions.alpaca_key, instructions.alpaca_demonstration),
    "comparisons": Role(RM_STATIC, instructions.last_turn, instructions.dialogue_comparison),
    "prompts": Role(ALPACA, instructions.alpaca_key, instructions.alpaca_prompt),
}
REQUEST = instructions.instruct_key
INSTRUCT = {
    "documents": DOCUMENTS,
    "demonstrations": Role(PAIRWISE, REQUEST, instructions.instruct_demonstration, reserve=True),
    "comparisons": Role(PAIRWISE, REQUEST, instructions.instruct_comparison, reserve=True),
    "prompts": Role(PAIRWISE, REQUEST, instructions.instruct_prompt, reserve=True),
}
TRACKS = {
    "tldr": Track("tldr", tldr.TEMPLATE, TLDR),
    "sentiment": Track("sentiment", sentiment.TEMPLATE, SENTIMENT),
    "assistant": Track("assistant", instructions.ASSISTANT, ASSISTANT),
    "instruct": Track("instruct", instructions.INSTRUCT, INSTRUCT),
}
